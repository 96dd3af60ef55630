//! One message in flight: the next one is sent only when the last one has arrived. Runs on the
//! caller's thread alone.

use std::io::Write;
use std::time::Instant;

use super::client::Client;
use super::control::{Budget, Tally};
use super::inbox::{Inbox, counts, finish};
use super::protocol::{Lines, Protocol};
use super::topology::Topology;
use super::{ARRIVAL_TIMEOUT, Aborted, Amount, Control, Error, Latencies, Outcome};
use crate::wire::endpoint::Endpoint;

/// Two clients and the latencies measured between them.
#[derive(Debug)]
pub struct PingPong {
    from: Client,
    sender: usize,
    /// The recipient's inbox, then the sender's.
    inboxes: [Inbox; 2],
    line: Lines,
    next: u32,
    /// Over all runs.
    pub latencies: Latencies,
}

impl PingPong {
    /// Connects the last two clients of a topology, the first of which sends to the second.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub fn connect(
        protocol: Protocol,
        address: &Endpoint,
        topology: &Topology,
        size: usize,
    ) -> Result<Self, Error> {
        let (sender, recipient) = (topology.clients - 2, topology.clients - 1);
        let names = [topology.name(sender), topology.name(recipient)];
        let [from, to] = names.each_ref();
        let connect = |name: &str| Client::connect(protocol, address, name, name);
        let sends = connect(from)?;
        let receives = connect(to)?;
        let frame = protocol.frame(from, to, size);
        let inboxes = [
            Inbox::new(protocol, &receives, frame, sender..sender + 1),
            Inbox::new(protocol, &sends, frame, 0..0),
        ];
        let line = protocol.line(from, &[to], size);
        Ok(Self { from: sends, sender, inboxes, line, next: 0, latencies: Latencies::default() })
    }

    /// Sends this amount, one message at a time.
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
        let mut buffer = vec![0; self.inboxes[0].min_buffer()];
        while budget.take(1) > 0 {
            (tally.sent, tally.owed) = (tally.sent + 1, tally.owed + 1);
            match self.send_one(tally.ended, &mut buffer)? {
                Some(now) => tally.ended = now,
                None => break,
            }
            control.report_received(tally.sent);
        }
        Ok(())
    }

    /// Sends one message; returns when it arrived, or `None` if it did not.
    fn send_one(&mut self, started: Instant, buffer: &mut [u8]) -> Result<Option<Instant>, Error> {
        self.line.number(self.sender, self.next);
        self.next = self.next.wrapping_add(1);
        (&*self.from.output).write_all(&self.line.bytes).map_err(Error::io("send"))?;
        let mut arrived = false;
        loop {
            self.inboxes[0].read(buffer, |_| arrived = true)?;
            let now = Instant::now();
            if arrived {
                self.latencies.add(now - started);
                return Ok(Some(now));
            }
            self.inboxes[1].check_quiet(buffer)?;
            if now - started >= ARRIVAL_TIMEOUT {
                return Ok(None);
            }
        }
    }
}
