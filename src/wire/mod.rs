//! Bytes to lines, lines to requests, requests to frames. Pure: uses no sockets and no threads.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "half of it is the server's"))]

#[cfg(feature = "proxy")]
pub(crate) mod address_range;
pub(crate) mod batch;
pub(crate) mod endpoint;
pub(crate) mod framing;
pub(crate) mod loss;
pub(crate) mod name;
pub(crate) mod protocol;
#[cfg(all(feature = "proxy", target_os = "linux"))]
pub(crate) mod proxy_header;
pub(crate) mod reasons;
pub(crate) mod sync;
pub(crate) mod room;
pub(crate) mod token;
