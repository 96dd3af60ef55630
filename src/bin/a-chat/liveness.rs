//! Whether the broker gets on. Plain state behind a lock, for whoever is asked: the status endpoint, and
//! what feeds systemd's watchdog.
//!
//! No probe is sent: a sender of its own would keep the broker from ending. It is stuck if it is in the
//! middle of a round and has not ended one for a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use a_chat::StatsHandle;

/// A round takes microseconds; on a machine that swaps, seconds.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// What was seen when somebody asked.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    /// The round that the broker was in, and since when it is known to be.
    seen: Mutex<Option<(u64, Instant)>>,
}

impl Liveness {
    /// False if the broker has been in one round for five seconds, seen at least twice.
    pub(crate) fn is_alive(&self, stats: &StatsHandle) -> bool {
        let stats = stats.read();
        self.judge(stats.broker_busy.then_some(stats.broker_rounds), Instant::now())
    }

    fn judge(&self, round: Option<u64>, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match (round, *seen) {
            (Some(round), Some((before, since))) if round == before => {
                now.saturating_duration_since(since) < STUCK_AFTER
            }
            (round, _) => {
                *seen = round.map(|round| (round, now));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_stuck_only_in_the_middle_of_one_round() {
        let (liveness, start) = (Liveness::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        // Idle for long, then busy in ever new rounds.
        assert!(liveness.judge(None, after(0)) && liveness.judge(None, after(100)));
        assert!((0..100).all(|round| liveness.judge(Some(round), after(100 + round))));
        // Then in one of them.
        assert!(liveness.judge(Some(99), after(203)));
        assert!(!liveness.judge(Some(99), after(205)));
        assert!(liveness.judge(None, after(206)) && liveness.judge(Some(100), after(300)));
    }
}
