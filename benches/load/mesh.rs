//! The mesh: everybody sends to everybody, few messages at a time. Each sender may have
//! [`WINDOW`] messages that nobody has received yet.
//!
//! One thread does it all: it sends for whoever may send, then receives what is there.

use std::io::Write;
use std::time::{Duration, Instant};

use super::client::{Client, Inbox};
use super::process::Process;
use super::protocol::{Lines, Protocol, write_stamp};
use super::stream::{CHUNK, Readable};
use super::topology::Topology;

/// How many unreceived messages a sender may have.
pub const WINDOW: u32 = 256;

/// Connected clients.
#[derive(Debug)]
pub struct Mesh {
    clients: Vec<Client>,
    inboxes: Vec<Inbox>,
    readable: Readable,
    /// What each may still send before something of it is received.
    credits: Vec<u32>,
    /// The number of each sender's next message to each recipient.
    next: Vec<Vec<u32>>,
    /// A line to each recipient; for the floor, from each sender.
    lines: Vec<Lines>,
    /// The floor can not route: whatever a client sends goes to its neighbour.
    to_neighbour: bool,
    random: fastrand::Rng,
}

impl Mesh {
    /// Connects the first `count` clients of a topology.
    pub fn connect(
        protocol: Protocol,
        server: &Process,
        topology: &Topology,
        count: usize,
        size: usize,
    ) -> Self {
        let names: Vec<_> = (0..count).map(|client| topology.name(client)).collect();
        let connect = |name: &String| Client::connect(protocol, server.address, name, name);
        let clients: Vec<_> = names.iter().map(connect).collect();
        let frame = protocol.frame(&names[0], &names[0], size);
        let inbox = |client: &Client| Inbox::new(protocol, client, frame, count);
        let inboxes: Vec<_> = clients.iter().map(inbox).collect();
        Self {
            readable: Readable::of(inboxes.iter().map(Inbox::socket)),
            credits: vec![WINDOW; count],
            next: vec![vec![0; count]; count],
            lines: names.iter().map(|name| protocol.line(name, &[name], size)).collect(),
            to_neighbour: protocol == Protocol::Raw,
            random: fastrand::Rng::with_seed(7),
            clients,
            inboxes,
        }
    }

    /// Has that many messages sent; the time until the last of them has arrived.
    pub fn run(&mut self, messages: u64) -> Duration {
        let started = Instant::now();
        let (mut unsent, mut unreceived) = (messages, messages);
        let mut buffer = vec![0; CHUNK];
        let mut output = Vec::new();
        while unreceived > 0 {
            for sender in 0..self.clients.len() {
                // Half a window at least, as a client does that does not write for each message.
                if self.credits[sender] >= WINDOW / 2 && unsent > 0 {
                    let count = u64::from(self.credits[sender]).min(unsent);
                    self.send(sender, u32::try_from(count).expect("a window"), &mut output);
                    unsent -= count;
                }
            }
            for index in self.readable.wait() {
                self.inboxes[index].read(&mut buffer, |sender| {
                    self.credits[sender] += 1;
                    unreceived -= 1;
                });
            }
        }
        started.elapsed()
    }

    /// Sends `count` messages with one write, which the socket always has room for: there are
    /// never more than a window of them on their way.
    fn send(&mut self, sender: usize, count: u32, output: &mut Vec<u8>) {
        self.credits[sender] -= count;
        output.clear();
        for _ in 0..count {
            let recipient = if self.to_neighbour {
                (sender + 1) % self.clients.len()
            } else {
                self.random.usize(..self.clients.len())
            };
            let line = &self.lines[recipient];
            let stamp = output.len() + line.stamp;
            output.extend_from_slice(&line.bytes);
            let next = &mut self.next[sender][recipient];
            write_stamp(&mut output[stamp..], sender, *next);
            *next = next.wrapping_add(1);
        }
        (&self.clients[sender].output).write_all(output).expect("a server that reads");
    }
}
