//! The acceptor thread. It owns the listener and all readers' join handles; on shutdown it closes
//! the listener, joins every reader and exits.
//!
//! It refuses clients at the server's or their source address's connection limit, or when no thread
//! can be spawned, and backs off instead of spinning while accept(2) fails for lack of resources.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

#[cfg(feature = "cluster")]
use crate::cluster::ingress::Arrival;
use crate::server::broker::Event;
use crate::server::context::{Events, Shared, spawn};
use crate::server::per_source::SourcePrefix;
use crate::server::reader::Reader;
use crate::server::report::{ConnectionRecord, Totals};
use crate::server::shutdown::{Phase, WaitOutcome};
#[cfg(feature = "users")]
use crate::server::users::Users;
use crate::socket::connection::{Connection, ConnectionId};
use crate::socket::listener::Listener;
use crate::socket::peer::Peer;
use crate::socket::stream::Stream;
use crate::socket::sys;
use crate::wire::reasons::Rejection;

/// The first and the longest pause after accept(2) failed for lack of resources; it doubles in
/// between.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// How many consecutive accept(2) errors are attributed to single connections. If accept(2) fails
/// like this for every client, as a system-call filter or a firewall can make it do, the cause is
/// the system, and retrying immediately would spin forever.
const MAX_CONNECTION_ERRORS: u32 = 64;

/// How many refused clients linger at once; beyond that the oldest is closed early.
const MAX_REFUSED_LINGERING: usize = 64;

/// How soon finished readers are joined while no client connects.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// After this many clients have gone, the memory that they leave behind is worth the few
/// milliseconds that the allocator takes to return it.
const TRIM_AFTER: usize = 64;

/// How long the memory of single clients is returned after that.
const TRIM_FOR: Duration = Duration::from_secs(30);

/// The minimum time between two log lines about the same kind of failure.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Vec<Listener>,
    /// Readable while a client waits at one of them.
    arrivals: OwnedFd,
    /// Dropped before the readers are joined: the broker exits once the last sender is dropped.
    broker: Events<Event>,
    readers: Vec<JoinHandle<ConnectionRecord>>,
    max_connections: usize,
    totals: Totals,
    /// Refused clients, and until when each lingers: closing at once could reset the connection
    /// before the client receives the error.
    refused: VecDeque<(Instant, Arc<Connection>)>,
    shared: Arc<Shared>,
    last_id: u64,
    /// Set while accept(2) fails for lack of resources.
    backoff: Option<Duration>,
    /// How many readers were joined since memory was last returned to the system.
    joined_since_trim: usize,
    /// Until when any client that goes is a reason to do so again.
    trim_until: Option<Instant>,
    logged: Option<Instant>,
}

