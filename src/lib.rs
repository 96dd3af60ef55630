//! A chat and message relay over TCP, on operating-system threads and channels, that can be
//! stopped at any moment: no accepted message is lost, and one that can not be delivered is named.
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
//!  TcpListener ─> acceptor ─starts─> reader ──Event──> broker ──Outgoing──> writer ─> socket
//!                    │ joins           │ one per client   one        one per client  │
//!                    └── its readers   └── starts and joins its writer ──────────────┘
//! ```
//!
//! Every channel points right, from the readers to the broker to the writers, and none points
//! back. A writer that fails ends its socket, which ends its reader, which tells the broker.
//!
//! # How it stops
//!
//! A stage ends when its inbox is disconnected and empty; nothing on the way of a message ever
//! chooses between "stop" and "message". After [`ShutdownHandle::shutdown`]:
//!
//! 1. The acceptor closes the listener and lets go of its broker sender.
//! 2. Each reader takes what its socket's kernel queue holds at that moment, hands it over, and
//!    lets go of its broker sender. It sends no `Leave`, which would overtake what other readers
//!    have still to say to that client.
//! 3. The broker has routed everything when its inbox is disconnected. It queues a closing notice
//!    for each client and lets go of the queues.
//! 4. Each writer writes what is queued, sends FIN, and stays until everything is acknowledged,
//!    while its reader throws input away: a socket that is closed with unread input answers with
//!    a reset, and a reset discards what is on its way.
//! 5. Writers are joined by their readers, readers by the acceptor, acceptor and broker by
//!    [`Server::run`]: in reverse order of their start. The [`Report`] is the sum of what they
//!    return.
//!
//! # What always holds
//!
//! - Deliveries owed = delivered + lost, message for message.
//! - The messages from one client to another arrive in order and without gaps, up to the end of
//!   either connection.
//! - The broker never waits for a client. Who sends to a slow recipient is slowed down by its own
//!   window, nobody else is; memory is bounded by connections × window, beside a read buffer each.
//! - The drain ends by its deadline, whatever clients do.
//!
//! # What is deliberately absent
//!
//! No async runtime, no storage (a message is owed to who is connected when it is routed), no
//! rooms, no authentication, no encryption. The library neither prints nor exits nor handles
//! signals: the program brings the address, the logger and the stop.

#[cfg(not(target_os = "linux"))]
compile_error!("a-chat needs Linux: its exact report rests on SIOCOUTQ and TCP_NOTSENT_LOWAT");

mod error;
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
pub use server::limits::{Capacity, enlarge_futex_hash, raise_nofile_limit};
pub use server::report::{CloseReason, Loss, Report};
pub use server::shutdown::ShutdownHandle;
pub use server::stats::{Stats, StatsHandle};
pub use wire::protocol::Name;
