//! Many clients that see a server shut down.

use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::io::Write;
use std::time::{Duration, Instant};

use a_chat::load::check::{Counts, SequenceChecker};
use a_chat::load::client::Client;
use a_chat::load::process::Process;
use a_chat::load::protocol::Protocol;
use a_chat::load::readable::Readable;
use a_chat::load::stream::CHUNK;
use a_chat::load::topology::Topology;
use a_chat::load::{ARRIVAL_TIMEOUT, Control, logins};
use rustix::net::RecvFlags;

use super::servers;

/// Clients that read nothing until the server shuts down.
#[derive(Debug)]
pub struct Crowd {
    protocol: Protocol,
    topology: Topology,
    clients: Vec<Client>,
    size: usize,
}

impl Crowd {
    pub fn connect(protocol: Protocol, server: &Process, count: usize, size: usize) -> Self {
        let topology = Topology::ring(count, count);
        let clients = Client::connect_all(
            protocol,
            &server.address.clone().into(),
            &topology,
            &Control::default(),
        );
        let clients = clients.expect("logins");
        Self { protocol, topology, clients, size }
    }

    /// Each client sends that many messages to the next one, all of which stay unread.
    pub fn send_to_neighbours(&mut self, messages: usize) {
        for client in 0..self.clients.len() {
            let name = self.topology.name(client);
            let to = self.topology.name((client + 1) % self.clients.len());
            let line = self.protocol.line(&name, &[&to], self.size);
            let mut lines = line.repeat(messages);
            lines.number(client, 0);
            let mut output = &*self.clients[client].output;
            output.write_all(&lines.bytes).expect("room for unread messages");
        }
    }

    /// Shuts the server down, reads everything it still sends, and closes each connection when the
    /// server does; returns the time until the server exits. Each client must receive in order what
    /// its neighbour's closing notice says was accepted, or from a baseline that many messages'
    /// bytes.
    pub fn drain(mut self, mut server: Process, each: usize) -> Duration {
        let mut said = vec![Vec::new(); self.clients.len()];
        let clients = std::mem::take(&mut self.clients);
        let mut readable = Readable::of(clients.iter().map(|client| &*client.input)).expect("room");
        let mut clients: Vec<_> = clients.into_iter().map(Some).collect();
        let mut buffer = vec![0; CHUNK];
        let mut open = clients.len();
        let started = Instant::now();
        server.stop();
        let mut heard = started;
        while open > 0 {
            assert!(heard.elapsed() < ARRIVAL_TIMEOUT, "nothing came for {ARRIVAL_TIMEOUT:?}");
            for place in readable.wait().expect("sockets") {
                heard = Instant::now();
                let Some(client) = &clients[place] else { continue };
                match client.input.recv(&mut buffer, RecvFlags::DONTWAIT) {
                    Ok(0) => {
                        clients[place] = None;
                        open -= 1;
                    }
                    Ok(count) => said[place].extend_from_slice(&buffer[..count]),
                    Err(error) if [Interrupted, WouldBlock].contains(&error.kind()) => {}
                    Err(error) => panic!("no clean end: {error}"),
                }
            }
        }
        servers::wait(server);
        let elapsed = started.elapsed();
        self.check(&said, each);
        elapsed
    }

    fn check(&self, said: &[Vec<u8>], each: usize) {
        if self.protocol == Protocol::Raw {
            let frame = logins::frame(self.protocol, &self.topology, self.size);
            assert!(said.iter().all(|bytes| bytes.len() == each * frame));
            return;
        }
        let name = self.topology.name(0);
        let frame = self.protocol.frame(&name, &name, self.size);
        let parts = said.iter().map(|bytes| {
            // Texts are stamps and filling, so the notice starts at the first such word.
            let messages = bytes.windows(8).position(|bytes| bytes == b"notice: ");
            let (messages, notice) = bytes.split_at(messages.unwrap_or(bytes.len()));
            let mut check = SequenceChecker::new(self.protocol, frame, 0..said.len());
            let partial = check.walk(messages, |_| {}).expect("messages");
            let Counts { received, missing, reordered, repeated } = check.counts;
            assert_eq!((missing, reordered, repeated), (0, 0, 0));
            assert!(partial.is_empty(), "half a message: {:?}", String::from_utf8_lossy(partial));
            let accepted = accepted(notice);
            let text = String::from_utf8_lossy(notice);
            (received, accepted.unwrap_or_else(|| panic!("no closing notice: {text:?}")))
        });
        let (received, accepted): (Vec<u64>, Vec<u64>) = parts.unzip();
        for (sender, accepted) in accepted.iter().enumerate() {
            // The first accepted line was the login's query.
            let neighbours = received[(sender + 1) % received.len()];
            assert_eq!(neighbours + 1, *accepted, "accepted but not delivered");
        }
    }
}

/// The number in a closing notice.
pub fn accepted(notice: &[u8]) -> Option<u64> {
    let words = std::str::from_utf8(notice).ok()?;
    let words = words.strip_prefix("notice: server is shutting down, ")?;
    words.split(' ').next()?.parse().ok()
}
