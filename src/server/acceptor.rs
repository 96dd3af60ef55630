//! The acceptor thread: it owns the listener and all readers, and ends at the stop, when it has
//! closed the listener and joined every reader.
//!
//! It turns clients away when the server, or their address's share of it, is full, and when the
//! system has no descriptor or thread left it waits for better times without spinning.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::server::broker::Event;
use crate::server::context::{Shared, spawn};
use crate::server::origin::{Origin, Origins};
use crate::server::reader::Reader;
use crate::server::report::{Departure, Tally};
use crate::server::shutdown::{Phase, Woken};
use crate::socket::connection::{Connection, ConnectionId};
use crate::wire::protocol::Rejection;

/// Pauses after the system had no room for a connection: from the first to the last, doubling.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// How many errors in a row that concern one client each are taken for that. Should accept(2) fail
/// so with every client, as a filter of system calls or a firewall can have it, it is the system's
/// trouble after all, and to try again at once and for ever would be to spin.
const CLIENTS_FAILED: u32 = 64;

/// How many refused clients are held for the linger time; beyond that the oldest is let go.
const REFUSED_HELD: usize = 64;

/// How soon ended readers are joined when nobody connects.
const REAP_PAUSE: Duration = Duration::from_secs(1);

/// How often the same trouble is logged at most.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: TcpListener,
    /// Dropped before the readers are joined: the broker ends when the last sender is gone.
    broker: Sender<Event>,
    readers: Vec<(Origin, JoinHandle<Departure>)>,
    max_connections: usize,
    origins: Origins,
    tally: Tally,
    /// Refused clients and until when they are held: closing at once could reset what was said.
    refused: VecDeque<(Instant, Arc<Connection>)>,
    shared: Arc<Shared>,
    last_id: u64,
    /// Set while the system has no room for a connection.
    pause: Option<Duration>,
    logged: Option<Instant>,
}

impl Acceptor {
    /// Takes over a listener that is in non-blocking mode already.
    pub(crate) fn new(
        listener: TcpListener,
        broker: Sender<Event>,
        max_connections: usize,
        shared: Arc<Shared>,
    ) -> Self {
        let origins = Origins::new(shared.config.max_per_address);
        Self {
            listener,
            broker,
            readers: Vec::new(),
            max_connections,
            origins,
            tally: Tally::default(),
            refused: VecDeque::new(),
            shared,
            last_id: 0,
            pause: None,
            logged: None,
        }
    }

    /// The thread: accepts until the stop, then joins all readers and returns their tally.
    pub(crate) fn run(mut self) -> Tally {
        let accepted = catch_unwind(AssertUnwindSafe(|| self.accept_until_stop()));
        if accepted.is_err() {
            self.shared.shutdown.shutdown();
        }
        let Self { listener, broker, readers, mut tally, refused, .. } = self;
        drop(listener);
        drop(broker);
        for (_, client) in refused {
            let_go(&client);
        }
        for (_, reader) in &readers {
            // Who waits for its window has to hear of the stop too.
            reader.thread().unpark();
        }
        for (_, reader) in readers {
            join(reader, &mut tally);
        }
        if let Err(panic) = accepted {
            // Not before everyone is joined.
            resume_unwind(panic);
        }
        tally
    }

    fn accept_until_stop(&mut self) {
        while self.shared.shutdown.phase() == Phase::Running {
            self.accept_all();
            self.release_refused();
            if self.wait() == Woken::TimedOut {
                self.join_ended();
            }
        }
    }

    /// Accepts whoever is there.
    fn accept_all(&mut self) {
        let mut failed = 0;
        while self.shared.shutdown.phase() == Phase::Running {
            match self.listener.accept() {
                Ok((socket, peer)) => {
                    (self.pause, failed) = (None, 0);
                    self.admit(socket, peer);
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => {
                        self.pause = None;
                        return;
                    }
                    Some(error) if concerns_one_client(error) && failed < CLIENTS_FAILED => {
                        failed += 1;
                    }
                    _ => return self.back_off(&error),
                },
            }
        }
    }

    fn back_off(&mut self, error: &io::Error) {
        let pause = self.pause.map_or(BACK_OFF.0, |pause| BACK_OFF.1.min(pause * 2));
        self.pause = Some(pause);
        if self.may_log() {
            log::warn!("cannot accept connections, trying again in {pause:?}: {error}");
        }
    }

    /// Waits for the next client and for the stop, out the pause, or until something is to be done.
    fn wait(&mut self) -> Woken {
        let now = Instant::now();
        let (listener, until) = if let Some(pause) = self.pause {
            // The listener is ready all the time while nobody can be accepted, so it is not asked.
            (None, now.checked_add(pause))
        } else {
            let refused = self.refused.front().map(|(until, _)| *until);
            let ended = now.checked_add(REAP_PAUSE).filter(|_| self.ended_readers() > 0);
            (Some(self.listener.as_fd()), refused.into_iter().chain(ended).min())
        };
        let woken = self.shared.shutdown.wait(listener, PollFlags::IN, until, Phase::Running);
        woken.unwrap_or_else(|error| {
            self.back_off(&error);
            // Short enough for the stop not to notice; without waiting this loop would spin.
            thread::sleep(BACK_OFF.0);
            Woken::Ready
        })
    }

