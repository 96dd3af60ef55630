//! One message in flight: it is sent, it arrives, and only then the next one is sent.

use std::io::Write;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::client::{Client, Inbox};
use super::process::Process;
use super::protocol::{Lines, Protocol};
use super::topology::Topology;

/// Two clients and what was measured between them so far.
#[derive(Debug)]
pub struct PingPong {
    from: Client,
    sender: usize,
    inbox: Inbox,
    line: Lines,
    next: u32,
    /// In nanoseconds.
    pub times: Histogram<u64>,
}

impl PingPong {
    /// The last two clients of a topology, of which one sends to the other.
    pub fn connect(protocol: Protocol, server: &Process, topology: &Topology, size: usize) -> Self {
        let (sender, recipient) = (topology.clients - 2, topology.clients - 1);
        let names = [topology.name(sender), topology.name(recipient)];
        let [from, to] = names.each_ref();
        let connect = |name: &str| Client::connect(protocol, server.address, name, name);
        let sends = connect(from);
        let receives = connect(to);
        let frame = protocol.frame(from, to, size);
        Self {
            from: sends,
            sender,
            inbox: Inbox::new(protocol, &receives, frame, topology.clients),
            line: protocol.line(from, &[to], size),
            next: 0,
            times: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds"),
        }
    }

    /// Sends that many messages one by one; the time that takes.
    pub fn run(&mut self, messages: u64) -> Duration {
        let mut buffer = vec![0; 4096];
        let begun = Instant::now();
        let mut started = begun;
        for _ in 0..messages {
            self.line.number(self.sender, self.next);
            self.next = self.next.wrapping_add(1);
            (&self.from.output).write_all(&self.line.bytes).expect("a server that reads");
            let mut arrived = false;
            while !arrived {
                self.inbox.read(&mut buffer, |_| arrived = true);
            }
            let now = Instant::now();
            let nanoseconds = (now - started).as_nanos();
            self.times.saturating_record(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            started = now;
        }
        begun.elapsed()
    }
}
