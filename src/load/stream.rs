//! Saturation: every sender sends as much as the server takes, and every message is checked.
//!
//! One thread sends and one receives, whatever the number of clients, since each further thread
//! would take the processors from the server. Writes are whole batches that were built
//! beforehand and are only numbered anew.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::client::Client;
use super::control::Budget;
use super::inbox::{Inbox, Tally, explain};
use super::protocol::{Lines, Protocol};
use super::readable::Readable;
use super::topology::{Route, Topology};
use super::{Amount, Control, Error, GRACE, Outcome, PATIENCE, TICK};

/// What a batch delivers to each recipient, in bytes and about.
const BATCH: usize = 64 * 1024;

/// How many batches each sender may have sent that were not received, so that a server which
/// queues without bound is not measured by how much it can queue.
const IN_FLIGHT: u64 = 8;

/// How much is read at a time, in bytes.
pub const CHUNK: usize = 256 * 1024;

/// Connected clients and their prepared batches.
#[derive(Debug)]
pub struct Stream {
    outboxes: Vec<Outbox>,
    /// Those of all clients, since the server may have something to say to any of them.
    inboxes: Vec<Inbox>,
    readable: Readable,
    /// How many deliveries may be on their way.
    limit: u64,
}

impl Stream {
    /// Connects a topology's clients to a server; texts are `size` bytes long.
    ///
    /// # Errors
    ///
    /// As [`Client::connect_all`].
    pub fn connect(
        protocol: Protocol,
        address: SocketAddr,
        topology: &Topology,
        size: usize,
        control: &Control,
    ) -> Result<Self, Error> {
        let clients = Client::connect_all(protocol, address, topology, control)?;
        let names = topology.names();
        let outbox = |route: &Route| {
            let to: Vec<_> = route.to.iter().map(|&to| names[to].as_str()).collect();
            let line = protocol.line(&names[route.from], &to, size);
            Outbox {
                sender: route.from,
                socket: Arc::clone(&clients[route.from].output),
                recipients: to.len() as u64,
                messages: batch_messages(topology, size),
                batch: line.times(batch_messages(topology, size)),
                unwritten: 0..0,
                begun: 0,
                left: 0,
            }
        };
        let inboxes = inboxes(protocol, &clients, topology, size);
        Ok(Self {
            limit: IN_FLIGHT * deliveries(topology, size),
            readable: Readable::of(inboxes.iter().map(Inbox::socket))?,
            outboxes: topology.routes.iter().map(outbox).collect(),
            inboxes,
        })
    }

    /// Sends that much, and waits until the last message of it has arrived.
    ///
    /// # Errors
    ///
    /// If the server ends a connection, refuses a message or sends anything else.
    ///
    /// # Panics
    ///
    /// If there is no thread to be had.
    pub fn run(&mut self, amount: Amount, control: &Control) -> Result<Outcome, Error> {
        let Self { outboxes, inboxes, readable, limit } = self;
        let before = Tally::of(inboxes);
        let progress = Progress::default();
        let started = Instant::now();
        let mut ended = started;
        let sent = thread::scope(|scope| {
            let sending = || {
                let sent = send_all(outboxes, amount, control, &progress, *limit);
                progress.sending_is_over(&sent);
                sent
            };
            let sender = thread::Builder::new().name("sending".to_owned());
            let sender = sender.spawn_scoped(scope, sending).expect("a thread");
            let received =
                receive_all(inboxes, readable, control, &progress, sender.thread(), &mut ended);
            progress.over.store(true, SeqCst);
            sender.thread().unpark();
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            received.and(sent)
        });
        let Sent { messages, deliveries } = sent.map_err(|error| explain(inboxes, error))?;
        let tally = Tally::of(inboxes).since(before);
        Ok(Outcome::of(messages, deliveries, tally, ended - started))
    }
}

/// An inbox for each client, in order.
pub(super) fn inboxes(
    protocol: Protocol,
    clients: &[Client],
    topology: &Topology,
    size: usize,
) -> Vec<Inbox> {
    let name = topology.name(0);
    let frame = protocol.frame(&name, protocol.subject(&name, topology.is_group()), size);
    let inbox = |(client, senders)| Inbox::new(protocol, client, frame, senders);
    clients.iter().zip(topology.senders_to()).map(inbox).collect()
}

/// How many messages a batch has: as many for all protocols, so that it is the same work.
pub fn batch_messages(topology: &Topology, size: usize) -> usize {
    let name = topology.name(0);
    (BATCH / Protocol::Chat.frame(&name, &name, size).stride).max(1)
}

/// How many deliveries a round is, which is one batch from each sender.
pub fn deliveries(topology: &Topology, size: usize) -> u64 {
    topology.deliveries() * batch_messages(topology, size) as u64
}

/// What the sending thread and the receiving one have to know of each other.
#[derive(Debug, Default)]
struct Progress {
    /// Deliveries that have arrived, or never will.
    settled: AtomicU64,
    /// The sender waits for the number above to grow.
    awaited: AtomicBool,
    /// How many deliveries are owed when the next flag says that this is all.
    owed: AtomicU64,
    sent: AtomicBool,
    /// The sender has failed, and how it has is found when it is joined.
    failed: AtomicBool,
    /// Nothing more is received.
    over: AtomicBool,
}

