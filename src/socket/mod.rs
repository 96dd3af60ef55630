//! The listening socket, and what a client's socket can do. Nothing here blocks.

pub(crate) mod connection;
pub(crate) mod keepalive;
pub(crate) mod listener;
pub(crate) mod sys;
