//! Randomised tests: how many rounds run, from which seed, and how to repeat one.

use std::env;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// How many rounds run at a time where they may: most of a round is waiting.
const SIDE_BY_SIDE: usize = 3;

/// Runs `count` rounds with consecutive seeds, as long as `time` permits, but at least one.
///
/// `A_CHAT_SEED`, `A_CHAT_ROUNDS` and `A_CHAT_SECONDS` override the arguments.
pub fn rounds(test: &str, seed: u64, count: u64, time: Duration, mut round: impl FnMut(u64)) {
    let seeds = seeds(seed, count);
    let first = seeds.start;
    let time = env_number("A_CHAT_SECONDS").map_or(time, Duration::from_secs);
    let began = Instant::now();
    for seed in seeds.take_while(|&seed| seed == first || began.elapsed() < time) {
        run(test, seed, &mut round);
    }
}

/// Runs `count` rounds with consecutive seeds, several at a time.
///
/// `A_CHAT_SEED` and `A_CHAT_ROUNDS` override the arguments.
#[allow(dead_code, reason = "not every test runs them so")]
pub fn rounds_side_by_side(test: &str, seed: u64, count: u64, round: impl Fn(u64) + Sync) {
    let Range { start, end } = seeds(seed, count);
    let next = AtomicU64::new(start);
    let work = || {
        loop {
            let seed = next.fetch_add(1, SeqCst);
            if seed >= end {
                break;
            }
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(test, seed, &round)));
            if let Err(panic) = outcome {
                // The others begin no further round.
                next.store(end, SeqCst);
                panic::resume_unwind(panic);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        }
    });
}

fn seeds(seed: u64, count: u64) -> Range<u64> {
    let first = env_number("A_CHAT_SEED").unwrap_or(seed);
    first..first.saturating_add(env_number("A_CHAT_ROUNDS").unwrap_or(count))
}

/// Runs a round, and says how to repeat it if it fails.
fn run(test: &str, seed: u64, round: impl FnOnce(u64)) {
    if panic::catch_unwind(AssertUnwindSafe(|| round(seed))).is_err() {
        let release = if cfg!(debug_assertions) { "" } else { "--release " };
        let file = env!("CARGO_CRATE_NAME");
        panic!(
            "seed {seed} failed; to repeat it: A_CHAT_SEED={seed} A_CHAT_ROUNDS=1 \
             cargo test {release}--test {file} -- --include-ignored --exact {test}"
        );
    }
}

/// A number from an environment variable, if that is set.
pub fn env_number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|value| value.parse().expect("a number"))
}
