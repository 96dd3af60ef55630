//! One client of the load: its connections and their handshakes. Runs on the thread that connects
//! it, which waits for the server's reply.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use super::check::{refusal, unexpected};
use super::protocol::{Handshake, Protocol};
use super::topology::{ROOM, Topology};
use super::{ARRIVAL_TIMEOUT, Control, Error, TICK};
use crate::socket::stream::Stream;
use crate::wire::endpoint::Endpoint;

/// A connected client, known to the server.
#[derive(Debug)]
pub struct Client {
    /// The connection it sends on.
    pub output: Arc<Stream>,
    /// The connection it receives on: a second one for Redis, otherwise the same.
    pub input: Arc<Stream>,
}

impl Client {
    /// Connects one client and returns once the server knows it.
    ///
    /// # Errors
    ///
    /// If the connection fails or the server replies with anything unexpected.
    pub fn connect(
        protocol: Protocol,
        address: &Endpoint,
        name: &str,
        subject: &str,
    ) -> Result<Self, Error> {
        let input = Arc::new(Self::subscribe(protocol, address, name, subject)?);
        let output = match protocol.sender_handshake() {
            Some(handshake) => Arc::new(perform_handshake(address, &handshake)?),
            None => Arc::clone(&input),
        };
        Ok(Self { output, input })
    }

    /// Opens the receiving connection only.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn subscribe(
        protocol: Protocol,
        address: &Endpoint,
        name: &str,
        subject: &str,
    ) -> Result<Stream, Error> {
        perform_handshake(address, &protocol.handshake(name, subject))
    }

    /// Connects all clients of a topology, in order.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and if the load is stopped.
    pub fn connect_all(
        protocol: Protocol,
        address: &Endpoint,
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
            let subject = if topology.is_room && protocol == Protocol::Chat {
                ROOM
            } else {
                protocol.subject(&name, in_group)
            };
            Self::connect(protocol, address, &name, subject)
        };
        in_group.into_iter().enumerate().map(connect).collect()
    }
}

/// A connection whose writes time out when the server reads nothing, and whose reads return
/// empty-handed every [`TICK`].
pub(super) fn connect(address: &Endpoint) -> Result<Stream, Error> {
    let connect = || {
        let socket = Stream::connect(address, ARRIVAL_TIMEOUT)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(ARRIVAL_TIMEOUT))?;
        Ok(socket)
    };
    connect().map_err(Error::Connect)
}

fn perform_handshake(address: &Endpoint, handshake: &Handshake) -> Result<Stream, Error> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(ARRIVAL_TIMEOUT)).map_err(Error::io("set a time-out"))?;
    // If this fails, the server's reply may say why.
    let written = stream.write_all(handshake.request.as_bytes());
    let mut reply = Vec::new();
    while !reply.ends_with(handshake.reply_end.as_bytes()) {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(0) if reply.is_empty() => return Err(Error::Closed),
            Ok(0) => return Err(unexpected(&reply)),
            Ok(count) => reply.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Error::LoginTimeout),
            Err(error) => return Err(Error::io("log in")(error)),
        }
        if let Some(refusal) = refusal(&reply) {
            return Err(refusal);
        }
        let is_line = reply.ends_with(b"\n") && !handshake.chatty;
        if is_line && !reply.ends_with(handshake.reply_end.as_bytes()) {
            return Err(unexpected(&reply));
        }
    }
    written.map_err(Error::io("log in"))?;
    stream.set_read_timeout(Some(TICK)).map_err(Error::io("set a time-out"))?;
    Ok(stream)
}
