//! Several nodes as one relay: what a node needs beside its own clients. The engine orders and carries,
//! two threads talk to it, and the state between them and the broker is pure.
//!
//! `egress` brings to the engine what the broker orders, `ingress` reads the node's inbox and gives it
//! to the broker. No channel points back: what a thread on the right has to say to one on the left
//! goes through the engine.

// The threads.
pub(crate) mod ingress;
pub(crate) mod egress;

// What they and the broker hold. Pure.
pub(crate) mod node;
pub(crate) mod orders;
pub(crate) mod outgoing;
pub(crate) mod pages;
pub(crate) mod budget;
pub(crate) mod seats;
pub(crate) mod answers;
pub(crate) mod outbox;
pub(crate) mod lease;
pub(crate) mod parcel;
pub(crate) mod ranges;

pub(crate) mod link;
pub(crate) mod engine;
pub(crate) mod options;

#[cfg(test)]
mod egress_test;
#[cfg(test)]
mod lockstep;
#[cfg(test)]
mod node_test;
