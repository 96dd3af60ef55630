//! Attacks: what honest and hostile clients do to the real executable, and whether every bound that
//! the documents state still holds. In each of them the account is checked exactly: the report adds
//! up, the log's records add up to the report, the closing notices add up to the accepted lines,
//! and every recipient got what the report calls delivered, in order.
//!
//! Each attack has a short form, which runs with all other tests, and a long one with more clients
//! and more time, which prints its figures: `ATTACKS=long cargo test --release --test attacks --
//! --nocapture --test-threads 1`. `ATTACKS_EXECUTABLE` names another executable to attack.
#![cfg(feature = "cli")]
#![allow(unreachable_pub, reason = "as in the helpers of other tests")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/netns.rs"]
mod netns;
#[path = "../common/process.rs"]
mod process;

// What an attack consists of.
mod target;
mod account;
mod crowd;
mod floods;
mod innocents;
mod tun;
mod raw_tcp;

// The attacks.
mod drain;
mod evasion;
mod force;
mod latency;
mod memory;
mod rooms;
mod losses;
mod afterwards;
mod storms;
mod slow_readers;
mod stalls;
mod acknowledgements;
mod environment;
mod embedded;
mod hashing;
