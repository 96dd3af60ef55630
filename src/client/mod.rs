//! A client: connect, log in, send, receive, half-close, and know what was accepted.
//!
//! ```
//! use a_chat::client::{self, DisconnectReason, Event};
//! use a_chat::{Config, Name, Server};
//!
//! let server = Server::bind("127.0.0.1:0", Config::default())?;
//! let (address, handle) = (server.local_addr(), server.shutdown_handle());
//! let running = std::thread::spawn(|| server.run());
//!
//! let alice = Name::new(b"alice").expect("a good name");
//! let (mut outbox, inbox) = client::connect(address, &alice)?;
//! assert_eq!(outbox.send("alice: a note to myself")?, 1);
//! assert_eq!(outbox.send("bob: hello")?, 2);
//! outbox.half_close();
//!
//! let mut events = inbox.events();
//! let note = Event::Message { from: alice, text: "a note to myself".to_owned() };
//! assert_eq!(events.next(), Some(note));
//! let Some(Event::Refused(refusal)) = events.next() else { panic!("bob is not there") };
//! assert_eq!((refusal.line, refusal.text.as_str()), (2, "bob: hello"));
//! assert_eq!(events.next(), None);
//!
//! let ended = outbox.finish(None);
//! assert!(matches!(ended.reason, DisconnectReason::Left));
//! assert_eq!((ended.accepted, ended.unaccepted.count()), (2, 0));
//! # handle.shutdown();
//! # running.join().expect("run does not panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads and channels
//!
//! ```text
//!  Outbox ──Sent──> writer ─> socket ─> reader ──Block──> Inbox
//!    ^ │               └────────Sent───────^ │
//!    │ └── joins both                        │
//!    └────────────────News───────────────────┘
//! ```
//!
//! Everything ends by disconnection: without its outbox the writer writes what is left and
//! half-closes; at the end of the server's stream the reader lets the inbox go.
//!
//! # What is known to be accepted
//!
//! A server says how many lines it accepted only when it stops. But it answers a client's lines in
//! order, after it has taken them in, so that each answer shows that all lines before were
//! accepted. Where there is none for a while (128 KiB of lines, a second of silence, the end) the
//! writer asks for one: it sends `/who` with the client's own name, a line of its own that the
//! user never sees and that no number counts.
//!
//! So an [`Outbox`] keeps no more than 1 MiB of lines, and [`ConnectionOutcome`] tells of each whether it was
//! accepted, may have been, or was not. To go on after a restart, [`resume`] and send
//! [`ConnectionOutcome::unaccepted`]: nothing is lost and nothing sent twice.

// In the order in which a line meets them, then what they stand on.
mod outbox;
mod writer;
mod reader;
mod ledger;
mod blocks;
mod inbox;
mod outcome;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{error, fmt, slice};

use crossbeam_channel::{bounded, select, unbounded};
use socket2::SockRef;

pub use self::blocks::LineBlocks;
pub use self::inbox::{Block, Event, Events, Inbox, Refusal};
pub use self::outbox::{Outbox, SendError};
pub use self::outcome::{ConnectionOutcome, DisconnectReason, Lines};

use self::outbox::{News, Threads, who_query};
use self::reader::Reader;
use self::writer::Writer;
use crate::socket::listener::keepalive;
use crate::wire::protocol::{self, Name, Request};

/// How long one address may take to answer the first packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may take to answer the login: a little longer than it gives to clients.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How many blocks of what the server says may wait in an inbox, each of 64 KiB or one line.
const INBOX: usize = 16;

/// Connects to the first of the addresses that answers, and logs in.
///
/// Lines are numbered from 1 on, as the server numbers them.
///
/// # Errors
///
/// [`ConnectError`] tells what refused what.
pub fn connect(address: impl ToSocketAddrs, name: &Name) -> Result<(Outbox, Inbox), ConnectError> {
    resume(address, name, 0)
}

/// Connects and logs in to go on with what an earlier connection has begun: lines are numbered
/// from `after + 1` on, also in what the server says about them.
///
/// # Errors
///
/// As for [`connect`].
pub fn resume(
    address: impl ToSocketAddrs,
    name: &Name,
    after: u64,
) -> Result<(Outbox, Inbox), ConnectError> {
    let socket = open(address).map_err(ConnectError::Connect)?;
    // If the server has closed already, it has said why.
    let _ = (&socket).write_all(format!("{name}\n").as_bytes());
    let (outbox, inbox) = start(socket, name, after).map_err(ConnectError::Start)?;
    log_in(outbox, inbox, name)
}

