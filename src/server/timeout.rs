//! How long a client is waited for, and how long it may take nothing of what is due to it. No
//! thread runs here: who waits for the client owns these.
//!
//! Only time that was spent waiting counts. While this process is stopped (SIGSTOP, a container
//! that is paused) or does not get to run, it sees nothing of what its clients do, and often they
//! are stopped with it: by the clock alone, everyone's time would be over when it goes on.

use std::time::{Duration, Instant};

use crate::server::report::CloseReason;

/// Into how many waits a limit is divided, at least: a pause of this process, however long it is,
/// counts for one of them at most.
const MIN_SLICES: u32 = 4;

/// What a limit is not divided below.
const MIN_SLICE: Duration = Duration::from_millis(1);

/// A limit on the time that a client is waited for.
#[derive(Debug)]
pub(crate) struct WaitBudget {
    limit: Duration,
    spent: Duration,
    /// Up to when `spent` is `last_check`.
    last_check: Instant,
}

impl WaitBudget {
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, spent: Duration::ZERO, last_check: now }
    }

    /// Until when the next wait may last. None means for ever.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.last_check.checked_add(self.max_slice().min(self.limit.saturating_sub(self.spent)))
    }

    /// Counts the time since it was last asked as one wait; true once the limit is reached.
    pub(crate) fn is_exhausted(&mut self, now: Instant) -> bool {
        let wait = now.duration_since(self.last_check).min(self.max_slice());
        self.spent = self.limit.min(self.spent + wait);
        self.last_check = now;
        self.spent == self.limit
    }

    fn max_slice(&self) -> Duration {
        MIN_SLICE.max(self.limit / MIN_SLICES)
    }
}

/// The watch over a client: whether it takes enough of what is due to it, in bytes of its stream.
#[derive(Debug)]
pub(crate) struct StallDetector {
    limit: Duration,
    /// For the client to take what is asked of it.
    budget: WaitBudget,
    /// How much it must have acknowledged by then; if it has, it is not waited for.
    quota: u64,
}

impl StallDetector {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, budget: WaitBudget::new(limit, Instant::now()), quota: 0 }
    }

    /// When the client is to be looked at next.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.budget.next_check()
    }

    /// Whether it is time for that.
    pub(crate) fn check_due(&self, now: Instant) -> bool {
        self.next_check().is_some_and(|check| check <= now)
    }

    /// Looks at a client that has acknowledged so much by now; fails if it has not acknowledged in time what was
    /// asked of it. If it has, `next_quota` is what is asked of it from now on.
    pub(crate) fn check(
        &mut self,
        acknowledged: u64,
        next_quota: u64,
        now: Instant,
    ) -> Result<(), CloseReason> {
        if acknowledged >= self.quota {
            (self.quota, self.budget) = (next_quota, WaitBudget::new(self.limit, now));
        }
        if self.budget.is_exhausted(now) { Err(CloseReason::Evicted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(8);

    /// Waits as those do who have a `WaitBudget`, and returns how long that is in all; `late` is for
    /// how much longer each wait lasts than it was asked to.
    fn time_until_over(mut budget: WaitBudget, mut now: Instant, late: &[Duration]) -> Duration {
        let (start, mut late) = (now, late.iter());
        loop {
            now = budget.next_check().expect("no such time")
                + *late.next().unwrap_or(&Duration::ZERO);
            if budget.is_exhausted(now) {
                return now - start;
            }
        }
    }

    #[test]
    fn all_of_the_limit_is_waited_and_not_more() {
        for limit in [Duration::from_nanos(1), Duration::from_millis(333), LIMIT] {
            let now = Instant::now();
            assert_eq!(time_until_over(WaitBudget::new(limit, now), now, &[]), limit);
        }
    }

    #[test]
    fn a_pause_of_the_process_does_not_count() {
        let (now, pause) = (Instant::now(), Duration::from_secs(3600));
        for paused in 0..3 {
            let mut late = [Duration::ZERO; 4];
            late[paused] = pause;
            let lasted = time_until_over(WaitBudget::new(LIMIT, now), now, &late);
            assert_eq!(lasted, LIMIT + pause, "{paused}");
        }
    }

    #[test]
    fn many_short_waits_count_in_full() {
        let (start, step) = (Instant::now(), LIMIT / 1000);
        let mut budget = WaitBudget::new(LIMIT, start);
        let over = (1..2000).find(|&waits| budget.is_exhausted(start + waits * step));
        assert_eq!(over, Some(1000));
    }

    #[test]
    fn who_takes_its_quota_in_time_is_not_stalled() {
        let (mut now, mut stall) = (Instant::now(), StallDetector::new(LIMIT));
        for quota in 1..100 {
            // As late as can be, and then nothing is asked of it for long.
            for acknowledged in [quota - 1, quota - 1, quota - 1, quota] {
                now += LIMIT / 4;
                assert_eq!(
                    stall.check(acknowledged, quota, now),
                    Ok(()),
                    "{acknowledged} of {quota}"
                );
            }
            now += 10 * LIMIT;
            assert_eq!(stall.check(quota, quota, now), Ok(()));
        }
    }

    #[test]
    fn who_takes_less_is_stalled_after_the_limit_and_not_before() {
        let (mut now, mut stall) = (Instant::now(), StallDetector::new(LIMIT));
        assert_eq!(stall.check(10, 15, now), Ok(()));
        for acknowledged in [11, 12, 13] {
            now += LIMIT / 4;
            assert_eq!(stall.check(acknowledged, acknowledged + 5, now), Ok(()));
        }
        assert_eq!(stall.check(14, 19, now + LIMIT / 4), Err(CloseReason::Evicted));
    }
}
