//! The sending thread of a stream: it numbers and writes batches as long as not too much is on its
//! way, and ends when the amount is spent or nothing more is received.

use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::control::Budget;
use super::protocol::Lines;
use super::{Amount, Control, Error, TICK};

/// What the sending thread and the receiving one have to know of each other.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Deliveries that have arrived, or never will.
    pub(super) settled: AtomicU64,
    /// The sender waits for the number above to grow.
    pub(super) awaited: AtomicBool,
    /// How many deliveries are owed when the next flag says that this is all.
    pub(super) owed: AtomicU64,
    pub(super) sent: AtomicBool,
    /// The sender has failed, and how it has is found when it is joined.
    pub(super) failed: AtomicBool,
    /// Nothing more is received.
    pub(super) over: AtomicBool,
}

impl Progress {
    pub(super) fn sending_is_over(&self, sent: &Result<Sent, Error>) {
        match sent {
            Ok(sent) => self.owed.store(sent.deliveries, SeqCst),
            Err(_) => self.failed.store(true, SeqCst),
        }
        self.sent.store(true, SeqCst);
    }
}

/// What was sent, and what is owed for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) messages: u64,
    pub(super) deliveries: u64,
}

/// One sender, and what it sends over and over.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: usize,
    socket: Arc<TcpStream>,
    recipients: u64,
    /// How many messages a batch has.
    messages: usize,
    batch: Lines,
    /// What is begun of the batch and not written yet, in bytes.
    unwritten: Range<usize>,
    /// Messages that all batches so far had.
    begun: u64,
    /// Messages that are in no batch yet.
    left: u64,
}

impl Outbox {
    /// Sends `line` to so many recipients, `messages` of it at a time.
    pub(super) fn new(
        client: usize,
        socket: &Arc<TcpStream>,
        line: Lines,
        messages: usize,
        recipients: usize,
    ) -> Self {
        Self {
            sender: client,
            socket: Arc::clone(socket),
            recipients: recipients as u64,
            messages,
            batch: line.times(messages),
            unwritten: 0..0,
            begun: 0,
            left: 0,
        }
    }

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
pub(super) fn send_all(
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
