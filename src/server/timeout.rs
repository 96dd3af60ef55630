//! Timeouts that ignore time the process was suspended, and stall detection. Plain state, owned by
//! the thread that waits for the client.
//!
//! Only time spent waiting counts. While this process is suspended (SIGSTOP, a paused container) or
//! gets no CPU time, it sees nothing that its clients do, and often they are suspended with it. By
//! the clock alone, every client would have timed out when it resumes.

use std::time::{Duration, Instant};

use crate::server::report::CloseReason;

/// The minimum number of slices that a limit is divided into: a suspension of this process, however
/// long, counts as one slice at most.
const MIN_SLICES: u32 = 4;

/// The minimum length of a slice.
const MIN_SLICE: Duration = Duration::from_millis(1);

/// A limit on the time spent waiting for a client.
#[derive(Debug)]
pub(crate) struct WaitBudget {
    limit: Duration,
    spent: Duration,
    /// `spent` accounts for the time up to here.
    last_check: Instant,
}

impl WaitBudget {
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, spent: Duration::ZERO, last_check: now }
    }

    /// When the next wait must end at the latest; `None` means never.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.last_check.checked_add(self.max_slice().min(self.limit.saturating_sub(self.spent)))
    }

    /// Counts the time since the last call as one wait; true once the limit is reached.
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

/// Detects a client that acknowledges too little of what is pending for it, in bytes of its stream.
#[derive(Debug)]
pub(crate) struct StallDetector {
    limit: Duration,
    /// The time left for the client to reach its quota.
    budget: WaitBudget,
    /// The position that the client must reach by then; once there, it is no longer waited for.
    quota: u64,
}

impl StallDetector {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, budget: WaitBudget::new(limit, Instant::now()), quota: 0 }
    }

    /// When the client must be checked next.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.budget.next_check()
    }

    /// Whether that time has come.
    pub(crate) fn check_due(&self, now: Instant) -> bool {
        self.next_check().is_some_and(|check| check <= now)
    }

    /// Checks a client that has acknowledged this many bytes. Fails if it missed its quota; if it
    /// reached it, `next_quota` is its quota from now on.
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

    /// Waits as the owner of a `WaitBudget` does, and returns how long that takes in total; each
    /// wait ends by the given amount late.
    fn time_until_exhausted(
        mut budget: WaitBudget,
        mut now: Instant,
        late: &[Duration],
    ) -> Duration {
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
    fn a_wait_lasts_exactly_its_limit() {
        for limit in [Duration::from_nanos(1), Duration::from_millis(333), LIMIT] {
            let now = Instant::now();
            assert_eq!(time_until_exhausted(WaitBudget::new(limit, now), now, &[]), limit);
        }
    }

    #[test]
    fn a_suspension_of_the_process_does_not_count() {
        let (now, suspension) = (Instant::now(), Duration::from_secs(3600));
        for suspended in 0..3 {
            let mut late = [Duration::ZERO; 4];
            late[suspended] = suspension;
            let lasted = time_until_exhausted(WaitBudget::new(LIMIT, now), now, &late);
            assert_eq!(lasted, LIMIT + suspension, "{suspended}");
        }
    }

    #[test]
    fn many_short_waits_count_in_full() {
        let (start, step) = (Instant::now(), LIMIT / 1000);
        let mut budget = WaitBudget::new(LIMIT, start);
        let exhausted = (1..2000).find(|&waits| budget.is_exhausted(start + waits * step));
        assert_eq!(exhausted, Some(1000));
    }

    #[test]
    fn a_client_that_meets_its_quota_is_never_stalled() {
        let (mut now, mut stall) = (Instant::now(), StallDetector::new(LIMIT));
        for quota in 1..100 {
            // At the last moment, and then idle for a long time.
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
    fn a_client_below_its_quota_is_stalled_exactly_at_the_limit() {
        let (mut now, mut stall) = (Instant::now(), StallDetector::new(LIMIT));
        assert_eq!(stall.check(10, 15, now), Ok(()));
        for acknowledged in [11, 12, 13] {
            now += LIMIT / 4;
            assert_eq!(stall.check(acknowledged, acknowledged + 5, now), Ok(()));
        }
        assert_eq!(stall.check(14, 19, now + LIMIT / 4), Err(CloseReason::Evicted));
    }
}
