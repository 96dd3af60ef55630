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

/// The largest receive window that earns a client credit, in bytes: the largest that Linux offers
/// unless it is configured for more.
const MAX_WINDOW: u64 = 32 * 1024 * 1024;

/// Detects a client that acknowledges too little of what is pending for it, in bytes of its stream.
///
/// What counts is the average since the client fell behind: it may take `quota` bytes in each
/// `limit` of time, early or late. A token bucket expresses that. It is full when the client falls
/// behind, time drains it at the rate that is asked for, acknowledged bytes refill it, and a client
/// whose bucket is empty is stalled.
///
/// A full bucket holds the quota and the [credit](lump) for what a program may read before its
/// kernel acknowledges anything. So the client is stalled after `limit × (1 + credit / quota)` if
/// it acknowledges nothing, and a byte behind `pending` others waits for at most
/// `limit × (1 + (pending + credit) / quota)`.
#[derive(Debug)]
pub(crate) struct StallDetector {
    limit: Duration,
    quota: u64,
    /// The largest window that the client's kernel has offered.
    window: u64,
    /// How long the client may still acknowledge nothing: the bucket's content, as time.
    left: Duration,
    /// `left` accounts for everything up to here, in time and in acknowledged bytes.
    last_check: Instant,
    acknowledged: u64,
    /// Where the client's stream ended then.
    end: u64,
}

impl StallDetector {
    /// A detector for a client that must acknowledge `quota` bytes per `limit` on average.
    pub(crate) fn new(limit: Duration, quota: usize) -> Self {
        let mut detector = Self {
            limit,
            quota: quota as u64,
            window: 0,
            left: limit,
            last_check: Instant::now(),
            acknowledged: 0,
            end: 0,
        };
        detector.left = detector.capacity();
        detector
    }

    /// Notes a receive window that the client's kernel has offered.
    pub(crate) fn note_window(&mut self, window: u64) {
        if window > self.window {
            let before = self.capacity();
            self.window = window.min(MAX_WINDOW);
            self.left += self.capacity().saturating_sub(before);
        }
    }

    /// How many bytes past the acknowledged ones are worth counting for [`check`](Self::check): as
    /// many as fill the bucket.
    pub(crate) fn horizon(&self) -> u64 {
        self.quota.saturating_add(lump(self.window))
    }

