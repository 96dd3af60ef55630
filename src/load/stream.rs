//! Saturation: every sender sends as much as the server accepts, and every message is checked.
//!
//! One thread sends and one receives, however many clients there are, because every further thread
//! would take CPU time from the server. Writes are prepared batches that only get new numbers.

use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::client::Client;
use super::control::Tally;
use super::inbox::{Inbox, counts, finish};
use super::link::Target;
use super::protocol::{Lines, Protocol};
use super::readable::Readable;
use super::sending::{Outbox, Progress, send_all, sent, sent_deliveries};
use super::topology::{ROOM, Route, Topology};
use super::{ARRIVAL_TIMEOUT, Aborted, Amount, Control, Error, Outcome, REORDER_TIMEOUT};

/// Approximate bytes that a batch delivers to each recipient.
const BATCH: usize = 64 * 1024;

/// The same if everyone sends to everyone: what is in flight grows with the square of the clients.
const ROOM_BATCH: usize = 4 * 1024;

/// Maximum batches per sender that have not been received. This keeps a server with unbounded
/// queues from being measured by how much it can queue.
const MAX_BATCHES_IN_FLIGHT: u64 = 8;

/// Size of a read, in bytes.
pub const CHUNK: usize = 256 * 1024;

/// Connected clients and their prepared batches.
#[derive(Debug)]
pub struct Stream {
    outboxes: Vec<Outbox>,
    /// The inboxes of all clients, because the server may send an error to any of them.
    inboxes: Vec<Inbox>,
    readable: Readable,
    /// Maximum deliveries in flight.
    limit: u64,
}

impl Stream {
    /// Connects a topology's clients; texts are `size` bytes long.
    ///
    /// # Errors
    ///
    /// As [`Client::connect_all`].
    pub fn connect(
        protocol: Protocol,
        target: &Target,
        topology: &Topology,
        size: usize,
        control: &Control,
    ) -> Result<Self, Error> {
        let clients = Client::connect_all(protocol, target, topology, control)?;
        let names = topology.names();
        let outbox = |route: &Route| {
            let line = line(protocol, topology, &names, route, size);
            let messages = batch_messages(topology, size);
            let recipients = route.to.len();
            Outbox::new(route.from, &clients[route.from].output, line, messages, recipients)
        };
        let inboxes = inboxes(protocol, &clients, topology, size);
        Ok(Self {
            limit: MAX_BATCHES_IN_FLIGHT * deliveries(topology, size),
            readable: Readable::of(inboxes.iter().map(Inbox::socket))?,
            outboxes: topology.routes.iter().map(outbox).collect(),
            inboxes,
        })
    }

    /// Sends this amount and waits until all of it has arrived.
    ///
    /// # Errors
    ///
    /// If the server ends a connection, refuses a message or sends anything unexpected.
    ///
    /// # Panics
    ///
    /// If no thread can be spawned.
    pub fn run(&mut self, amount: Amount, control: &Control) -> Result<Outcome, Aborted> {
        let Self { outboxes, inboxes, readable, limit } = self;
        let before = (counts(inboxes), sent(outboxes), sent_deliveries(outboxes));
        let progress = Progress::default();
        let mut tally = Tally::start();
        let ended = thread::scope(|scope| {
            let sending = || {
                let owed = send_all(outboxes, amount, control, &progress, *limit);
                progress.sending_is_over(owed.as_ref().ok().copied());
                owed.map(drop)
            };
            let sender = thread::Builder::new().name("sending".to_owned());
            let sender = sender.spawn_scoped(scope, sending).expect("a thread");
            let received = receive_all(
                inboxes,
                readable,
                control,
                &progress,
                sender.thread(),
                &mut tally.ended,
            );
            progress.over.store(true, SeqCst);
            sender.thread().unpark();
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            received.and(sent)
        });
        tally.sent = sent(outboxes) - before.1;
        tally.owed = sent_deliveries(outboxes) - before.2;
        finish(ended, inboxes, before.0, &tally)
    }
}

/// A line of one of a topology's senders.
pub fn line(
    protocol: Protocol,
    topology: &Topology,
    names: &[String],
    route: &Route,
    size: usize,
) -> Lines {
    let to: Vec<_> = if topology.is_room {
        vec![ROOM]
    } else {
        route.to.iter().map(|&to| names[to].as_str()).collect()
    };
    protocol.line(&names[route.from], &to, size)
}

/// An inbox for each client, in order.
pub(super) fn inboxes(
    protocol: Protocol,
    clients: &[Client],
    topology: &Topology,
    size: usize,
) -> Vec<Inbox> {
    let name = topology.name(0);
    let in_room = topology.is_room && protocol == Protocol::Chat;
    let from = if in_room { format!("{name} {ROOM}") } else { name.clone() };
    let frame = protocol.frame(&from, protocol.subject(&name, topology.is_group()), size);
    let inbox = |(client, senders)| Inbox::new(protocol, client, frame, senders);
    clients.iter().zip(topology.senders_to()).map(inbox).collect()
}

/// Messages per batch, the same for all protocols.
pub fn batch_messages(topology: &Topology, size: usize) -> usize {
    let name = topology.name(0);
    let batch = if topology.is_room { ROOM_BATCH } else { BATCH };
    (batch / Protocol::Chat.frame(&name, &name, size).stride).max(1)
}

/// Deliveries of one round, one batch from each sender.
pub fn deliveries(topology: &Topology, size: usize) -> u64 {
    topology.deliveries() * batch_messages(topology, size) as u64
}

/// Receives until everything owed has arrived, or nothing more does.
fn receive_all(
    inboxes: &mut [Inbox],
    readable: &mut Readable,
    control: &Control,
    progress: &Progress,
    sender: &Thread,
    ended: &mut Instant,
) -> Result<(), Error> {
    let mut buffer = vec![0; CHUNK];
    let (mut settled, mut received) = (0, 0);
    loop {
        let is_sent = progress.sent.load(SeqCst);
        if is_sent && (received >= progress.owed.load(SeqCst) || progress.failed.load(SeqCst)) {
            return Ok(());
        }
        let before = received;
        for place in readable.wait()? {
            inboxes[place].read(&mut buffer, |arrival| {
                received += 1;
                settled += u64::from(arrival.advance);
            })?;
        }
        if received == before {
            if ended.elapsed() >= arrival_timeout(is_sent && settled >= progress.owed.load(SeqCst))
            {
                return Ok(());
            }
            continue;
        }
        *ended = Instant::now();
        control.report_received(received);
        progress.settled.store(settled, SeqCst);
        if progress.awaited.swap(false, SeqCst) {
            sender.unpark();
        }
    }
}

/// How long to wait without arrivals: overtaken messages need not arrive at all.
pub(super) fn arrival_timeout(only_overtaken: bool) -> Duration {
    if only_overtaken { REORDER_TIMEOUT } else { ARRIVAL_TIMEOUT }
}
