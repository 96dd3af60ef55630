//! The listening socket, and what a client's socket can do. Nothing here blocks.

#[cfg(target_os = "linux")]
pub(crate) mod connection;
pub(crate) mod keepalive;
#[cfg(target_os = "linux")]
pub(crate) mod listener;
#[cfg(target_os = "linux")]
pub(crate) mod peer;
pub(crate) mod stream;
#[cfg(target_os = "linux")]
pub(crate) mod position;
#[cfg(target_os = "linux")]
pub(crate) mod sys;
#[cfg(target_os = "linux")]
pub(crate) mod tcp;
#[cfg(target_os = "linux")]
pub(crate) mod unix;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(all(not(feature = "tls"), target_os = "linux"))]
#[path = "tls/absent.rs"]
pub(crate) mod tls;
#[cfg(target_os = "linux")]
#[allow(dead_code, reason = "who watches files comes with the features that need it")]
pub(crate) mod watch;