    /// When the client must be checked next.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.last_check.checked_add(self.max_slice().min(self.left))
    }

    /// Whether that time has come.
    pub(crate) fn check_due(&self, now: Instant) -> bool {
        self.next_check().is_some_and(|check| check <= now)
    }

    /// Starts over for a client that has acknowledged everything up to now.
    pub(crate) fn restart(&mut self, acknowledged: u64, now: Instant) {
        (self.left, self.last_check) = (self.capacity(), now);
        (self.acknowledged, self.end) = (acknowledged, acknowledged);
    }

    /// Checks a client that has acknowledged its stream up to `acknowledged`, when everything
    /// pending for it extends to `end`. Fails if it is stalled.
    pub(crate) fn check(
        &mut self,
        acknowledged: u64,
        end: u64,
        now: Instant,
    ) -> Result<(), CloseReason> {
        let elapsed = now.saturating_duration_since(self.last_check).min(self.max_slice());
        let capacity = self.capacity();
        self.left = if acknowledged >= self.end {
            // Everything that was pending then has been acknowledged since: the client was not
            // behind, and cannot have fallen behind earlier than at the last check.
            capacity.saturating_sub(elapsed)
        } else {
            let earned = self.time_for(acknowledged.saturating_sub(self.acknowledged));
            self.left.saturating_add(earned).saturating_sub(elapsed).min(capacity)
        };
        (self.last_check, self.acknowledged, self.end) = (now, acknowledged, end);
        if self.left.is_zero() { Err(CloseReason::Evicted) } else { Ok(()) }
    }

    fn capacity(&self) -> Duration {
        self.limit.saturating_add(self.time_for(lump(self.window)))
    }

    /// How long a client may take to acknowledge this much.
    fn time_for(&self, bytes: u64) -> Duration {
        let nanos = self.limit.as_nanos().saturating_mul(u128::from(bytes));
        let nanos = nanos / u128::from(self.quota.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn max_slice(&self) -> Duration {
        MIN_SLICE.max(self.limit / MIN_SLICES)
    }
}

/// How many bytes a program may read before its kernel acknowledges any of them, if the largest
/// window that this kernel has offered is this large.
///
/// Linux reopens a closed window only when a sixteenth of the buffer, or a segment, is free
/// (`__tcp_select_window`), and frees memory only when a whole buffer of merged segments is read.
/// Measured at a closed window: 126 KiB of a window of 93 KiB (a segment of the loopback is 64 KiB),
/// 468 KiB of 3.3 MiB, 671 KiB of 7.9 MiB, 2,247 KiB of 31.5 MiB.
fn lump(window: u64) -> u64 {
    (window + window / 2).min(window / 16 + 256 * 1024)
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

    const QUOTA: usize = 1000;

    fn detector() -> (StallDetector, Instant) {
        let detector = StallDetector::new(LIMIT, QUOTA);
        let start = detector.last_check;
        (detector, start)
    }

    /// When a client is evicted that acknowledges as `acknowledged` says, with this much pending.
    fn evicted_after(
        mut stall: StallDetector,
        pending: u64,
        acknowledged: impl Fn(Duration) -> u64,
    ) -> Option<Duration> {
        let start = stall.last_check;
        stall.restart(acknowledged(Duration::ZERO), start);
        stall.check(acknowledged(Duration::ZERO), pending, start).expect("it has just begun");
        for _ in 0..10_000 {
            let now = stall.next_check().expect("a time");
            if stall.check(acknowledged(now - start), pending, now).is_err() {
                return Some(now - start);
            }
        }
        None
    }

    #[test]
    fn a_client_that_acknowledges_nothing_is_stalled_exactly_at_the_limit() {
        assert_eq!(evicted_after(detector().0, 1 << 40, |_| 7), Some(LIMIT));
    }

    #[test]
    fn a_larger_window_extends_the_limit_by_the_time_for_its_lump() {
        for window in [100, 100_000, 10_000_000, MAX_WINDOW, u64::MAX] {
            let (mut stall, _) = detector();
            stall.note_window(window);
            let credit = stall.time_for(lump(window.min(MAX_WINDOW)));
            assert_eq!(evicted_after(stall, 1 << 40, |_| 7), Some(LIMIT + credit), "{window}");
        }
    }

    #[test]
    fn a_client_at_the_asked_pace_is_never_stalled_however_large_its_lumps() {
        for window in [0, 90_000, 3_400_000, MAX_WINDOW] {
            let (mut stall, _) = detector();
            stall.note_window(window);
            let lump = lump(window).max(QUOTA as u64);
            let read = |time: Duration| {
                u64::try_from(time.as_nanos() * QUOTA as u128 / LIMIT.as_nanos()).expect("small")
            };
            let in_lumps = |time| read(time) / lump * lump;
            assert_eq!(evicted_after(stall, u64::MAX, in_lumps), None, "{window}");
        }
    }

    #[test]
    fn a_client_below_the_asked_pace_is_stalled_within_the_stated_time() {
        for percent in [0, 10, 50, 90, 99] {
            for window in [0, 90_000, MAX_WINDOW] {
                let (mut stall, _) = detector();
                stall.note_window(window);
                let pending = 50_000;
                let bound = stall.capacity() + stall.time_for(pending);
                let quota = QUOTA as u128 * percent / 100;
                let taken = |time: Duration| {
                    u64::try_from(time.as_nanos() * quota / LIMIT.as_nanos()).expect("small")
                };
                let evicted = evicted_after(stall, u64::MAX, taken);
                let in_time = evicted.is_some_and(|evicted| evicted <= bound);
                assert!(in_time || taken(bound) >= pending, "{percent} %, {window}: {evicted:?}");
            }
        }
    }

    #[test]
    fn a_client_that_was_fast_has_no_more_time_than_another() {
        let (mut stall, start) = detector();
        stall.check(0, 1 << 30, start).expect("it has just begun");
        let mut now = start;
        for fast in 1..100 {
            now += LIMIT / 8;
            stall.check(fast << 20, 1 << 30, now).expect("it is fast");
        }
        let slow = now;
        let stalled = (0..100).find(|_| {
            now = stall.next_check().expect("a time");
            stall.check(99 << 20, 1 << 30, now).is_err()
        });
        assert!(stalled.is_some() && now - slow <= LIMIT, "{:?}", now - slow);
    }

    #[test]
    fn a_client_that_acknowledges_the_little_there_is_is_never_stalled() {
        let (mut stall, start) = detector();
        stall.check(0, 1, start).expect("it has just begun");
        for step in 1..1000 {
            // There is always something pending, and it is never what was pending before.
            let result =
                stall.check(u64::from(step), u64::from(step) + 1, start + step * LIMIT / 4);
            assert_eq!(result, Ok(()), "{step}");
        }
    }

    #[test]
    fn a_suspension_of_the_process_stalls_no_client() {
        let (mut stall, start) = detector();
        stall.check(0, 1 << 30, start).expect("it has just begun");
        assert_eq!(stall.check(0, 1 << 30, start + 1000 * LIMIT), Ok(()));
    }

    #[test]
    fn extreme_limits_neither_overflow_nor_wait_forever() {
        for (limit, quota) in [
            (Duration::from_nanos(1), 1),
            (Duration::from_nanos(1), usize::MAX),
            (Duration::from_secs(365 * 24 * 3600), 1),
            (Duration::from_secs(365 * 24 * 3600), usize::MAX),
        ] {
            let mut stall = StallDetector::new(limit, quota);
            stall.note_window(u64::MAX);
            let now = stall.next_check().expect("a time");
            let _ = stall.check(u64::MAX, u64::MAX, now);
            stall.restart(u64::MAX, now);
            assert!(stall.horizon() >= lump(MAX_WINDOW));
        }
    }
}
