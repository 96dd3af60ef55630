//! One client of the load: its connections and their handshakes. Runs on the thread that connects
//! it, which waits for the server's reply.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use super::check::{refusal, unexpected};
use super::link::{Link, Target, is_passing};
use super::protocol::{Handshake, Protocol};
use super::topology::{ROOM, Topology};
use super::{ARRIVAL_TIMEOUT, Control, Error, TICK};

/// A connected client, known to the server.
#[derive(Debug)]
pub struct Client {
    /// The connection it sends on.
    pub output: Arc<Link>,
    /// The connection it receives on: a second one for Redis, otherwise the same.
    pub input: Arc<Link>,
}

impl Client {
    /// Connects one client and returns once the server knows it.
    ///
    /// # Errors
    ///
    /// If the connection fails or the server replies with anything unexpected.
    pub fn connect(
        protocol: Protocol,
        target: &Target,
        name: &str,
        subject: &str,
    ) -> Result<Self, Error> {
        let input = Arc::new(Self::subscribe(protocol, target, name, subject)?);
        let output = match protocol.sender_handshake() {
            Some(handshake) => Arc::new(perform_handshake(target, &handshake)?),
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
        target: &Target,
        name: &str,
        subject: &str,
    ) -> Result<Link, Error> {
        perform_handshake(target, &protocol.handshake(name, subject))
    }

    /// Connects all clients of a topology, in order.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and if the load is stopped.
    pub fn connect_all(
        protocol: Protocol,
        target: &Target,
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
            Self::connect(protocol, topology.server(target, client), &name, subject)
        };
        in_group.into_iter().enumerate().map(connect).collect()
    }
}

/// A connection whose writes time out when the server reads nothing, and whose reads return
/// empty-handed every [`TICK`].
pub(super) fn connect(target: &Target) -> Result<Link, Error> {
    let connect = || {
        let link = Link::connect(target, ARRIVAL_TIMEOUT)?;
        link.set_read_timeout(Some(TICK))?;
        link.set_write_timeout(Some(ARRIVAL_TIMEOUT))?;
        Ok(link)
    };
    connect().map_err(Error::Connect)
}

fn perform_handshake(target: &Target, handshake: &Handshake) -> Result<Link, Error> {
    let link = connect(target)?;
    let (mut stream, started) = (&link, Instant::now());
    stream.set_read_timeout(Some(ARRIVAL_TIMEOUT)).map_err(Error::io("set a timeout"))?;
    // If this fails, the server's reply may say why.
    let written = stream.write_all(handshake.request.as_bytes());
    let mut reply = Vec::new();
    while !reply.ends_with(handshake.reply_end.as_bytes()) {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(0) if reply.is_empty() => return Err(Error::Closed),
            Ok(0) => return Err(unexpected(&reply)),
            Ok(count) => reply.extend_from_slice(&chunk[..count]),
            Err(error) if is_passing(&error) && started.elapsed() < ARRIVAL_TIMEOUT => {}
            Err(error) if is_passing(&error) => return Err(Error::LoginTimeout),
            Err(error) => return Err(Error::login(error)),
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
    stream.set_read_timeout(Some(TICK)).map_err(Error::io("set a timeout"))?;
    Ok(link)
}
