//! Who is connected now, for whoever watches: a registry of weak references, which exists only once
//! somebody asked for it. Any thread may read it; readers enter and leave it, once a connection.
//!
//! Nothing is pushed into it while messages pass: each look asks the windows and the kernel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::delivery::window::Window;
use crate::socket::connection::{Connection, ConnectionId, Traffic};
use crate::wire::name::Name;

/// Watches a server's clients, see [`Server::observer`](crate::Server::observer). Cheap to clone, and
/// usable from any thread, even after the server has stopped.
///
/// ```
/// use a_chat::{Config, Server};
///
/// let server = Server::bind("127.0.0.1:0", Config::default())?;
/// let observer = server.observer();
/// assert!(observer.clients().is_empty());
/// # Ok::<(), a_chat::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Observer {
    registry: Arc<Registry>,
}

/// A client that is connected now, as [`Observer::clients`] found it.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ClientInfo {
    /// Identifies the connection for the lifetime of the server; the log names it too.
    pub connection: u64,
    /// The name it logged in under.
    pub name: Name,
    /// Its address and port; in the Unix domain, the user and process that connected.
    pub address: String,
    /// How it came: `tcp` or `unix`.
    pub door: &'static str,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// How long it has been logged in. Serialized as seconds.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::server::seconds::serialize"))]
    pub connected_for: Duration,
    /// Bytes charged to its window: lines that it sent and that are not written to their recipients
    /// yet, overhead included.
    pub queued_bytes: u64,
    /// Bytes written to it that its kernel has not acknowledged.
    pub unacknowledged_bytes: u64,
    /// Whether it is kept from sending because its window is full.
    pub waiting: bool,
}

/// What clients are doing, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Activity {
    /// Clients that are kept from sending because their windows are full.
    pub waiting: u64,
    /// Bytes received from clients over TCP, as the kernel counts them; only grows.
    pub received_bytes: u64,
    /// Bytes sent to clients over TCP, those sent again not counted; only grows.
    pub sent_bytes: u64,
}

/// The clients that are logged in, and the traffic of those that were.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    clients: HashMap<ConnectionId, Entry>,
    /// Of connections that have ended.
    past: Traffic,
    /// What was reported last. A client that leaves during a look may be missing in it.
    reported: Traffic,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Name,
    since: Instant,
    connection: Weak<Connection>,
    window: Weak<Window>,
}

/// Keeps a client in the registry until it is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
}

impl Registry {
    /// Enters a client.
    ///
    /// Never inlined: its reader's stack is counted in pages.
    #[inline(never)]
    pub(crate) fn enter(
        self: &Arc<Self>,
        name: &Name,
        connection: &Arc<Connection>,
        window: &Arc<Window>,
    ) -> Registered {
        let entry = Entry {
            name: name.clone(),
            since: Instant::now(),
            connection: Arc::downgrade(connection),
            window: Arc::downgrade(window),
        };
        self.lock().clients.insert(connection.id(), entry);
        Registered { registry: Arc::clone(self), connection: Arc::clone(connection) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics under this lock, and a look is better than none.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy, so that nobody who logs in waits for a look at thousands of sockets.
    fn entries(&self) -> (Vec<Entry>, Traffic) {
        let inner = self.lock();
        (inner.clients.values().cloned().collect(), inner.past)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let traffic = self.connection.traffic();
        let mut inner = self.registry.lock();
        inner.past += traffic;
        inner.clients.remove(&self.connection.id());
    }
}

impl Observer {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The clients that are logged in, in the order in which they connected.
    ///
    /// Takes a few microseconds and some hundred bytes for each client.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientInfo> {
        let (entries, _) = self.registry.entries();
        let now = Instant::now();
        let mut clients: Vec<_> = entries.iter().filter_map(|entry| entry.look(now)).collect();
        clients.sort_by_key(|client| client.connection);
        clients
    }

    /// The sum of what clients are doing.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let (entries, mut traffic) = self.registry.entries();
        let mut waiting = 0;
        for entry in &entries {
            traffic += entry.connection.upgrade().map(|it| it.traffic()).unwrap_or_default();
            waiting += u64::from(entry.window.upgrade().is_some_and(|window| window.is_waiting()));
        }
        let mut inner = self.registry.lock();
        inner.reported = Traffic {
            received_bytes: traffic.received_bytes.max(inner.reported.received_bytes),
            sent_bytes: traffic.sent_bytes.max(inner.reported.sent_bytes),
        };
        let Traffic { received_bytes, sent_bytes } = inner.reported;
        Activity { waiting, received_bytes, sent_bytes }
    }
}

impl Entry {
    /// Looks at a client; `None` if it has gone.
    fn look(&self, now: Instant) -> Option<ClientInfo> {
        // Each is held for one client's turn only: whoever drops it last closes the socket.
        let connection = self.connection.upgrade()?;
        let window = self.window.upgrade();
        Some(ClientInfo {
            connection: connection.id().0,
            name: self.name.clone(),
            address: connection.peer().to_string(),
            door: connection.door(),
            tls: connection.is_encrypted(),
            connected_for: now.saturating_duration_since(self.since),
            queued_bytes: window.as_ref().map_or(0, |window| window.used() as u64),
            unacknowledged_bytes: connection.unacknowledged(),
            waiting: window.is_some_and(|window| window.is_waiting()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;

    use super::*;
    use crate::server::Server;
    use crate::server::config::Config;

    fn server() -> Server {
        Server::bind("127.0.0.1:0", Config::default()).expect("a free port")
    }

    fn log_in(address: SocketAddr) -> BufReader<TcpStream> {
        let mut client = TcpStream::connect(address).expect("a server");
        client.write_all(b"alice\n/who alice\n").expect("a server that reads");
        let mut client = BufReader::new(client);
        client.read_line(&mut String::new()).expect("a reply");
        client
    }

    #[test]
    fn nobody_is_registered_where_nobody_observes() {
        let server = server();
        let (address, shared) = (server.local_addr(), Arc::clone(&server.shared));
        let server = server.spawn().expect("a thread");
        drop(log_in(address));
        assert_eq!(server.stop().expect("no error").connections, 1);
        assert!(shared.registry.get().is_none());
    }

    #[test]
    fn an_observer_keeps_no_connection_open() {
        let server = server();
        let (address, observer) = (server.local_addr(), server.observer());
        let server = server.spawn().expect("a thread");
        let client = log_in(address);
        let (entries, _) = observer.registry.entries();
        let [entry] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(entry.name.as_str(), "alice");
        drop(client);
        while entry.connection.strong_count() > 0 {
            thread::yield_now();
        }
        assert!(observer.clients().is_empty());
        server.stop().expect("no error");
    }
}