impl Acceptor {
    /// Takes ownership of the listeners.
    pub(crate) fn new(
        listeners: Vec<Listener>,
        arrivals: OwnedFd,
        broker: Events<Event>,
        max_connections: usize,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            listeners,
            arrivals,
            broker,
            readers: Vec::new(),
            max_connections,
            totals: Totals::default(),
            refused: VecDeque::new(),
            shared,
            last_id: 0,
            backoff: None,
            joined_since_trim: 0,
            trim_until: None,
            logged: None,
        }
    }

    /// The thread: accepts until shutdown, then joins all readers and returns their totals.
    pub(crate) fn run(mut self) -> Totals {
        let accepted = catch_unwind(AssertUnwindSafe(|| self.accept_until_shutdown()));
        if accepted.is_err() {
            self.shared.shutdown.shutdown();
        }
        let Self { listeners, arrivals, broker, readers, mut totals, refused, .. } = self;
        drop((arrivals, listeners));
        // Other nodes have to hear of it before they go on sending to this one's clients.
        #[cfg(feature = "cluster")]
        let _ = broker.send(Event::Cluster(Arrival::Leave));
        drop(broker);
        for (_, client) in refused {
            discard_unread_input(&client);
        }
        for reader in &readers {
            // A reader that waits for its window must notice the shutdown too.
            reader.thread().unpark();
        }
        for reader in readers {
            join(reader, &mut totals);
        }
        if let Err(panic) = accepted {
            // Only once all readers are joined.
            resume_unwind(panic);
        }
        totals
    }

    fn accept_until_shutdown(&mut self) {
        while self.shared.shutdown.phase() == Phase::Running {
            self.accept_all();
            self.expire_refused();
            #[cfg(feature = "users")]
            self.pass_on_users();
            if self.wait() == WaitOutcome::TimedOut {
                self.join_finished();
                self.return_memory();
            }
        }
    }

    /// Accepts all pending connections.
    fn accept_all(&mut self) {
        let (mut connection_errors, mut idle_listeners) = (0, 0);
        // One client of each listener in turn, so none of them delays the others'.
        for listener in (0..self.listeners.len()).cycle() {
            if self.shared.shutdown.phase() != Phase::Running {
                return;
            }
            match self.listeners[listener].accept() {
                Ok((socket, peer)) => {
                    (self.backoff, connection_errors, idle_listeners) = (None, 0, 0);
                    self.admit(socket, peer);
                    if self.backoff.is_some() {
                        return;
                    }
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => {
                        idle_listeners += 1;
                        if idle_listeners == self.listeners.len() {
                            self.backoff = None;
                            return;
                        }
                    }
                    Some(error)
                        if is_connection_error(error)
                            && connection_errors < MAX_CONNECTION_ERRORS =>
                    {
                        connection_errors += 1;
                    }
                    _ => return self.back_off(&error),
                },
            }
        }
    }

    fn back_off(&mut self, error: &io::Error) {
        let backoff =
            self.backoff.map_or(ACCEPT_BACKOFF.0, |backoff| ACCEPT_BACKOFF.1.min(backoff * 2));
        self.backoff = Some(backoff);
        if self.log_allowed() {
            log::warn!("cannot accept connections, retrying in {backoff:?}: {error}");
        }
    }

    /// Waits for the next client, for shutdown, for the end of the backoff, or until other work is
    /// due.
    fn wait(&mut self) -> WaitOutcome {
        let now = Instant::now();
        let (listener, deadline) = if let Some(backoff) = self.backoff {
            // While accept(2) fails, the listener stays readable, so polling it would spin.
            (None, now.checked_add(backoff))
        } else {
            let expiry = self.refused.front().map(|(until, _)| *until);
            let reap_at = now.checked_add(REAP_INTERVAL).filter(|_| self.finished_readers() > 0);
            (Some(self.arrivals.as_fd()), expiry.into_iter().chain(reap_at).min())
        };
        let outcome = self.shared.shutdown.wait(listener, PollFlags::IN, deadline, Phase::Running);
        outcome.unwrap_or_else(|error| {
            self.back_off(&error);
            // Too short to delay the shutdown noticeably; without a pause this loop would spin.
            thread::sleep(ACCEPT_BACKOFF.0);
            WaitOutcome::Ready
        })
    }

    /// Spawns a reader for a client, or refuses the client.
    fn admit(&mut self, socket: Stream, peer: Peer) {
        self.last_id += 1;
        let id = ConnectionId(self.last_id);
        let connection = Arc::new(Connection::new(id, socket, peer));
        self.reap();
        if self.readers.len() >= self.max_connections {
            let cause = "connection limit reached";
            return self.refuse(connection, &Rejection::ServerFull, Some(&cause));
        }
        // A proxy takes no place of its own: its clients do, once it has said who they are.
        let is_proxy = self.shared.config.is_proxy(peer);
        let source = SourcePrefix::of(peer).filter(|_| !is_proxy);
        let Some(place) = self.shared.places.take(source) else {
            let cause = "per-address limit reached";
            return self.refuse(connection, &Rejection::PerAddressLimit, Some(&cause));
        };
        #[cfg(feature = "users")]
        if let Some(seconds) = self.shared.refuses(peer).filter(|_| !is_proxy) {
            let rejection = Rejection::TooManyFailedLogins { seconds };
            return self.refuse(connection, &rejection, None);
        }
        let (login_place, is_within) = self.shared.login_places.take(source, &connection);
        if !is_within {
            // Everyone else has sent something that the readers had no time for yet: now they have.
            self.backoff = Some(ACCEPT_BACKOFF.0);
        }
        let (client, shared) = (Arc::clone(&connection), Arc::clone(&self.shared));
        let broker = self.broker.clone();
        let spawned = spawn(format!("reader-{id}"), move || {
            let _counted_even_after_a_panic = CountFinished(Arc::clone(&shared));
            Reader::new(client, shared, Some(place)).run(broker, login_place)
        });
        match spawned {
            Ok(reader) => {
                self.shared.counters.connections.add(1);
                self.readers.push(reader);
                self.shared.shutdown.note_connections(self.readers.len());
            }
            Err(error) => {
                let cause = format!("cannot spawn a thread: {error}");
                self.refuse(connection, &Rejection::ServerFull, Some(&cause));
            }
        }
    }

    /// Sends the broker the user table if it has changed.
    #[cfg(feature = "users")]
    fn pass_on_users(&self) {
        if let Some(version) = self.shared.users.as_ref().and_then(Users::fetch) {
            // Fails only if the broker has exited.
            let _ = self.broker.send(Event::Users(version));
        }
    }

    /// How many readers have exited and are not joined yet.
    fn finished_readers(&self) -> u64 {
        self.shared.finished_readers.get().saturating_sub(self.totals.connections)
    }

    /// Joins finished readers if there are enough of them to justify a scan, or if a client needs the
    /// place of one.
    fn reap(&mut self) {
        let finished = self.finished_readers();
        let full = self.readers.len() >= self.max_connections;
        if finished > 0 && (full || finished >= 16 + self.readers.len() as u64 / 8) {
            self.join_finished();
        }
    }

    fn join_finished(&mut self) {
        let mut next = 0;
        while let Some(reader) = self.readers.get(next) {
            if reader.is_finished() {
                let reader = self.readers.swap_remove(next);
                join(reader, &mut self.totals);
                self.joined_since_trim += 1;
            } else {
                next += 1;
            }
        }
        self.shared.shutdown.note_connections(self.readers.len());
    }

    /// Returns what many clients have left behind to the system, once no more of them come and go.
    fn return_memory(&mut self) {
        if self.finished_readers() > 0 {
            return;
        }
        let now = Instant::now();
        if self.joined_since_trim >= TRIM_AFTER {
            // The last of many go one by one.
            self.trim_until = now.checked_add(TRIM_FOR);
        }
        if self.joined_since_trim > 0 && self.trim_until.is_some_and(|until| now <= until) {
            self.joined_since_trim = 0;
            sys::trim_heap();
        }
    }

    /// Refuses a client with this error line; `cause` is for the log, unless it has been logged.
    fn refuse(
        &mut self,
        client: Arc<Connection>,
        rejection: &Rejection,
        cause: Option<&dyn std::fmt::Display>,
    ) {
        self.totals.refused += 1;
        self.shared.counters.refused.add(1);
        self.shared.counters.refusals.count(match rejection {
            Rejection::ServerFull => "full",
            Rejection::PerAddressLimit => "per_address",
            Rejection::TooManyFailedLogins { .. } => "failed_logins",
            _ => "other",
        });
        if let Some(cause) = cause.filter(|_| self.log_allowed()) {
            let (peer, refused) = (client.peer(), self.totals.refused);
            log::warn!(
                address:% = peer, refused, reason:% = cause;
                "refused {peer} ({refused} refused so far): {cause}"
            );
        }
        // A new socket accepts one line unless it is disconnected, and nothing more can be done in
        // either case.
        let _ = client.write(&[IoSlice::new(rejection.line().as_bytes())]);
        client.shutdown_write();
        if self.refused.len() == MAX_REFUSED_LINGERING {
            self.refused.pop_front().iter().for_each(|(_, client)| discard_unread_input(client));
        }
        if let Some(until) = Instant::now().checked_add(self.shared.config.linger) {
            self.refused.push_back((until, client));
        }
    }

    /// Closes refused clients whose linger time is over, and discards their input.
    fn expire_refused(&mut self) {
        let now = Instant::now();
        while self.refused.front().is_some_and(|(until, _)| *until <= now) {
            self.refused.pop_front().iter().for_each(|(_, client)| discard_unread_input(client));
        }
    }

    /// Limits the rate of log lines that any client can cause.
    fn log_allowed(&mut self) -> bool {
        let now = Instant::now();
        let allowed = self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_INTERVAL);
        if allowed {
            self.logged = Some(now);
        }
        allowed
    }
}

/// Counts a reader's exit, so the acceptor knows that there is one to join.
#[derive(Debug)]
struct CountFinished(Arc<Shared>);

impl Drop for CountFinished {
    fn drop(&mut self) {
        self.0.finished_readers.add(1);
    }
}

fn join(reader: JoinHandle<ConnectionRecord>, totals: &mut Totals) {
    if let Ok(record) = reader.join() {
        totals.add(record);
    } else {
        log::error!("a reader thread panicked before login");
        totals.connections += 1;
    }
}

/// Discards the input of a refused client: unread input would turn the close into a reset.
fn discard_unread_input(client: &Connection) {
    // Whether it succeeds or not, nothing more can be done for this client.
    let _ = client.discard_input();
}

/// True for errors of accept(2) that concern the next connection rather than the listener.
fn is_connection_error(error: Errno) -> bool {
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
