//! The sending thread of a stream. It owns the outboxes, numbers and writes batches within the
//! limit of queued deliveries, and exits when the amount is spent or receiving has ended.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::control::Budget;
use super::link::{Link, is_passing};
use super::protocol::Lines;
use super::{Amount, Control, Error, TICK};

/// State shared by the sending and the receiving thread.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Deliveries that arrived or never will.
    pub(super) settled: AtomicU64,
    /// The sender is waiting for `settled` to grow.
    pub(super) awaited: AtomicBool,
    /// Deliveries owed in total, valid once `sent` is set.
    pub(super) owed: AtomicU64,
    pub(super) sent: AtomicBool,
    /// The sender failed; joining it returns the error.
    pub(super) failed: AtomicBool,
    /// Receiving has ended.
    pub(super) over: AtomicBool,
}

impl Progress {
    pub(super) fn sending_is_over(&self, owed: Option<u64>) {
        match owed {
            Some(owed) => self.owed.store(owed, SeqCst),
            None => self.failed.store(true, SeqCst),
        }
        self.sent.store(true, SeqCst);
    }
}

/// One sender and the batch it sends repeatedly.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: usize,
    socket: Arc<Link>,
    recipients: u64,
    /// Messages per batch.
    messages: usize,
    batch: Lines,
    /// The unwritten bytes of the current batch.
    unwritten: Range<usize>,
    /// Messages of all batches so far.
    begun: u64,
    /// Messages not in any batch yet.
    left: u64,
}

impl Outbox {
    /// Sends `line` to `recipients` clients, `messages` at a time.
    pub(super) fn new(
        client: usize,
        socket: &Arc<Link>,
        line: Lines,
        messages: usize,
        recipients: usize,
    ) -> Self {
        Self {
            sender: client,
            socket: Arc::clone(socket),
            recipients: recipients as u64,
            messages,
            batch: line.repeat(messages),
            unwritten: 0..0,
            begun: 0,
            left: 0,
        }
    }

    /// Numbers the next batch; returns its deliveries.
    fn begin(&mut self) -> u64 {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.messages);
        self.unwritten = 0..count * self.batch.stride;
        // A stamp holds only the lower bits of the number.
        #[expect(clippy::cast_possible_truncation, reason = "as said above")]
        self.batch.number(self.sender, self.begun as u32);
        self.begun += count as u64;
        self.left -= count as u64;
        count as u64 * self.recipients
    }

    fn is_writing(&self) -> bool {
        !self.unwritten.is_empty() || self.socket.has_pending()
    }

    fn is_done(&self) -> bool {
        !self.is_writing() && self.left == 0
    }

    /// Messages written completely.
    fn sent(&self) -> u64 {
        self.begun - self.unwritten.len().div_ceil(self.batch.stride) as u64
    }

    /// Writes as much of the current batch as the socket accepts; false if nothing.
    fn write(&mut self) -> Result<bool, Error> {
        if !self.is_writing() {
            return Ok(false);
        }
        match self.socket.send(&self.batch.bytes[self.unwritten.clone()]) {
            Ok(count) => self.unwritten.start += count,
            Err(error) if is_passing(&error) => return Ok(false),
            Err(error) => return Err(Error::io("send")(error)),
        }
        Ok(true)
    }
}

/// Sends until the amount is spent or receiving has ended; returns the deliveries owed.
pub(super) fn send_all(
    outboxes: &mut [Outbox],
    amount: Amount,
    control: &Control,
    progress: &Progress,
    limit: u64,
) -> Result<u64, Error> {
    let before = sent_deliveries(outboxes);
    let mut budget = Budget::new(amount, control);
    distribute(outboxes, amount);
    let mut begun = 0;
    loop {
        let is_over = budget.is_spent();
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
    Ok(sent_deliveries(outboxes) - before)
}

/// Messages written completely by all senders.
pub(super) fn sent(outboxes: &[Outbox]) -> u64 {
    outboxes.iter().map(Outbox::sent).sum()
}

/// The deliveries owed for them.
pub(super) fn sent_deliveries(outboxes: &[Outbox]) -> u64 {
    outboxes.iter().map(|outbox| outbox.sent() * outbox.recipients).sum()
}

/// Divides the messages among the senders.
fn distribute(outboxes: &mut [Outbox], amount: Amount) {
    let senders = outboxes.len() as u64;
    for (place, outbox) in (0..).zip(outboxes) {
        outbox.left = match amount {
            Amount::Messages(all) => all / senders + u64::from(place < all % senders),
            Amount::Time(_) => u64::MAX,
        };
    }
}

/// Waits briefly for one of the full sockets, as another sender may be allowed to continue first.
/// If none is full, it waits for arrivals while there `is_too_much` queued.
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
