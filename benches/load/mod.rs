//! The load generator, shared by the benches here and by the comparison with other servers.
//!
//! It is as cheap as it can be made, since it runs on the machine that it measures: few threads,
//! large reads, large writes of batches that were built beforehand. All messages carry a stamp,
//! the sender's number and the message's, which is checked for each of them.
#![allow(dead_code, unreachable_pub, reason = "each program uses its own part of this")]

pub mod client;
pub mod crowd;
pub mod floor;
pub mod latency;
pub mod mesh;
pub mod process;
pub mod protocol;
pub mod stream;
pub mod table;
pub mod topology;

use std::time::Duration;

/// How long the load waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(10);
