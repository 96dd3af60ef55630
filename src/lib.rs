//! A TCP chat and message relay built on OS threads and channels. It can be shut down at any moment
//! without losing an accepted message, and reports by recipient any delivery it could not complete.
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use std::net::TcpStream;
//!
//! use a_chat::{Config, Server};
//!
//! let server = Server::bind("127.0.0.1:0", Config::default())?;
//! let (address, handle) = (server.local_addr(), server.shutdown_handle());
//! let running = std::thread::spawn(|| server.run());
//!
//! let mut alice = TcpStream::connect(address)?;
//! alice.write_all(b"alice\nalice: a note to myself\n")?;
//! let mut lines = BufReader::new(&alice).lines();
//! assert_eq!(lines.next().expect("a line")?, "from alice: a note to myself");
//!
//! handle.shutdown();
//! let notice = "notice: server is shutting down, 1 of your lines were accepted";
//! assert_eq!(lines.next().expect("a line")?, notice);
//! assert!(lines.next().is_none());
//! # drop(lines);
//! # drop(alice);
//! let report = running.join().expect("run does not panic")?;
//! assert_eq!((report.owed, report.delivered, report.lost()), (1, 1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads and channels
//!
//! ```text
//!  signal ──> ShutdownHandle (a flag and a descriptor that every wait includes)
//!
//!  TcpListener ─> acceptor ─spawns─> reader ──Event──> broker ──Outgoing──> writer ─> socket
//!                    │ joins           │ one per client   one        one per client  │
//!                    └── its readers   └── spawns and joins its writer ──────────────┘
//! ```
//!
//! Messages flow one way, from readers through the broker to writers; no channel points back. A
//! writer that fails shuts down its socket, which ends its reader, which notifies the broker.
//!
//! # Shutdown
//!
//! A stage exits when its inbox is disconnected and empty; no stage ever has to choose between
//! "stop" and "message". After [`ShutdownHandle::shutdown`]:
//!
//! 1. The acceptor closes the listener and drops its broker sender.
//! 2. Each reader reads what its socket's receive queue holds at that moment, forwards it, and
//!    drops its broker sender. It sends no `Leave`, which would overtake lines that other readers
//!    still have for that client.
//! 3. Once its inbox is disconnected, the broker has routed everything. It queues a closing notice
//!    for each client and drops the queues.
//! 4. Each writer writes its queue, sends FIN, and waits until everything is acknowledged.
//!    Meanwhile its reader discards input: closing a socket with unread input sends RST, and an RST
//!    destroys data in flight.
//! 5. Threads are joined in reverse order of creation: writers by their readers, readers by the
//!    acceptor, acceptor and broker by [`Server::run`]. The [`Report`] sums what they return.
//!
//! # Invariants
//!
//! - Deliveries owed = delivered + lost, message for message.
//! - The messages from one client to another arrive in order and without gaps, up to the end of
//!   either connection.
//! - The broker never waits for a client. A client that sends to a slow recipient is slowed down by
//!   its own window, and no other client is. Each connection's memory is bounded, see
//!   [`Config::window`].
//! - The drain ends by its deadline, whatever clients do.
//!
//! # Non-goals
//!
//! No async runtime, no storage (a message is owed only to recipients connected when it is routed),
//! no rooms, no authentication, no encryption. The library neither prints, nor exits, nor handles
//! signals: the program supplies the address, the logger and the shutdown.

#[cfg(not(target_os = "linux"))]
compile_error!("a-chat needs Linux: its exact report rests on SIOCOUTQ and TCP_NOTSENT_LOWAT");

mod error;
#[cfg(feature = "serde")]
mod seconds;
mod server;
mod socket;
mod wire;

pub mod client;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(feature = "load")]
#[doc(hidden)]
pub mod load;

#[cfg(test)]
mod fault;

pub use error::Error;
pub use server::Server;
pub use server::config::Config;
pub use server::limits::{Capacity, enlarge_futex_hash, limit_malloc_arenas, raise_nofile_limit};
pub use server::report::{CloseReason, Loss, Report};
pub use server::running::Running;
pub use server::shutdown::ShutdownHandle;
pub use server::stats::{Stats, StatsHandle};
pub use wire::name::{InvalidName, Name};
