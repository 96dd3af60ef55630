//! The suites once more, over TLS: the rig's clients and servers encrypt everything here, see
//! `common/link.rs`. The same promise, the same model, the same tests.
#![allow(clippy::duplicate_mod, reason = "each suite has the rig as a module of its own")]

#[path = "backpressure.rs"]
mod backpressure;
#[path = "hostile.rs"]
mod hostile;
#[path = "login.rs"]
mod login;
#[path = "losses.rs"]
mod losses;
#[path = "relay.rs"]
mod relay;
#[path = "rooms.rs"]
mod rooms;
#[path = "shutdown.rs"]
mod shutdown;
#[path = "sync.rs"]
mod sync;
