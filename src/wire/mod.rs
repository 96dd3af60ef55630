//! From bytes to lines, from lines to requests, from requests to frames. Pure: it knows of no socket
//! and of no thread.

pub(crate) mod batch;
pub(crate) mod framing;
pub(crate) mod protocol;