/// The recipients of a line, as far as they are names at all.
///
/// ```
/// let names: Vec<_> = a_chat::client::recipients(b"bob, carol: hi").collect();
/// assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["bob", "carol"]);
/// assert_eq!(a_chat::client::recipients(b"/who bob").count(), 0);
/// ```
pub fn recipients(line: &[u8]) -> impl Iterator<Item = Name> {
    let list = match protocol::parse_request(line) {
        Ok(Request::Message { recipients, .. }) => recipients,
        _ => b"",
    };
    protocol::names(list).filter_map(Name::new)
}

fn open(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let mut failure = None;
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(socket) => {
                // Without these it works too, if less well.
                let _ = socket.set_nodelay(true);
                let _ = SockRef::from(&socket).set_tcp_keepalive(&keepalive());
                return Ok(socket);
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// Starts the threads of a connection.
fn start(socket: TcpStream, name: &Name, after: u64) -> io::Result<(Outbox, Inbox)> {
    let socket = Arc::new(socket);
    let (queue, queued) = unbounded();
    let (ledger, sent) = unbounded();
    let (news, heard) = unbounded();
    let (inbox, blocks) = bounded(INBOX);
    let (keep_receiving, abandoned) = bounded(0);
    let who_query = who_query(slice::from_ref(name)).into();
    let writer = Writer::new(Arc::clone(&socket), queued, ledger, news.clone(), who_query);
    let reader = Reader::new(Arc::clone(&socket), sent, news, after);
    let writer = spawn("client-writer", || writer.run())?;
    let reader = match spawn("client-reader", move || reader.run(inbox, &abandoned)) {
        Ok(reader) => reader,
        Err(error) => {
            drop(queue);
            // It has nothing to write, so its end is near.
            let _ = writer.join();
            return Err(error);
        }
    };
    let threads = Threads::new(keep_receiving, socket, writer, reader);
    let inbox = Inbox { early: VecDeque::new(), blocks };
    Ok((Outbox::new(queue, heard, threads, after), inbox))
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Waits until the server has answered the first question, which shows that the login has worked.
fn log_in(
    mut outbox: Outbox,
    mut inbox: Inbox,
    name: &Name,
) -> Result<(Outbox, Inbox), ConnectError> {
    let deadline = Instant::now().checked_add(LOGIN_TIMEOUT);
    let left =
        || deadline.map_or(LOGIN_TIMEOUT, |end| end.saturating_duration_since(Instant::now()));
    // Should the connection have ended, that is what comes next.
    let _ = outbox.ask(slice::from_ref(name));
    let in_time = loop {
        select! {
            recv(outbox.news) -> news => match news {
                Ok(News::Answer(_)) => return Ok((outbox, inbox)),
                // That the connection has ended is noted, too: it was not this side that left.
                Ok(news) => outbox.note(&news),
                Err(_) => break true,
            },
            // Others may be quick to send: that must not hold up the answer.
            recv(inbox.blocks) -> block => match block {
                Ok(block) => inbox.early.push_back(block),
                Err(_) => break true,
            },
            default(left()) => break false,
        }
    };
    inbox.early.extend(inbox.blocks.try_iter());
    if in_time && inbox.early.iter().any(Block::has_message) {
        // The login has worked, only the server was stopped before it had read the question. For
        // the server these messages are delivered, so that they must not be lost here.
        return Ok((outbox, inbox));
    }
    drop(inbox);
    match outbox.finish(Some(left())).reason {
        DisconnectReason::Closed => Err(ConnectError::LoginTimeout),
        reason => Err(ConnectError::Login(reason)),
    }
}

/// Why a client could not connect and log in.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address could be found, or none of them could be reached; that of the last one tried.
    Connect(io::Error),
    /// The system has refused a thread.
    Start(io::Error),
    /// The server has ended the connection before the login was done, and before anything was
    /// delivered.
    Login(DisconnectReason),
    /// The server has not answered the login in time.
    LoginTimeout,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Start(error) => write!(f, "cannot start a thread: {error}"),
            Self::Login(DisconnectReason::Refused(error)) => write!(f, "cannot log in: {error}"),
            Self::Login(reason) => write!(f, "cannot log in: {reason}"),
            Self::LoginTimeout => f.write_str("cannot log in: the server does not answer"),
        }
    }
}

impl error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Start(error) => Some(error),
            Self::Login(_) | Self::LoginTimeout => None,
        }
    }
}
