//! One client of the load: its connections, and how they are made ready. Whoever connects it
//! waits for the server's answer.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::check::{foreign, refusal};
use super::protocol::{Greeting, Protocol};
use super::topology::Topology;
use super::{ARRIVAL_TIMEOUT, Control, Error, TICK};

/// A connected client that the server knows.
#[derive(Debug)]
pub struct Client {
    /// What it sends on.
    pub output: Arc<TcpStream>,
    /// What it receives from: another connection for Redis, else the same.
    pub input: Arc<TcpStream>,
}

impl Client {
    /// Connects one client, and returns when the server knows it.
    ///
    /// # Errors
    ///
    /// Without a connection, or if the server does not answer as it should.
    pub fn connect(
        protocol: Protocol,
        address: SocketAddr,
        name: &str,
        subject: &str,
    ) -> Result<Self, Error> {
        let input = Arc::new(Self::subscribe(protocol, address, name, subject)?);
        let output = match protocol.second_greeting() {
            Some(greeting) => Arc::new(greet(address, &greeting)?),
            None => Arc::clone(&input),
        };
        Ok(Self { output, input })
    }

    /// Only what receives.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn subscribe(
        protocol: Protocol,
        address: SocketAddr,
        name: &str,
        subject: &str,
    ) -> Result<TcpStream, Error> {
        greet(address, &protocol.greeting(name, subject))
    }

    /// All clients of a topology, in order.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and if the load is told to stop.
    pub fn connect_all(
        protocol: Protocol,
        address: SocketAddr,
        topology: &Topology,
        control: &Control,
    ) -> Result<Vec<Self>, Error> {
        let groups = topology.routes.iter().filter(|route| route.to.len() > 1);
        let mut in_group = vec![false; topology.clients];
        groups.flat_map(|route| &route.to).for_each(|&client| in_group[client] = true);
        let connect = |(client, in_group)| {
            if control.is_stopped() {
                return Err(Error::Stopped);
            }
            let name = topology.name(client);
            Self::connect(protocol, address, &name, protocol.subject(&name, in_group))
        };
        in_group.into_iter().enumerate().map(connect).collect()
    }
}

/// A connection whose writes give up when the server takes nothing, and whose reads return now
/// and then without anything.
pub(super) fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let connect = || {
        let socket = TcpStream::connect_timeout(&address, ARRIVAL_TIMEOUT)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(ARRIVAL_TIMEOUT))?;
        Ok(socket)
    };
    connect().map_err(Error::Connect)
}

fn greet(address: SocketAddr, greeting: &Greeting) -> Result<TcpStream, Error> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(ARRIVAL_TIMEOUT)).map_err(Error::io("set a time-out"))?;
    // Should this fail, the server may have said why.
    let written = stream.write_all(greeting.says.as_bytes());
    let mut heard = Vec::new();
    while !heard.ends_with(greeting.hears.as_bytes()) {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(0) if heard.is_empty() => return Err(Error::Closed),
            Ok(0) => return Err(foreign(&heard)),
            Ok(count) => heard.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Error::Silent),
            Err(error) => return Err(Error::io("log in")(error)),
        }
        if let Some(refusal) = refusal(&heard) {
            return Err(refusal);
        }
        let is_line = heard.ends_with(b"\n") && !greeting.chatty;
        if is_line && !heard.ends_with(greeting.hears.as_bytes()) {
            return Err(foreign(&heard));
        }
    }
    written.map_err(Error::io("log in"))?;
    stream.set_read_timeout(Some(TICK)).map_err(Error::io("set a time-out"))?;
    Ok(stream)
}
