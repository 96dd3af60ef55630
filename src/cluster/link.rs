//! What `ingress`, `egress` and the broker share: a few numbers, and the request to enter a new
//! incarnation of the engine, which egress or ingress finds and the broker answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the threads need to know of the server's shutdown.
pub(crate) trait Stop: std::fmt::Debug + Send + Sync {
    fn is_shutdown(&self) -> bool;
    /// Whether the time is over in which other nodes' last lines are waited for.
    fn release_is_due(&self) -> bool;
    /// Whether the time is over in which lines are routed.
    fn routing_expired(&self) -> bool;
    /// How long the drain may still take; `None` before it begins.
    fn time_left(&self) -> Option<Duration>;
}

/// The shortest time that the engine gets to answer, in a drain that is over or was forced.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long the engine may take to answer now: `longest`, or what is left of the drain.
pub(crate) fn time_to_answer(stop: &dyn Stop, longest: Duration) -> Duration {
    stop.time_left().map_or(longest, |left| longest.min(left.max(LAST_WORDS)))
}

/// A new incarnation of the engine, or the news that this life was fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) incarnation: Arc<str>,
    pub(crate) is_fenced: bool,
}

/// What the broker counts, in messages, and in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) arrived: u64,
    pub(crate) handed_over: u64,
    pub(crate) in_doubt: u64,
    pub(crate) unsettled_bytes: u64,
}

/// The shared state.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// The last delivery that egress has given to a connection.
    sent: AtomicU64,
    /// The last ping that ingress has read.
    pinged: AtomicU64,
    /// Whether the broker wants to hear the time.
    wants_ticks: AtomicBool,
    /// Whether egress has ended.
    has_ended: AtomicBool,
    /// Whether the engine answers, as egress has seen last.
    is_reachable: AtomicBool,
    /// Whether no life that has ended has names that are held, and all have entered.
    is_settled: AtomicBool,
    /// Whether that was so since this node started.
    was_settled: AtomicBool,
    /// What the broker has counted so far.
    counts: [AtomicU64; 4],
    renewal: Mutex<Option<Renewal>>,
}

impl Link {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    pub(crate) fn note_sent(&self, number: u64) {
        self.sent.store(number, SeqCst);
    }

    pub(crate) fn pinged(&self) -> u64 {
        self.pinged.load(SeqCst)
    }

    pub(crate) fn note_ping(&self, counter: u64) {
        self.pinged.store(counter, SeqCst);
    }

    pub(crate) fn wants_ticks(&self) -> bool {
        self.wants_ticks.load(SeqCst)
    }

    pub(crate) fn want_ticks(&self, wanted: bool) {
        if self.wants_ticks.load(SeqCst) != wanted {
            self.wants_ticks.store(wanted, SeqCst);
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(SeqCst)
    }

    pub(crate) fn note_end(&self) {
        self.has_ended.store(true, SeqCst);
    }

    pub(crate) fn is_reachable(&self) -> bool {
        self.is_reachable.load(SeqCst)
    }

    pub(crate) fn note_reachable(&self, is_reachable: bool) {
        self.is_reachable.store(is_reachable, SeqCst);
    }

    /// Whether another node may be stopped.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(SeqCst)
    }

    /// Whether it might have been since this node started.
    pub(crate) fn was_settled(&self) -> bool {
        self.was_settled.load(SeqCst)
    }

    pub(crate) fn note_settled(&self, is_settled: bool) {
        self.is_settled.store(is_settled, SeqCst);
        if is_settled {
            self.was_settled.store(true, SeqCst);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let [arrived, handed_over, in_doubt, unsettled_bytes] =
            self.counts.each_ref().map(|count| count.load(Relaxed));
        Counts { arrived, handed_over, in_doubt, unsettled_bytes }
    }

    pub(crate) fn note_counts(&self, counts: Counts) {
        let Counts { arrived, handed_over, in_doubt, unsettled_bytes } = counts;
        let all = [arrived, handed_over, in_doubt, unsettled_bytes];
        self.counts.iter().zip(all).for_each(|(count, value)| count.store(value, Relaxed));
    }

    /// Asks the broker to enter.
    pub(crate) fn ask_to_enter(&self, incarnation: &Arc<str>, is_fenced: bool) {
        let renewal = Renewal { incarnation: Arc::clone(incarnation), is_fenced };
        *self.renewal.lock().unwrap_or_else(PoisonError::into_inner) = Some(renewal);
    }

    pub(crate) fn take_renewal(&self) -> Option<Renewal> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
