//! Randomised tests: how many rounds run, from which seed, and how to repeat one.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

/// Runs `count` rounds with consecutive seeds, as long as `time` permits, but at least one.
///
/// `A_CHAT_SEED`, `A_CHAT_ROUNDS` and `A_CHAT_SECONDS` override the arguments.
pub fn rounds(test: &str, seed: u64, count: u64, time: Duration, mut round: impl FnMut(u64)) {
    let first = env_number("A_CHAT_SEED").unwrap_or(seed);
    let end = first.saturating_add(env_number("A_CHAT_ROUNDS").unwrap_or(count));
    let time = env_number("A_CHAT_SECONDS").map_or(time, Duration::from_secs);
    let began = Instant::now();
    for seed in (first..end).take_while(|&seed| seed == first || began.elapsed() < time) {
        if panic::catch_unwind(AssertUnwindSafe(|| round(seed))).is_err() {
            let release = if cfg!(debug_assertions) { "" } else { "--release " };
            let file = env!("CARGO_CRATE_NAME");
            panic!(
                "seed {seed} failed; to repeat it: A_CHAT_SEED={seed} A_CHAT_ROUNDS=1 \
                 cargo test {release}--test {file} -- --include-ignored --exact {test}"
            );
        }
    }
}

/// A number from an environment variable, if that is set.
pub fn env_number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|value| value.parse().expect("a number"))
}
