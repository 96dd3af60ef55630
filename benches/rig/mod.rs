//! What both benches need beyond the load generator of the library: servers to start, baselines,
//! and the table of ratios.
#![allow(dead_code, unreachable_pub, reason = "each bench uses its own part of this")]

pub mod crowd;
pub mod baseline;
#[cfg(feature = "tls")]
pub mod certificate;
pub mod servers;
pub mod table;

use std::time::Duration;

use a_chat::load::{Aborted, Outcome};

/// The elapsed time of a load, which must have lost nothing.
pub fn clean(outcome: Result<Outcome, Aborted>) -> Duration {
    match outcome {
        Ok(outcome) if outcome.is_clean() => outcome.elapsed,
        Ok(outcome) => panic!("not all arrived, once and in order: {outcome:?}"),
        Err(aborted) => panic!("{aborted}"),
    }
}