impl Progress {
    fn sending_is_over(&self, sent: &Result<Sent, Error>) {
        match sent {
            Ok(sent) => self.owed.store(sent.deliveries, SeqCst),
            Err(_) => self.failed.store(true, SeqCst),
        }
        self.sent.store(true, SeqCst);
    }
}

/// What was sent, and what is owed for it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    messages: u64,
    deliveries: u64,
}

#[derive(Debug)]
struct Outbox {
    sender: usize,
    socket: Arc<TcpStream>,
    recipients: u64,
    /// How many messages a batch has.
    messages: usize,
    batch: Lines,
    /// What is begun of the batch and not written yet, in bytes.
    unwritten: std::ops::Range<usize>,
    /// Messages that all batches so far had.
    begun: u64,
    /// Messages that are in no batch yet.
    left: u64,
}

impl Outbox {
    /// Numbers the next batch; returns how many deliveries it makes.
    fn begin(&mut self) -> u64 {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.messages);
        self.unwritten = 0..count * self.batch.stride;
        // The number's upper bits are in no stamp.
        #[expect(clippy::cast_possible_truncation, reason = "as said above")]
        self.batch.number(self.sender, self.begun as u32);
        self.begun += count as u64;
        self.left -= count as u64;
        count as u64 * self.recipients
    }

    fn is_writing(&self) -> bool {
        !self.unwritten.is_empty()
    }

    fn is_done(&self) -> bool {
        !self.is_writing() && self.left == 0
    }

    /// Messages whose last byte is written.
    fn sent(&self) -> u64 {
        self.begun - self.unwritten.len().div_ceil(self.batch.stride) as u64
    }

    /// Writes what the socket takes just now of the current batch; false if that is nothing.
    fn write(&mut self) -> Result<bool, Error> {
        if !self.is_writing() {
            return Ok(false);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&self.socket, &self.batch.bytes[self.unwritten.clone()], flags) {
            Ok(count) => self.unwritten.start += count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(Error::io("send")(error)),
        }
        Ok(true)
    }
}

/// Sends until the amount is spent or nothing more is received.
fn send_all(
    outboxes: &mut [Outbox],
    amount: Amount,
    control: &Control,
    progress: &Progress,
    limit: u64,
) -> Result<Sent, Error> {
    let before: u64 = outboxes.iter().map(Outbox::sent).sum();
    let owed = |outboxes: &[Outbox]| -> u64 {
        outboxes.iter().map(|outbox| outbox.sent() * outbox.recipients).sum()
    };
    let owed_before = owed(outboxes);
    let mut budget = Budget::new(amount, control);
    deal(outboxes, amount);
    let mut begun = 0;
    loop {
        let is_over = budget.is_over();
        let mut unfinished = false;
        let mut stuck = true;
        for outbox in &mut *outboxes {
            if is_over {
                outbox.left = 0;
            }
            let may_begin = begun < limit + progress.settled.load(SeqCst);
            if !outbox.is_writing() && outbox.left > 0 && may_begin {
                begun += outbox.begin();
            }
            stuck &= !outbox.write()?;
            unfinished |= !outbox.is_done();
        }
        if !unfinished || progress.over.load(SeqCst) {
            break;
        }
        if stuck {
            wait_for_room(outboxes, progress, || begun >= limit + progress.settled.load(SeqCst));
        }
    }
    let messages = outboxes.iter().map(Outbox::sent).sum::<u64>() - before;
    Ok(Sent { messages, deliveries: owed(outboxes) - owed_before })
}

/// Gives each sender its share of the messages.
fn deal(outboxes: &mut [Outbox], amount: Amount) {
    let senders = outboxes.len() as u64;
    for (place, outbox) in (0..).zip(outboxes) {
        outbox.left = match amount {
            Amount::Messages(all) => all / senders + u64::from(place < all % senders),
            Amount::Time(_) => u64::MAX,
        };
    }
}

/// Waits a moment for one of the sockets that are full: others may be allowed to go on before. If
/// there is none, it waits for what is received, as long as there `is_too_much` on its way.
fn wait_for_room(outboxes: &[Outbox], progress: &Progress, is_too_much: impl Fn() -> bool) {
    let full = outboxes.iter().filter(|outbox| outbox.is_writing());
    let mut fds: Vec<_> = full.map(|outbox| PollFd::new(&*outbox.socket, PollFlags::OUT)).collect();
    if fds.is_empty() {
        progress.awaited.store(true, SeqCst);
        if is_too_much() {
            thread::park_timeout(TICK);
        }
    } else {
        let moment = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        // An interrupted wait is as good as any other.
        let _ = poll(&mut fds, Some(&moment));
    }
}

/// Receives until all has arrived that is owed, or nothing more comes.
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
            if ended.elapsed() >= patience(is_sent && settled >= progress.owed.load(SeqCst)) {
                return Ok(());
            }
            continue;
        }
        *ended = Instant::now();
        control.show(received);
        progress.settled.store(settled, SeqCst);
        if progress.awaited.swap(false, SeqCst) {
            sender.unpark();
        }
    }
}

/// How long to wait when nothing comes: what others have overtaken need not come at all.
pub(super) fn patience(only_overtaken: bool) -> Duration {
    if only_overtaken { GRACE } else { PATIENCE }
}
