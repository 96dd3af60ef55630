//! Sockets: how one is listened on, and what can be done with a client's. Nothing here waits.

pub(crate) mod connection;
pub(crate) mod listener;
pub(crate) mod sys;
