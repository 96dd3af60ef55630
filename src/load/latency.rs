//! One message in flight: the next one is sent only when the last one has arrived. Runs on the
//! caller's thread alone.

use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::io::{Read, Write};
use std::time::Instant;

use super::check::unexpected;
use super::client::Client;
use super::control::{Budget, Tally};
use super::inbox::{Inbox, counts, finish};
use super::link::Target;
use super::protocol::{Lines, Protocol};
use super::topology::Topology;
use super::{ARRIVAL_TIMEOUT, Aborted, Amount, Control, Error, Latencies, Outcome};

/// The line that asks for a confirmation, and the end of the reply.
const SYNC: &[u8] = b"/sync\n";
const RECEIPT: &[u8] = b": everything before it is delivered\n";

/// Two clients and the latencies measured between them.
#[derive(Debug)]
pub struct PingPong {
    from: Client,
    sender: usize,
    /// The recipient's inbox, then the sender's.
    inboxes: [Inbox; 2],
    line: Lines,
    next: u32,
    /// Whether each message is followed by a `/sync`, whose reply ends its time.
    confirmed: bool,
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
        target: &Target,
        topology: &Topology,
        size: usize,
    ) -> Result<Self, Error> {
        let (sender, recipient) = (topology.clients - 2, topology.clients - 1);
        let names = [topology.name(sender), topology.name(recipient)];
        let [from, to] = names.each_ref();
        let connect = |client: usize, name: &str| {
            Client::connect(protocol, topology.server(target, client), name, name)
        };
        let sends = connect(sender, from)?;
        let receives = connect(recipient, to)?;
        let frame = protocol.frame(from, to, size);
        let inboxes = [
            Inbox::new(protocol, &receives, frame, sender..sender + 1),
            Inbox::new(protocol, &sends, frame, 0..0),
        ];
        let line = protocol.line(from, &[to], size);
        Ok(Self {
            from: sends,
            sender,
            inboxes,
            line,
            next: 0,
            confirmed: false,
            latencies: Latencies::default(),
        })
    }

    /// Measures up to the confirmation of each message, by a `/sync` that is sent with it.
    #[must_use]
    pub fn confirmed(self, confirmed: bool) -> Self {
        Self { confirmed, ..self }
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
        let sync = if self.confirmed { SYNC } else { &[] };
        let bytes = [&self.line.bytes, sync].concat();
        (&*self.from.output).write_all(&bytes).map_err(Error::io("send"))?;
        let mut arrived = false;
        loop {
            self.inboxes[0].read(buffer, |_| arrived = true)?;
            if arrived && self.confirmed && !self.await_receipt(started)? {
                return Ok(None);
            }
            let now = Instant::now();
            if arrived {
                self.latencies.add(now - started);
                return Ok(Some(now));
            }
            if !self.confirmed {
                self.inboxes[1].check_quiet(buffer)?;
            }
            if now - started >= ARRIVAL_TIMEOUT {
                return Ok(None);
            }
        }
    }

    /// Waits for the reply to a `/sync`; false if it did not come.
    fn await_receipt(&self, started: Instant) -> Result<bool, Error> {
        let (mut reply, mut chunk) = (Vec::new(), [0; 256]);
        while !reply.ends_with(b"\n") {
            match (&*self.from.input).read(&mut chunk) {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => reply.extend_from_slice(&chunk[..count]),
                Err(error) if [WouldBlock, Interrupted].contains(&error.kind()) => {}
                Err(error) => return Err(Error::io("receive")(error)),
            }
            if started.elapsed() >= ARRIVAL_TIMEOUT {
                return Ok(false);
            }
        }
        if reply.ends_with(RECEIPT) { Ok(true) } else { Err(unexpected(&reply)) }
    }
}
