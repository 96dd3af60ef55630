//! The mesh: every client sends to every other. Each sender may have [`WINDOW`] unreceived messages;
//! [`Writes`] says when it writes.
//!
//! Runs on the caller's thread alone: it sends for each client that may send, then receives what
//! has arrived.

use std::io::Write;
use std::time::Instant;

use super::client::Client;
use super::control::{Budget, Tally};
use super::inbox::{Inbox, counts, finish};
use super::link::Target;
use super::protocol::{Lines, Protocol, write_stamp};
use super::readable::Readable;
use super::stream::{CHUNK, arrival_timeout};
use super::topology::Topology;
use super::{Aborted, Amount, Control, Error, Outcome};

/// Maximum unreceived messages per sender.
pub const WINDOW: u32 = 256;

/// Approximate maximum of their bytes. A server whose window per client is at least this large
/// always has room for them, so the only thread never blocks in a write.
const WINDOW_BYTES: usize = 64 * 1024;

/// When a sender writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// When half of its window is free: many messages with one write.
    HalfWindow,
    /// As soon as anything of its window is free: everything that became free when the load last read
    /// what had arrived. In a mesh that is a few messages, unless the server hands over many at once.
    AtOnce,
}

/// Connected clients.
#[derive(Debug)]
pub struct Mesh {
    clients: Vec<Client>,
    inboxes: Vec<Inbox>,
    readable: Readable,
    window: u32,
    writes: Writes,
    /// How many messages each sender may still send.
    credits: Vec<u32>,
    /// The number of each sender's next message to each recipient.
    next: Vec<Vec<u32>>,
    /// A line to each recipient; for the baseline, from each sender.
    lines: Vec<Lines>,
    /// The baseline cannot route: everything a client sends goes to its neighbour.
    to_neighbour: bool,
    random: fastrand::Rng,
}

impl Mesh {
    /// Connects the first `count` clients of a topology.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`], and if the load is stopped.
    pub fn connect(
        protocol: Protocol,
        target: &Target,
        topology: &Topology,
        count: usize,
        size: usize,
        writes: Writes,
        control: &Control,
    ) -> Result<Self, Error> {
        let names: Vec<_> = (0..count).map(|client| topology.name(client)).collect();
        let connect = |(client, name): (usize, &String)| {
            let server = topology.server(target, client);
            let connect = || Client::connect(protocol, server, name, name);
            if control.is_stopped() { Err(Error::Stopped) } else { connect() }
        };
        let clients: Vec<_> = names.iter().enumerate().map(connect).collect::<Result<_, _>>()?;
        let frame = protocol.frame(&names[0], &names[0], size);
        let inbox = |client: &Client| Inbox::new(protocol, client, frame, 0..count);
        let inboxes: Vec<_> = clients.iter().map(inbox).collect();
        let window = u32::try_from(WINDOW_BYTES / frame.stride).unwrap_or(WINDOW).clamp(2, WINDOW);
        Ok(Self {
            readable: Readable::of(inboxes.iter().map(Inbox::socket))?,
            window,
            writes,
            credits: vec![window; count],
            next: vec![vec![0; count]; count],
            lines: names.iter().map(|name| protocol.line(name, &[name], size)).collect(),
            to_neighbour: protocol == Protocol::Raw,
            random: fastrand::Rng::with_seed(7),
            clients,
            inboxes,
        })
    }

    /// Sends this amount and waits until all of it has arrived.
    ///
    /// # Errors
    ///
    /// If the server ends a connection, refuses a message or sends anything unexpected.
    pub fn run(&mut self, amount: Amount, control: &Control) -> Result<Outcome, Aborted> {
        let (before, mut tally) = (counts(&self.inboxes), Tally::start());
        let ended = self.exchange(amount, control, &mut tally);
        finish(ended, &mut self.inboxes, before, &tally)
    }

    fn exchange(
        &mut self,
        amount: Amount,
        control: &Control,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let mut budget = Budget::new(amount, control);
        let mut buffer = vec![0; CHUNK];
        let (mut output, mut readable) = (Vec::new(), Vec::new());
        let (mut settled, mut received) = (0, 0);
        while received < tally.sent || !budget.is_spent() {
            for sender in 0..self.clients.len() {
                self.send_for(sender, &mut budget, tally, &mut output)?;
            }
            let before = received;
            readable.extend(self.readable.wait()?);
            for place in readable.drain(..) {
                self.inboxes[place].read(&mut buffer, |arrival| {
                    self.credits[arrival.sender] += arrival.advance;
                    settled += u64::from(arrival.advance);
                    received += 1;
                })?;
            }
            if received > before {
                tally.ended = Instant::now();
                control.report_received(received);
            } else if tally.ended.elapsed() >= arrival_timeout(settled >= tally.sent) {
                break;
            }
        }
        Ok(())
    }

    /// Sends what a client may send now, if that is enough to be written.
    fn send_for(
        &mut self,
        sender: usize,
        budget: &mut Budget<'_>,
        tally: &mut Tally,
        output: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let credits = self.credits[sender];
        let min = match self.writes {
            Writes::HalfWindow => self.window / 2,
            Writes::AtOnce => 1,
        };
        let count = if credits >= min { budget.take(credits.into()) } else { 0 };
        if count > 0 {
            self.send(sender, u32::try_from(count).expect("a window"), output)?;
            (tally.sent, tally.owed) = (tally.sent + count, tally.owed + count);
        }
        Ok(())
    }

    /// Sends `count` messages with one write, for which the socket always has room: at most a
    /// window of them is queued.
    fn send(&mut self, sender: usize, count: u32, output: &mut Vec<u8>) -> Result<(), Error> {
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
        (&*self.clients[sender].output).write_all(output).map_err(Error::io("send"))
    }
}
