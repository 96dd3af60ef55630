//! How much a load does, what others see of it while it runs, and what came of it. No thread runs
//! here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::check::Counts;

/// How much is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Exactly so many messages, or logins.
    Messages(u64),
    /// What goes through within so much time; what was sent by then is waited for.
    Time(Duration),
}

/// A running load as others see it, from any thread.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    received: AtomicU64,
}

impl Control {
    /// Has the load send nothing more, and end when what it has sent has arrived.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether it was told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// How many deliveries have arrived so far, or logins.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(super) fn show(&self, received: u64) {
        self.received.store(received, Relaxed);
    }
}

/// What is still to be sent of an [`Amount`].
#[derive(Debug)]
pub(super) struct Budget<'a> {
    left: u64,
    deadline: Option<Instant>,
    control: &'a Control,
}

impl<'a> Budget<'a> {
    pub(super) fn new(amount: Amount, control: &'a Control) -> Self {
        let (left, deadline) = match amount {
            Amount::Messages(left) => (left, None),
            Amount::Time(time) => (u64::MAX, Some(Instant::now() + time)),
        };
        Self { left, deadline, control }
    }

    /// Takes up to so many messages out of it; 0 if nothing more is to be sent.
    pub(super) fn take(&mut self, most: u64) -> u64 {
        let taken = if self.is_over() { 0 } else { most.min(self.left) };
        self.left -= taken;
        taken
    }

    /// Whether nothing more is to be sent.
    pub(super) fn is_over(&mut self) -> bool {
        let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_late || self.control.is_stopped() {
            self.left = 0;
        }
        self.left == 0
    }
}

/// What came of a load. A message to a hundred counts as one that was sent, and as a hundred
/// that are owed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Messages that were sent, or logins.
    pub sent: u64,
    /// Deliveries that are owed for them.
    pub owed: u64,
    /// Deliveries that have arrived, each counted once.
    pub received: u64,
    /// How many of these came after a later one of the same sender.
    pub reordered: u64,
    /// Deliveries that had arrived before.
    pub repeated: u64,
    /// From the first message to the last one's arrival.
    pub elapsed: Duration,
    /// How long each delivery took, where that was measured.
    pub times: Option<Latencies>,
}

impl Outcome {
    pub(super) fn of(sent: u64, owed: u64, counts: Counts, elapsed: Duration) -> Self {
        let Counts { received, reordered, repeated, .. } = counts;
        Self { sent, owed, received, reordered, repeated, elapsed, times: None }
    }

    /// Deliveries that are owed and have not arrived.
    pub fn lost(&self) -> u64 {
        self.owed.saturating_sub(self.received)
    }

    /// True if everything arrived, once and in order.
    pub fn is_clean(&self) -> bool {
        (self.lost(), self.reordered, self.repeated) == (0, 0, 0)
    }
}

/// The longest time that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 3_600_000_000_000;

/// Latencies, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("valid bounds"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST));
    }

    /// The time that this share of all did not exceed: 0.5 for the median.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share))
    }

    /// The mean of all.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e9)
    }

    /// The shortest and the longest of all.
    pub fn bounds(&self) -> (Duration, Duration) {
        (Duration::from_nanos(self.0.min()), Duration::from_nanos(self.0.max()))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}
