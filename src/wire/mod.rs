//! Bytes to lines, lines to requests, requests to frames. Pure: uses no sockets and no threads.

pub(crate) mod batch;
pub(crate) mod framing;
pub(crate) mod name;
pub(crate) mod protocol;
pub(crate) mod reasons;
