//! A TCP chat and message relay built on OS threads and channels. It can be shut down at any moment
//! without losing an accepted message, and reports by recipient any delivery it could not complete.
//!
//! ```
//! use a_chat::client::{Client, Event};
//! use a_chat::{Config, Name, Server};
//!
//! let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
//!
//! let mut alice = Client::connect(server.local_addr(), &Name::new("alice")?)?;
//! let mut bob = Client::connect(server.local_addr(), &Name::new("bob")?)?;
//! alice.send("bob: hello")?;
//! assert!(matches!(bob.recv()?, Event::Message { from, text } if from == "alice" && text == "hello"));
//!
//! server.shutdown_handle().shutdown();
//! // Each client learns how many of its lines were accepted, and the server waits for its close.
//! assert_eq!(alice.recv()?, Event::ShuttingDown { accepted: 1 });
//! # drop((alice, bob));
//! let report = server.join()?;
//! assert_eq!((report.owed, report.delivered, report.lost()), (1, 1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The other side is in [`client`]: [`client::Client`] for one thread, its halves for two, and
//! [`client::Session`], which survives restarts of the server. Any program that can write lines to a
//! socket is a client too.
//!
//! # In a program of your own
//!
//! ```no_run
//! use a_chat::{Config, Server};
//!
//! // Limits of the process, which its first thread inherits: call these before it is spawned.
//! // Without them fewer clients fit, or they cost more.
//! let _ = a_chat::enlarge_futex_hash();
//! let _ = a_chat::raise_nofile_limit();
//! let server = Server::bind("127.0.0.1:8080", Config::default())?;
//! let handle = server.shutdown_handle();
//! // Signals are the program's, for example with the crate ctrlc:
//! // ctrlc::set_handler(move || handle.signalled())?;
//! # drop(handle);
//! let report = server.run()?;
//! # Ok::<(), a_chat::Error>(())
//! ```
//!
//! - [`enlarge_futex_hash`] matters for thousands of clients, [`raise_nofile_limit`] for more than
//!   the soft limit of open files allows, often 1024. Both do what they can; [`Server::capacity`]
//!   says what the machine holds in the end.
//! - [`ShutdownHandle::signalled`] takes signals that come in pairs for one. A handler that calls
//!   `shutdown` at the first and `force` at the second loses messages whenever a shell that closes
//!   sends SIGHUP twice.
//! - The server logs through [`log`](https://docs.rs/log), from threads with 256 KiB of stack. A
//!   logger has to make do with that, and one that blocks delays clients.
//!
//! # Cargo features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `cli` | yes | everything that only the program `a-chat` needs: turn it off in a program of your own |
//! | `proxy` | with the program | `Config::proxy_from`: a proxy in front says who its client is, by a PROXY header |
//! | `users` | yes | names that only their users can take, proven by tokens: [`Config::users`] |
//! | `serde` | with `cli` | `Serialize` for [`Stats`], [`Report`] and what they hold, `Deserialize` for [`Name`] and [`Config`] |
//! | `status` | with `cli` | `Observer`: who is connected now, and what waits for whom |
//!
//! Other features are internal. The client builds on every Unix, the server on Linux only: its exact
//! report rests on `SIOCOUTQ` and `TCP_NOTSENT_LOWAT`. The oldest supported Rust is 1.85; raising it
//! is a minor version.
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
//! no encryption without the feature `tls`. The library neither prints, nor exits, nor handles
//! signals: the program supplies the address, the logger and the shutdown.

#[cfg(all(feature = "cluster", target_os = "linux"))]
mod cluster;
#[cfg(target_os = "linux")]
mod error;
#[cfg(target_os = "linux")]
mod server;
mod socket;
mod wire;

pub mod client;

#[cfg(all(any(test, fuzzing), target_os = "linux"))]
pub mod fuzzing;
#[cfg(all(feature = "unstable-load", target_os = "linux"))]
#[doc(hidden)]
pub mod load;

#[cfg(test)]
mod fault;

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(feature = "cluster", target_os = "linux"))]
pub use cluster::options::Cluster;
#[cfg(target_os = "linux")]
pub use error::Error;
#[cfg(target_os = "linux")]
pub use server::Server;
#[cfg(all(feature = "cluster", target_os = "linux"))]
pub use server::cluster_report::{ClusterReport, NodeLoss, NodeLossReason, RoomCopies};
#[cfg(target_os = "linux")]
pub use server::config::Config;
#[cfg(target_os = "linux")]
pub use server::disconnects::Disconnects;
#[cfg(target_os = "linux")]
pub use server::files::{FileStatus, FilesHandle};
#[cfg(target_os = "linux")]
pub use server::limits::{Capacity, enlarge_futex_hash, limit_malloc_arenas, raise_nofile_limit};
#[cfg(all(feature = "status", target_os = "linux"))]
pub use server::observer::{Activity, ClientInfo, Observer};
#[cfg(target_os = "linux")]
pub use server::report::{CloseReason, Loss, Report};
#[cfg(target_os = "linux")]
pub use server::running::Running;
#[cfg(target_os = "linux")]
pub use server::shutdown::ShutdownHandle;
#[cfg(all(feature = "cluster", target_os = "linux"))]
pub use server::stats::ClusterStats;
#[cfg(target_os = "linux")]
pub use server::stats::{Stats, StatsHandle};
#[cfg(all(feature = "tls", target_os = "linux"))]
pub use server::tls::{PlainText, ServerTls};
#[cfg(all(feature = "users", target_os = "linux"))]
pub use server::users::table::{InvalidUserFile, User, UserTable};
#[cfg(target_os = "linux")]
pub use socket::listener::Listener;
#[cfg(target_os = "linux")]
pub use socket::unix::UnixOptions;
#[cfg(feature = "proxy")]
pub use wire::address_range::{AddressRange, InvalidRange};
pub use wire::endpoint::Endpoint;
pub use wire::name::{InvalidName, Name};
pub use wire::room::{InvalidRoom, Room};
#[cfg(feature = "users")]
pub use wire::token::TokenHash;
pub use wire::token::{InvalidToken, Token};
