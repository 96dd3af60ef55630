//! Many clients at a server's beginning and end: they log in at once, or see it stop.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use super::PATIENCE;
use super::client::{Check, Client};
use super::process::Process;
use super::protocol::{Protocol, STAMP};
use super::stream::{CHUNK, Readable};
use super::topology::Topology;

/// Connects `count` clients which send their names and a message to themselves at once, then
/// waits for all these messages; the time that takes.
pub fn log_in(
    protocol: Protocol,
    address: SocketAddr,
    count: usize,
    clients: &mut Vec<TcpStream>,
) -> Duration {
    let topology = Topology::ring(count, count);
    let names: Vec<_> = (0..count).map(|client| topology.name(client)).collect();
    let hello = |name: &String| {
        let line = protocol.line(name, &[name], STAMP).bytes;
        let login = if protocol == Protocol::Chat { format!("{name}\n") } else { String::new() };
        [login.as_bytes(), &line].concat()
    };
    let hellos: Vec<_> = names.iter().map(hello).collect();
    let started = Instant::now();
    for hello in &hellos {
        let mut client = TcpStream::connect(address).expect("a server that accepts");
        client.write_all(hello).expect("a server that reads");
        clients.push(client);
    }
    let frame = protocol.frame(&names[0], &names[0], STAMP);
    let mut echo = vec![0; frame.stride];
    for (client, name) in clients.iter_mut().zip(&names) {
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.read_exact(&mut echo).expect("what the client has sent to itself");
        assert!(echo.starts_with(format!("from {name}: ").as_bytes()), "{name} got another's");
    }
    started.elapsed()
}

/// How long a frame is, in bytes.
pub fn frame(protocol: Protocol, clients: usize, size: usize) -> usize {
    let name = Topology::ring(clients, clients).name(0);
    protocol.frame(&name, &name, size).stride
}

/// Clients that read nothing until the server stops.
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
        let clients = Client::connect_all(protocol, server.address, &topology);
        Self { protocol, topology, clients, size }
    }

    /// Each sends that many messages to the next, none of which is read.
    pub fn send_to_neighbours(&mut self, messages: usize) {
        for client in 0..self.clients.len() {
            let name = self.topology.name(client);
            let to = self.topology.name((client + 1) % self.clients.len());
            let line = self.protocol.line(&name, &[&to], self.size);
            let mut lines = line.times(messages);
            lines.number(client, 0);
            let mut output = &self.clients[client].output;
            output.write_all(&lines.bytes).expect("room for what nobody reads");
        }
    }

    /// Stops the server, reads what it still says, and closes when it does; the time until it has
    /// ended. Each client must get what the server says to have accepted from its neighbour, in
    /// order, or from a floor that many messages' bytes.
    pub fn drain(mut self, mut server: Process, each: usize) -> Duration {
        let mut said = vec![Vec::new(); self.clients.len()];
        let clients = std::mem::take(&mut self.clients);
        let mut readable = Readable::of(clients.iter().map(|client| &client.input));
        let mut clients: Vec<_> = clients.into_iter().map(Some).collect();
        let mut buffer = vec![0; CHUNK];
        let mut open = clients.len();
        let started = Instant::now();
        server.stop();
        while open > 0 {
            for place in readable.wait() {
                let Some(client) = &clients[place] else { continue };
                let received = recv(&client.input, &mut buffer[..], RecvFlags::DONTWAIT);
                match received {
                    Ok((0, _)) => {
                        clients[place] = None;
                        open -= 1;
                    }
                    Ok((count, _)) => said[place].extend_from_slice(&buffer[..count]),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(error) => panic!("no clean end: {error}"),
                }
            }
        }
        server.wait();
        let elapsed = started.elapsed();
        self.check(&said, each);
        elapsed
    }

    fn check(&self, said: &[Vec<u8>], each: usize) {
        let name = self.topology.name(0);
        let frame = self.protocol.frame(&name, &name, self.size);
        if self.protocol == Protocol::Raw {
            assert!(said.iter().all(|bytes| bytes.len() == each * frame.stride));
            return;
        }
        let parts = said.iter().map(|bytes| {
            // Texts are stamps and filling, so that the notice begins at the first such word.
            let messages = bytes.windows(8).position(|bytes| bytes == b"notice: ");
            let (messages, notice) = bytes.split_at(messages.unwrap_or(bytes.len()));
            let mut received = 0;
            let mut check = Check::new(self.protocol, frame, said.len());
            let torn = check.walk(messages, |_| received += 1);
            assert!(torn.is_empty(), "half a message: {:?}", String::from_utf8_lossy(torn));
            (received, accepted(notice))
        });
        let (received, accepted): (Vec<u64>, Vec<u64>) = parts.unzip();
        for (sender, accepted) in accepted.iter().enumerate() {
            // The first accepted line was the question whether the login has worked.
            let neighbours = received[(sender + 1) % received.len()];
            assert_eq!(neighbours + 1, *accepted, "accepted but not delivered");
        }
    }
}

/// How many lines the closing notice says were accepted.
fn accepted(notice: &[u8]) -> u64 {
    let notice = std::str::from_utf8(notice).expect("text");
    let words = notice.strip_prefix("notice: server is shutting down, ");
    let number = words.and_then(|words| words.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no closing notice: {notice:?}"))
}
