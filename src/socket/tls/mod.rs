//! TLS 1.3 between a socket and the threads that use it. Nothing here blocks, and no lock is held
//! across a wait.
//!
//! A server's connection has two halves besides the session itself. Only the thread that receives
//! uses [`Incoming`](incoming::Incoming), and only the one that sends uses
//! [`Outgoing`](outgoing::Outgoing): the reader until its client has logged in, then the writer. Each
//! locks the session for one record, or for what one system call has received.
//!
//! A client's connection is simpler: its calls block, and what it sends is not counted.

#[cfg(target_os = "linux")]
pub(crate) mod channel;
#[cfg(target_os = "linux")]
mod incoming;
#[cfg(target_os = "linux")]
mod outgoing;
#[cfg(target_os = "linux")]
mod ends;
pub(crate) mod session;
pub(crate) mod blocking;
#[cfg(target_os = "linux")]
pub(crate) mod identity;

#[cfg(all(test, target_os = "linux"))]
mod tests;
