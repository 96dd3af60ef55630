//! The load generator of `a-chat stress` and of the benches: one piece of code.
//!
//! It is as cheap as it can be made, since it mostly runs on the machine that it measures: few
//! threads, large reads, large writes of batches that were built beforehand. All messages carry a
//! stamp, the sender's number and the message's, which is checked for each of them: what is lost,
//! out of order or there twice is counted, and anything else that goes wrong is an [`Error`].
//!
//! Hidden from the documentation, and no part of what the version number promises: it is public
//! only because the binary and the benches are crates of their own.
#![allow(clippy::must_use_candidate, clippy::return_self_not_must_use, reason = "as said above")]

mod control;
mod error;

// What each kind of load is, then what they stand on.
pub mod latency;
pub mod logins;
pub mod mesh;
pub mod paced;
pub mod stream;
mod sending;

pub mod check;
pub mod client;
pub mod inbox;
pub mod parse;
pub mod process;
pub mod protocol;
pub mod readable;
pub mod topology;

pub use control::{Amount, Control, Latencies, Outcome};
pub use error::Error;

use std::time::Duration;

/// How long the load waits for what must come. What has not come by then is lost.
pub const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it waits for a message that others of the same sender have overtaken.
const GRACE: Duration = Duration::from_secs(1);

/// How often a wait looks whether it is to go on.
const TICK: Duration = Duration::from_millis(100);
