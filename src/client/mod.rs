//! The client: connect, log in, send, receive, half-close, and learn which lines were accepted.
//!
//! ```
//! use a_chat::client::{Client, DisconnectReason, Event, RefusalReason};
//! use a_chat::{Config, Name, Server};
//!
//! let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
//!
//! let alice = Name::new("alice")?;
//! let mut client = Client::connect(server.local_addr(), &alice)?;
//! assert_eq!(client.send("alice: a note to myself")?, 1);
//! assert_eq!(client.send("bob: hello")?, 2);
//! client.half_close();
//!
//! let note = Event::Message { from: alice, text: "a note to myself".to_owned() };
//! assert_eq!(client.recv()?, note);
//! let Event::Refused(refusal) = client.recv()? else { panic!("bob is not connected") };
//! assert_eq!((refusal.line, refusal.text.as_str()), (2, "bob: hello"));
//! assert_eq!(refusal.reason, RefusalReason::NoSuchPeer(vec!["bob".to_owned()]));
//! assert_eq!(client.events().next(), None);
//!
//! let outcome = client.finish(None);
//! assert!(matches!(outcome.reason, DisconnectReason::Left));
//! assert_eq!((outcome.accepted, outcome.unaccepted.len()), (2, 0));
//! # server.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Client`] is for one thread. [`connect`] gives the two halves of a connection, an [`Outbox`] and
//! an [`Inbox`], each of which any thread may own.
//!
//! # Threads and channels
//!
//! ```text
//!  Outbox ──Sent──> writer ─> socket ─> reader ──Block──> Inbox
//!    ^ │               └────────Sent───────^ │
//!    │ └── joins both                        │
//!    └───────────────Update──────────────────┘
//! ```
//!
//! Every stage ends by disconnection: without its outbox the writer writes what is left and
//! half-closes, and at the end of the server's stream the reader drops its end of the inbox.
//!
//! # Which lines are known to be accepted
//!
//! A server reports how many lines it accepted only when it shuts down. But it replies to a client's
//! lines in order, after it accepted them, so each reply shows that all lines before were accepted.
//! If none comes for a while (an eighth of the room for lines, a second without sending, the end) the
//! writer asks for one: it sends `/who` with the client's own name, a line that the user never sees
//! and that has no number.
//!
//! So an [`Outbox`] keeps at most 1 MiB of lines, and [`ConnectionOutcome`] says of each whether it was
//! accepted, may have been, or was not. To go on after a restart, [`resume`] after
//! [`ConnectionOutcome::settled`] and send [`ConnectionOutcome::unaccepted`]: nothing is lost and
//! nothing is sent twice. [`Session`] does that on its own.

// In the order in which a line meets them, then what they stand on.
mod session;
mod options;
mod duplex;
mod outbox;
mod threads;
mod writer;
mod reader;
mod ledger;
mod history;
mod blocks;
mod inbox;
mod event;
mod room;
mod shared;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod update;
mod outcome;
mod error;

use std::net::ToSocketAddrs;

pub use self::duplex::{Client, ClientEvents};
pub use self::error::{AbsentError, ConnectError, SendError};
pub use self::event::{Event, LostLines, LostRecipient, Refusal, Synced, WhoReply};
pub use self::inbox::{Block, BlockEvents, Inbox, InboxEvents};
pub use self::options::Options;
pub use self::outbox::Outbox;
pub use self::outcome::{ConnectionOutcome, DisconnectReason, Lines, LinesIter};
pub use self::room::{RoomEvent, RoomNotices};
pub use self::session::{
    LineReceiver, LineSender, Session, SessionHandle, SessionOutput, SessionStatus, SessionSummary,
    lines,
};
#[cfg(feature = "tls")]
pub use self::tls::{Tls, TlsError};
pub use crate::wire::loss::LossReason;
pub use crate::wire::reasons::{RefusalReason, Rejection};
pub use crate::wire::sync::SyncOutcome;

#[doc(hidden)]
pub use self::blocks::LineBlocks;

use crate::wire::name::Name;

/// Connects to the first of the addresses that answers, and logs in.
///
/// Lines are numbered from 1 on, as the server numbers them. [`Options`] has more to choose from.
///
/// # Errors
///
/// [`ConnectError`] says what failed, and where.
pub fn connect(address: impl ToSocketAddrs, name: &Name) -> Result<(Outbox, Inbox), ConnectError> {
    resume(address, name, 0)
}

/// Connects and logs in to go on with what an earlier connection began: lines are numbered from
/// `after + 1` on, here and in everything that the server says about them.
///
/// ```
/// use a_chat::client;
/// # use a_chat::{Config, Name, Server};
/// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
/// # let next = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
/// # let (address, next_address) = (server.local_addr(), next.local_addr());
/// # let name = Name::new("alice")?;
///
/// let (mut outbox, _inbox) = client::connect(address, &name)?;
/// outbox.send("alice: one")?;
/// # server.stop()?;
/// // The server shuts down, sooner or later.
/// let outcome = outbox.finish(None);
///
/// let (mut outbox, _inbox) = client::resume(next_address, &name, outcome.settled())?;
/// if !outcome.unaccepted.is_empty() {
///     let numbers = outbox.send_lines(outcome.unaccepted.as_bytes())?;
///     assert_eq!(numbers, outcome.unaccepted.numbers());
/// }
/// # drop((outbox, _inbox));
/// # next.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// As for [`connect`].
pub fn resume(
    address: impl ToSocketAddrs,
    name: &Name,
    after: u64,
) -> Result<(Outbox, Inbox), ConnectError> {
    Options::new(name).after(after).connect(address).map(Client::split)
}
