//! Tests in which chance has a part: how many rounds, from which seed, and how to run one again.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

/// A round, and another with the next seed, as many as that, as long as there is time.
///
/// `A_CHAT_SEED`, `A_CHAT_ROUNDS` and `A_CHAT_SECONDS` take the place of what the test asks for.
pub fn rounds(test: &str, seed: u64, count: u64, time: Duration, mut round: impl FnMut(u64)) {
    let first = asked("A_CHAT_SEED").unwrap_or(seed);
    let end = first.saturating_add(asked("A_CHAT_ROUNDS").unwrap_or(count));
    let time = asked("A_CHAT_SECONDS").map_or(time, Duration::from_secs);
    let began = Instant::now();
    for seed in (first..end).take_while(|&seed| seed == first || began.elapsed() < time) {
        if panic::catch_unwind(AssertUnwindSafe(|| round(seed))).is_err() {
            let release = if cfg!(debug_assertions) { "" } else { "--release " };
            let file = env!("CARGO_CRATE_NAME");
            panic!(
                "seed {seed} failed; once more: A_CHAT_SEED={seed} A_CHAT_ROUNDS=1 \
                 cargo test {release}--test {file} -- --include-ignored --exact {test}"
            );
        }
    }
}

/// A number that the environment asks for.
pub fn asked(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|value| value.parse().expect("a number"))
}
