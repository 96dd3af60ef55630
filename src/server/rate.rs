//! How many lines a second a client may send. Plain state, owned by its reader.

use std::time::{Duration, Instant};

/// How long a client that was quiet may send faster than its rate.
const BURST: Duration = Duration::from_secs(1);

/// How many recipients cost as much as one line.
const RECIPIENTS_PER_LINE: usize = 16;

/// A token bucket that holds a second's lines.
#[derive(Debug)]
pub(crate) struct Rate {
    lines_per_second: u32,
    /// When the bucket is full again.
    full_at: Instant,
    /// Whether the client was told that it is slowed down.
    pub(crate) is_told: bool,
}

impl Rate {
    pub(crate) fn new(lines_per_second: u32, now: Instant) -> Self {
        Self { lines_per_second: lines_per_second.max(1), full_at: now, is_told: false }
    }

    pub(crate) fn lines_per_second(&self) -> u32 {
        self.lines_per_second
    }

    /// Until when the next line must wait, if it must.
    pub(crate) fn wait_until(&self, now: Instant) -> Option<Instant> {
        let ahead = self.full_at.checked_duration_since(now)?;
        let excess = ahead.checked_sub(BURST)?;
        // Up to one line more than a second's may be on the way.
        (!excess.is_zero()).then(|| now + excess)
    }

    /// Counts a line, by the number of its recipients.
    pub(crate) fn charge(&mut self, line: &[u8], now: Instant) {
        let cost = u32::try_from(cost(line)).unwrap_or(u32::MAX);
        let time = Duration::from_secs(1).saturating_mul(cost) / self.lines_per_second;
        let from = self.full_at.max(now);
        self.full_at = from.checked_add(time).unwrap_or(from);
    }
}

/// What a line costs, in lines.
fn cost(line: &[u8]) -> usize {
    let list = memchr::memchr(b':', line).map_or(&[][..], |colon| &line[..colon]);
    let recipients = 1 + memchr::memchr_iter(b',', list).count();
    (recipients / RECIPIENTS_PER_LINE).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many lines pass in this time, sent as fast as possible.
    fn passed(rate: u32, line: &[u8], time: Duration) -> u32 {
        let start = Instant::now();
        let (mut rate, mut now, mut count) = (Rate::new(rate, start), start, 0);
        loop {
            if let Some(until) = rate.wait_until(now) {
                assert!(until > now, "it must not spin");
                now = until;
            }
            if now - start > time {
                return count;
            }
            rate.charge(line, now);
            count += 1;
        }
    }

    #[test]
    fn a_second_of_lines_passes_at_once_and_then_the_rate_holds() {
        for rate in [1, 7, 100, 100_000] {
            for seconds in [0, 1, 10] {
                let count = passed(rate, b"bob: hello", Duration::from_secs(seconds));
                let expected = rate * (1 + u32::try_from(seconds).expect("small"));
                assert!((expected..=expected + 2).contains(&count), "{rate}, {seconds}: {count}");
            }
        }
    }

    #[test]
    fn a_line_to_many_costs_as_much_as_several() {
        let list = |count: usize| [b"bob,".repeat(count - 1), b"bob: a, b, c, d".to_vec()].concat();
        let costs = [1, 16, 31, 32, 1024].map(|count| cost(&list(count)));
        assert_eq!(costs, [1, 1, 1, 2, 64]);
        assert_eq!(cost(b"/who"), 1);
        let (one, many) = (passed(100, &list(1), BURST), passed(100, &list(1024), BURST));
        assert!((one / 64..=one / 64 + 2).contains(&many), "{one} and {many}");
    }

    #[test]
    fn a_client_that_was_quiet_has_no_more_than_a_second_of_lines() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        let later = start + Duration::from_secs(3600);
        let burst = (0..).take_while(|_| {
            let may = rate.wait_until(later).is_none();
            rate.charge(b"", later);
            may
        });
        assert!((10..=11).contains(&burst.count()));
    }
}