    /// Starts a reader for a client, or turns the client away.
    fn admit(&mut self, socket: TcpStream, peer: SocketAddr) {
        self.last_id += 1;
        let id = ConnectionId(self.last_id);
        let connection = Arc::new(Connection::new(id, socket, peer));
        let origin = Origin::of(peer);
        self.reap(origin);
        if self.readers.len() >= self.max_connections {
            let why = "as many clients are here as there may be";
            return self.refuse(connection, Rejection::ServerFull, &why);
        }
        if self.origins.is_full(origin) {
            let why = "as many clients of its address are here as there may be";
            return self.refuse(connection, Rejection::TooManyOfAddress, &why);
        }
        let (client, shared) = (Arc::clone(&connection), Arc::clone(&self.shared));
        let broker = self.broker.clone();
        let spawned = spawn(format!("reader-{id}"), move || {
            let _counted_also_if_this_panics = Ended(Arc::clone(&shared));
            Reader::new(client, shared).run(broker)
        });
        match spawned {
            Ok(reader) => {
                self.origins.add(origin);
                self.readers.push((origin, reader));
            }
            Err(error) => {
                let why = format_args!("cannot start a thread: {error}");
                self.refuse(connection, Rejection::ServerFull, &why);
            }
        }
    }

    /// How many readers have ended and are not joined yet.
    fn ended_readers(&self) -> u64 {
        self.shared.ended_readers.get().saturating_sub(self.tally.connections)
    }

    /// Joins the readers that have ended, if there are enough of them to be worth the search, or
    /// if their places are needed by somebody of this origin.
    fn reap(&mut self, origin: Origin) {
        let ended = self.ended_readers();
        let full = self.readers.len() >= self.max_connections || self.origins.is_full(origin);
        if ended > 0 && (full || ended >= 16 + self.readers.len() as u64 / 8) {
            self.join_ended();
        }
    }

    fn join_ended(&mut self) {
        let mut next = 0;
        while let Some((_, reader)) = self.readers.get(next) {
            if reader.is_finished() {
                let (origin, reader) = self.readers.swap_remove(next);
                self.origins.remove(origin);
                join(reader, &mut self.tally);
            } else {
                next += 1;
            }
        }
    }

    /// Turns a client away with this line; `why` is for the log.
    fn refuse(&mut self, client: Arc<Connection>, told: Rejection, why: &dyn std::fmt::Display) {
        self.tally.refused += 1;
        if self.may_log() {
            let (peer, refused) = (client.peer(), self.tally.refused);
            log::warn!("refused {peer}, {refused} refused so far: {why}");
        }
        // A new socket takes one line, or it is gone; both are as good as told.
        let _ = client.write(&[IoSlice::new(told.line().as_bytes())]);
        client.finish_writing();
        if self.refused.len() == REFUSED_HELD {
            self.refused.pop_front().iter().for_each(|(_, client)| let_go(client));
        }
        if let Some(until) = Instant::now().checked_add(self.shared.config.linger) {
            self.refused.push_back((until, client));
        }
    }

    /// Lets those go who were told long enough ago, and throws away what they have said.
    fn release_refused(&mut self) {
        let now = Instant::now();
        while self.refused.front().is_some_and(|(until, _)| *until <= now) {
            self.refused.pop_front().iter().for_each(|(_, client)| let_go(client));
        }
    }

    /// Bounds the log of what can happen with every single client.
    fn may_log(&mut self) -> bool {
        let now = Instant::now();
        let may = self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_PAUSE);
        if may {
            self.logged = Some(now);
        }
        may
    }
}

/// Counts a reader's end, so that the acceptor knows that there is one to join.
#[derive(Debug)]
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended_readers.add(1);
    }
}

fn join(reader: JoinHandle<Departure>, tally: &mut Tally) {
    if let Ok(departure) = reader.join() {
        tally.add(departure);
    } else {
        log::error!("a reader panicked while nobody was logged in");
        tally.connections += 1;
    }
}

/// Throws away what a refused client has said, as unread input would turn its end into a reset.
fn let_go(client: &Connection) {
    // However the client takes it, nothing more is done for it.
    let _ = client.discard_input();
}

/// Errors of accept(2) that belong to the client that was next, not to the listener.
fn concerns_one_client(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::INTR
            | Errno::PROTO
            | Errno::PERM
            | Errno::TIMEDOUT
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NONET
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
    )
}
