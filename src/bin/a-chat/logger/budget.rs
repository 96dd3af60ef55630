//! How many lines about connections the log takes. Plain state behind the log's lock.

use std::time::{Duration, Instant};

/// Lines about connections that are logged at any rate. Every client of a large server may log in
/// again at once, after a restart.
const BURST: u32 = 20_000;

/// The time in which one more such line is allowed: a client that connects and disconnects forever
/// writes no more than a hundred lines a second, or a gigabyte a day.
const REFILL: Duration = Duration::from_millis(10);

/// A token bucket.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    /// `left` accounts for the time up to here.
    refilled: Instant,
    /// Lines left out since the last one that was not.
    left_out: u64,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, refilled: now, left_out: 0 }
    }

    /// Whether a line may be logged now; then also how many were left out before it.
    pub(super) fn spend(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_duration_since(self.refilled).as_nanos() / REFILL.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= BURST - self.left {
            (self.left, self.refilled) = (BURST, now);
        } else {
            self.left += earned;
            self.refilled += REFILL * earned;
        }
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(self.take_left_out())
    }

    /// How many lines were left out since this was last asked.
    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_clients_is_logged_at_a_bounded_rate_and_the_rest_counted() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let (mut logged, mut left_out) = (0, 0);
        // A minute of 10,000 lines a second.
        for line in 0..600_000_u32 {
            if let Some(before) = budget.spend(start + Duration::from_micros(100) * line) {
                logged += 1;
                left_out += before;
            }
        }
        left_out += budget.take_left_out();
        assert_eq!(logged + left_out, 600_000);
        assert!((25_990..=26_001).contains(&logged), "{logged}");
        // After a quiet time the whole burst is there again, and no more.
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..2 * BURST).filter(|_| budget.spend(later).is_some()).count(), 20_000);
    }
}
