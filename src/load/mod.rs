//! The load generator shared by `a-chat stress` and the benches.
//!
//! It is as cheap as possible, because it mostly runs on the machine it measures: few threads,
//! large reads, large writes of prepared batches. Every message carries a stamp of its sender's
//! number and its own number, and every stamp is checked: lost, reordered and repeated messages are
//! counted, and anything else that goes wrong is an [`Error`].
//!
//! Hidden from the documentation and outside semantic versioning: it is public only because the
//! binary and the benches are separate crates.
#![allow(clippy::must_use_candidate, clippy::return_self_not_must_use, reason = "as said above")]

mod control;
mod error;
#[cfg(feature = "tls")]
mod encrypted;

// The kinds of load first, then their building blocks.
pub mod beside;
pub mod latency;
pub mod logins;
pub mod mesh;
pub mod open_loop;
pub mod stream;
mod sending;

pub mod check;
pub mod client;
pub mod inbox;
pub mod link;
pub mod parse;
pub mod process;
pub mod protocol;
pub mod readable;
pub mod tokens;
pub mod topology;

pub use control::{Aborted, Amount, Control, Latencies, Outcome, timed};
pub use error::Error;

use std::time::Duration;

/// How long the load waits for arrivals. Messages that have not arrived by then are lost.
pub const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it waits for a message that later ones of the same sender overtook.
const REORDER_TIMEOUT: Duration = Duration::from_secs(1);

/// Upper bound of a single wait, after which the load checks whether it was stopped.
const TICK: Duration = Duration::from_millis(100);
