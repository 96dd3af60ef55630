//! Open-loop load: a fixed rate of messages whether or not the server keeps up, and the latency of
//! each. Runs on the caller's thread alone: it sends whatever is due, then receives what has
//! arrived.
//!
//! A latency counts from when its message was due, not from when it was sent. A server that stalls
//! delays every message due meanwhile; measuring from the actual send would record one slow message
//! instead of many (coordinated omission).

use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::control::{Budget, Tally};
use super::inbox::{Inbox, counts, finish};
use super::link::{Link, Target, is_passing};
use super::protocol::{Lines, Protocol, read_time, write_stamp, write_time};
use super::readable::Readable;
use super::stream::{CHUNK, arrival_timeout, inboxes};
use super::topology::Topology;
use super::{Aborted, Amount, Control, Error, Latencies, Outcome, TICK, timed};

/// With this many unwritten bytes, no further messages are built; they stay due.
const MAX_UNWRITTEN: usize = 1 << 20;

/// How soon a full socket is retried.
const RETRY: Duration = Duration::from_millis(1);

/// When each message is due. Each time is computed from the start, so errors do not accumulate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Messages a second; without a rate, each is due immediately.
    rate: Option<f64>,
    started: Instant,
}

impl Schedule {
    pub(super) fn new(rate: Option<f64>, started: Instant) -> Self {
        Self { rate, started }
    }

    /// A message's due time after the start.
    fn due(&self, number: u64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let seconds = |rate: f64| number as f64 / rate;
        // A time beyond the representable range never comes.
        Some(Duration::try_from_secs_f64(seconds(self.rate?)).unwrap_or(Duration::MAX))
    }

    pub(super) fn intended(&self, number: u64) -> Option<Instant> {
        self.started.checked_add(self.due(number)?)
    }

    /// The remaining time until a message is due.
    pub(super) fn wait(&self, number: u64) -> Duration {
        self.due(number).map_or(Duration::ZERO, |due| due.saturating_sub(self.started.elapsed()))
    }
}

/// Connected clients.
#[derive(Debug)]
pub struct OpenLoop {
    senders: Vec<Sender>,
    inboxes: Vec<Inbox>,
    readable: Readable,
    /// The lines to send: one per recipient in a mesh, otherwise one per sender.
    lines: Vec<Lines>,
    /// Deliveries per message.
    recipients: u64,
    random: fastrand::Rng,
    /// Over all runs.
    pub latencies: Latencies,
}

#[derive(Debug)]
struct Sender {
    client: usize,
    socket: Arc<Link>,
    /// The lines it sends, one of them at random, and the number of each one's next message.
    targets: Vec<(u32, u32)>,
    unwritten: Vec<u8>,
}

impl Sender {
    fn is_writing(&self) -> bool {
        !self.unwritten.is_empty() || self.socket.has_pending()
    }
}

impl OpenLoop {
    /// Connects a topology's clients, each of which sends along its route or, in a `mesh`, to a
    /// random client each time. Texts are `size` bytes long, at least
    /// [`TIMED`](super::protocol::TIMED).
    ///
    /// # Errors
    ///
    /// As [`Client::connect_all`].
    pub fn connect(
        protocol: Protocol,
        target: &Target,
        topology: &Topology,
        mesh: bool,
        size: usize,
        control: &Control,
    ) -> Result<Self, Error> {
        let clients = Client::connect_all(protocol, target, topology, control)?;
        let names = topology.names();
        let lines: Vec<_> = if mesh {
            names.iter().map(|name| protocol.line(name, &[name], size)).collect()
        } else {
            let to = |to: &[usize]| to.iter().map(|&to| names[to].as_str()).collect::<Vec<_>>();
            let routes = topology.routes.iter();
            routes.map(|it| protocol.line(&names[it.from], &to(&it.to), size)).collect()
        };
        let sender = |(route, client): (u32, usize)| Sender {
            client,
            socket: Arc::clone(&clients[client].output),
            targets: if mesh {
                (0..).take(lines.len()).map(|line| (line, 0)).collect()
            } else {
                vec![(route, 0)]
            },
            unwritten: Vec::new(),
        };
        let senders = (0..).zip(topology.routes.iter().map(|route| route.from)).map(sender);
        let senders = senders.collect();
        let inboxes = if mesh {
            let frame = protocol.frame(&names[0], &names[0], size);
            let inbox = |client| Inbox::new(protocol, client, frame, 0..clients.len());
            clients.iter().map(inbox).collect()
        } else {
            inboxes(protocol, &clients, topology, size)
        };
        Ok(Self {
            readable: Readable::of(inboxes.iter().map(Inbox::socket))?,
            recipients: if mesh { 1 } else { topology.routes[0].to.len() as u64 },
            random: fastrand::Rng::with_seed(7),
            latencies: Latencies::default(),
            senders,
            inboxes,
            lines,
        })
    }

