//! Several nodes over a real engine: names are unique in all of them, lines reach clients of any node
//! once and in order, and every message is accounted for by exactly one node.
//!
//! Each test starts a `redis-server` of its own; where there is none, it prints a line and is skipped.
#![cfg(feature = "cluster")]
#![allow(clippy::pedantic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a long test tells what it does")]
#![allow(unreachable_pub, reason = "as in the helpers of other tests")]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "cli")]
#[path = "../common/process.rs"]
mod process;

#[cfg(feature = "cli")]
#[path = "../common/injection.rs"]
mod injection;

#[cfg(all(feature = "cli", feature = "status"))]
#[path = "../common/http.rs"]
mod http;

mod engine;
mod nodes;
mod proxy;

mod chaos;
mod faults;
#[cfg(feature = "cli")]
mod killed;
mod pressure;
#[cfg(feature = "cli")]
mod program;
mod receipts;
mod relay;
mod rolling;
mod rooms;
mod stopping;
