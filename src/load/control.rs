//! The amount of a load, its progress as seen from other threads, and its outcome. Plain state.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Error;
use super::check::Counts;

/// How much to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Exactly this many messages, or logins.
    Messages(u64),
    /// As many as possible within this time; everything sent by then is awaited.
    Time(Duration),
}

/// A handle to a running load, usable from any thread.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    received: AtomicU64,
}

impl Control {
    /// Stops sending; the load ends when everything sent has arrived.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// True once [`stop`](Self::stop) was called.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Deliveries, or logins, so far.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(super) fn report_received(&self, received: u64) {
        self.received.store(received, Relaxed);
    }
}

/// The part of an [`Amount`] that is still to be sent.
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
            // A time beyond the representable range never ends.
            Amount::Time(time) => (u64::MAX, Instant::now().checked_add(time)),
        };
        Self { left, deadline, control }
    }

    /// Takes up to `max` messages from the budget; 0 once it is spent.
    pub(super) fn take(&mut self, most: u64) -> u64 {
        let taken = if self.is_spent() { 0 } else { most.min(self.left) };
        self.left -= taken;
        taken
    }

    /// True if nothing more is to be sent.
    pub(super) fn is_spent(&mut self) -> bool {
        let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_late || self.control.is_stopped() {
            self.left = 0;
        }
        self.left == 0
    }
}

/// The outcome of a load. A message to a hundred recipients counts as one sent and a hundred owed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Messages sent, or logins.
    pub sent: u64,
    /// Deliveries owed for them.
    pub owed: u64,
    /// Deliveries that arrived, each counted once.
    pub received: u64,
    /// How many of these arrived after a later one of the same sender.
    pub reordered: u64,
    /// Deliveries that arrived again.
    pub repeated: u64,
    /// From the first message to the last arrival.
    pub elapsed: Duration,
    /// The latency of each delivery, if measured.
    pub latencies: Option<Latencies>,
    /// The outcome of the load beside this one, if there was one.
    pub beside: Option<Box<Outcome>>,
}

impl Outcome {
    /// Deliveries owed that did not arrive.
    pub fn lost(&self) -> u64 {
        self.owed.saturating_sub(self.received)
    }

    /// True if everything arrived, once and in order, in the load beside this one too.
    pub fn is_clean(&self) -> bool {
        let beside = self.beside.as_ref().is_none_or(|beside| beside.is_clean());
        beside && (self.lost(), self.reordered, self.repeated) == (0, 0, 0)
    }
}

/// A load that failed, and its outcome until then.
#[derive(Debug)]
pub struct Aborted {
    /// Why it failed.
    pub error: Error,
    /// What it sent and received before.
    pub outcome: Box<Outcome>,
}

/// Adds the latencies to the outcome of a run, even if it failed.
///
/// # Errors
///
/// The run's own.
pub fn timed(ended: Result<Outcome, Aborted>, latencies: &Latencies) -> Result<Outcome, Aborted> {
    let latencies = Some(latencies.clone());
    match ended {
        Ok(outcome) => Ok(Outcome { latencies, ..outcome }),
        Err(Aborted { error, outcome }) => {
            Err(Aborted { error, outcome: Box::new(Outcome { latencies, ..*outcome }) })
        }
    }
}

impl From<Error> for Aborted {
    /// A load that failed before it began.
    fn from(error: Error) -> Self {
        Self { error, outcome: Box::default() }
    }
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// The sending side of a run in progress.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) owed: u64,
    started: Instant,
    /// When the last message arrived.
    pub(super) ended: Instant,
}

impl Tally {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self { sent: 0, owed: 0, started: now, ended: now }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The outcome of a run in which this much arrived.
    pub(super) fn outcome(&self, arrived: Counts) -> Outcome {
        let Self { sent, owed, started, ended } = *self;
        let Counts { received, reordered, repeated, .. } = arrived;
        let elapsed = ended - started;
        Outcome { sent, owed, received, reordered, repeated, elapsed, ..Outcome::default() }
    }
}

/// Upper bound of recorded latencies, in nanoseconds.
const MAX_LATENCY: u64 = 3_600_000_000_000;

/// A histogram of latencies, to three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("valid bounds"))
    }
}

impl Latencies {
    /// Records one latency.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(MAX_LATENCY));
    }

    /// The latency that this share of all did not exceed: 0.5 for the median.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share))
    }

    /// The mean.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e9)
    }

    /// The minimum and the maximum.
    pub fn bounds(&self) -> (Duration, Duration) {
        (Duration::from_nanos(self.0.min()), Duration::from_nanos(self.0.max()))
    }

    /// The number of latencies recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}