    /// Sends this amount at `rate` messages a second in total, and waits until all of it has
    /// arrived.
    ///
    /// # Errors
    ///
    /// If the server ends a connection, refuses a message or sends anything unexpected.
    pub fn run(
        &mut self,
        amount: Amount,
        rate: f64,
        control: &Control,
    ) -> Result<Outcome, Aborted> {
        // Otherwise the kernel may wake it 50 us late, which would count towards every latency. If
        // it refuses, that is what happens.
        let _ = rustix::thread::set_current_timer_slack(NonZero::new(1));
        let (before, mut tally) = (counts(&self.inboxes), Tally::start());
        let ended = self.exchange(amount, rate, control, &mut tally);
        timed(finish(ended, &mut self.inboxes, before, &tally), &self.latencies)
    }

    fn exchange(
        &mut self,
        amount: Amount,
        rate: f64,
        control: &Control,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let mut budget = Budget::new(amount, control);
        let mut buffer = vec![0; CHUNK];
        let started = tally.started();
        let schedule = Schedule::new(Some(rate), started);
        let (mut settled, mut received) = (0, 0);
        while received < tally.owed || !budget.is_spent() {
            while self.backlog() < MAX_UNWRITTEN
                && schedule.wait(tally.sent).is_zero()
                && budget.take(1) > 0
            {
                self.build(tally.sent, schedule.due(tally.sent).unwrap_or_default());
                tally.sent += 1;
                tally.owed += self.recipients;
            }
            self.write()?;
            let next = if budget.is_spent() { TICK } else { schedule.wait(tally.sent).min(TICK) };
            let is_writing = self.senders.iter().any(Sender::is_writing);
            let time = if is_writing { RETRY } else { next };
            let before = received;
            let latencies = &mut self.latencies;
            for place in self.readable.wait_for(Some(time))? {
                self.inboxes[place].read(&mut buffer, |arrival| {
                    let due = read_time(arrival.text).map_or(Duration::ZERO, Duration::from_nanos);
                    latencies.add(started.elapsed().saturating_sub(due));
                    settled += u64::from(arrival.advance);
                    received += 1;
                })?;
            }
            if received > before || settled >= tally.owed && !budget.is_spent() {
                tally.ended = Instant::now();
                control.report_received(received);
            } else if tally.ended.elapsed() >= arrival_timeout(settled >= tally.owed) {
                break;
            }
        }
        Ok(())
    }

    /// Bytes not yet accepted by any socket.
    fn backlog(&self) -> usize {
        self.senders.iter().map(|sender| sender.unwritten.len()).sum()
    }

    /// Builds the message that was due this long after the start.
    fn build(&mut self, number: u64, due: Duration) {
        let senders = self.senders.len() as u64;
        let place = usize::try_from(number % senders).expect("a place");
        let sender = &mut self.senders[place];
        let target = self.random.usize(..sender.targets.len());
        let (line, next) = &mut sender.targets[target];
        let line = &self.lines[*line as usize];
        let stamp = sender.unwritten.len() + line.stamp;
        sender.unwritten.extend_from_slice(&line.bytes);
        let text = &mut sender.unwritten[stamp..];
        write_stamp(text, sender.client, *next);
        write_time(text, u64::try_from(due.as_nanos()).unwrap_or(u64::MAX));
        *next = next.wrapping_add(1);
    }

    /// Writes as much as the sockets accept now.
    fn write(&mut self) -> Result<(), Error> {
        for sender in self.senders.iter_mut().filter(|sender| sender.is_writing()) {
            match sender.socket.send(&sender.unwritten) {
                Ok(count) => drop(sender.unwritten.drain(..count)),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(Error::io("send")(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_does_not_drift() {
        let schedule = Schedule::new(Some(3.0), Instant::now());
        assert_eq!(schedule.due(0), Some(Duration::ZERO));
        assert_eq!(schedule.due(3_000_000_000), Some(Duration::from_secs(1_000_000_000)));
        assert_eq!(Schedule::new(Some(1e-300), Instant::now()).due(1), Some(Duration::MAX));
        assert!(schedule.wait(3_000_000) > Duration::from_secs(900_000));
        assert_eq!(Schedule::new(None, Instant::now()).wait(7), Duration::ZERO);
    }
}
