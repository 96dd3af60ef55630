//! Wires the server together: creates the broker's channel, spawns the broker and acceptor threads,
//! and joins them in reverse order. Nothing else in the crate does so. Runs on the caller's thread.

// The threads, in the order in which a message passes them.
pub(crate) mod acceptor;
pub(crate) mod reader;
pub(crate) mod input;
#[cfg(feature = "tls")]
pub(crate) mod handshake;
pub(crate) mod login;
pub(crate) mod login_places;
pub(crate) mod rate;
pub(crate) mod access;
pub(crate) mod broker;
pub(crate) mod wakes;
pub(crate) mod writer;

// What they are built on.
pub(crate) mod accounts;
pub(crate) mod sync;
pub(crate) mod linger;
pub(crate) mod per_source;
#[cfg(feature = "proxy")]
pub(crate) mod proxy;
pub(crate) mod timeout;
pub(crate) mod scheduling;
pub(crate) mod context;
#[cfg(feature = "cluster")]
pub(crate) mod clustered;
#[cfg(feature = "cluster")]
pub(crate) mod cluster_report;
#[cfg(feature = "cluster")]
pub(crate) mod arrivals;
#[cfg(feature = "cluster")]
pub(crate) mod elsewhere;
pub(crate) mod delivery;
pub(crate) mod report;
pub(crate) mod rooms;
pub(crate) mod running;
#[cfg(feature = "serde")]
pub(crate) mod seconds;
pub(crate) mod shutdown;
pub(crate) mod config;
pub(crate) mod counted;
pub(crate) mod disconnects;
pub(crate) mod limits;
pub(crate) mod stats;
pub(crate) mod files;
#[cfg(feature = "users")]
pub(crate) mod users;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(feature = "status")]
pub(crate) mod observer;

#[cfg(test)]
mod panics;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crossbeam_channel::unbounded;

use self::acceptor::Acceptor;
use self::broker::Broker;
#[cfg(feature = "cluster")]
use self::broker::Event;
use self::config::Config;
#[cfg(feature = "cluster")]
use self::context::Events;
use self::context::{Shared, spawn_stage};
use self::files::FilesHandle;
use self::limits::Capacity;
use self::login_places::LoginPlaces;
#[cfg(feature = "status")]
use self::observer::Observer;
use self::per_source::Places;
use self::report::Report;
use self::scheduling::Turns;
use self::shutdown::ShutdownHandle;
use self::stats::{Counter, StatsHandle};
#[cfg(feature = "tls")]
use self::tls::ServerTls;
#[cfg(feature = "users")]
use self::users::{
    Users,
    failed_logins::{FailedLogins, Limit},
};
#[cfg(feature = "cluster")]
use crate::cluster::options::Cluster;
use crate::error::Error;
#[cfg(feature = "users")]
use crate::socket::listener::also_wake;
use crate::socket::listener::{Listener, arrivals};
use crate::socket::sys;
use crate::wire::endpoint::Endpoint;

/// A relay that is bound to its address and ready to run.
///
/// Clients can connect as soon as [`bind`](Self::bind) returns; they are served once
/// [`run`](Self::run) is called.
///
/// ```
/// use a_chat::{Config, Server};
///
/// let server = Server::bind("127.0.0.1:0", Config::default())?;
/// let (address, handle) = (server.local_addr(), server.shutdown_handle());
/// let running = std::thread::spawn(|| server.run());
///
/// // Clients talk to `address`, until:
/// handle.shutdown();
/// let report = running.join().expect("run does not panic")?;
/// assert_eq!(report.owed, report.delivered + report.lost());
/// # let _ = address;
/// # Ok::<(), a_chat::Error>(())
/// ```
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    endpoints: Endpoints,
    capacity: Capacity,
    shared: Arc<Shared>,
    #[cfg(feature = "cluster")]
    cluster: Option<clustered::Ready>,
}

impl Server {
    /// Listens on every address that `address` stands for; port 0 picks a free port.
    ///
    /// A name may have several addresses, and clients that try different ones must meet. Addresses
    /// of a family that this machine lacks, as IPv6 often is, are skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a limit is out of range, [`Error::Bind`] if an address cannot be bound,
    /// [`Error::Start`] if the system has no file descriptors left.
    pub fn bind(address: impl ToSocketAddrs, config: Config) -> Result<Self, Error> {
        Self::bind_all([address], config)
    }

    /// As [`bind`](Self::bind), with several names or addresses. If `[::]` is one of them and an IPv4
    /// address with the same port another, `[::]` accepts IPv6 clients only.
    ///
    /// ```
    /// use a_chat::{Config, Server};
    ///
    /// let server = Server::bind_all(["127.0.0.1:0", "127.0.0.2:0"], Config::default())?;
    /// assert_eq!(server.local_addrs().len(), 2);
    /// # Ok::<(), a_chat::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`bind`](Self::bind).
    pub fn bind_all<A: ToSocketAddrs>(
        addresses: impl IntoIterator<Item = A>,
        config: Config,
    ) -> Result<Self, Error> {
        config.validate()?;
        Self::from_listeners(Listener::bind_tcp(addresses)?, config)
    }

    /// Serves on a listener that the program already has, for example one that was inherited through
    /// socket activation.
    ///
    /// ```
    /// use std::net::TcpListener;
    ///
    /// use a_chat::{Config, Server};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let server = Server::from_listener(listener, Config::default())?;
    /// assert_eq!(server.local_addr(), address);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a limit is out of range, [`Error::Start`] if the listener does not take
    /// its options or the system has no file descriptors left.
    pub fn from_listener(listener: TcpListener, config: Config) -> Result<Self, Error> {
        config.validate()?;
        Self::from_listeners([Listener::from_fd(listener.into())?], config)
    }

    /// Serves on several listeners, of any kind: see [`Listener`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a limit is out of range or there is no listener, [`Error::Start`] if the
    /// system has no file descriptors left.
    pub fn from_listeners(
        listeners: impl IntoIterator<Item = Listener>,
        config: Config,
    ) -> Result<Self, Error> {
        config.validate()?;
        let listeners: Vec<_> = listeners.into_iter().collect();
        if listeners.is_empty() {
            return Err(Error::Config("at least one listener is needed"));
        }
        // Without it everything written would count as delivered.
        sys::check_unacknowledged()
            .map_err(|source| Error::Start { what: "count unacknowledged bytes", source })?;
        let endpoints = Endpoints::new(listeners.iter().map(Listener::endpoint).cloned());
        let shutdown = ShutdownHandle::new(config.drain_timeout)
            .map_err(|source| Error::Start { what: "create the shutdown descriptors", source })?;
        let capacity = Capacity::of(&config);
        let login_places = LoginPlaces::new(config.max_logins, capacity.connections);
        #[cfg(feature = "users")]
        let users = config
            .users
            .clone()
            .map(|file| Users::start(file, config.guests, config.takeover).map_err(Error::File));
        #[cfg(feature = "users")]
        let limit = config.failed_logins;
        #[cfg(feature = "users")]
        let limit = limit.map(|count| Limit { count, time: config.failed_logins_time });
        let (counters, finished_readers) = (Arc::default(), Counter::default());
        let places = Places::new(config.max_per_address);
        let shared = Arc::new(Shared {
            places,
            config,
            shutdown,
            counters,
            finished_readers,
            login_places,
            #[cfg(feature = "users")]
            users: users.transpose()?,
            #[cfg(feature = "users")]
            all_failed_logins: limit.map(FailedLogins::new),
            #[cfg(feature = "tls")]
            tls: std::sync::OnceLock::new(),
            busy: AtomicUsize::new(0),
            turns: Turns::new(),
            #[cfg(feature = "status")]
            registry: std::sync::OnceLock::new(),
        });
        Ok(Self {
            listeners,
            endpoints,
            capacity,
            shared,
            #[cfg(feature = "cluster")]
            cluster: None,
        })
    }

    /// Makes the server a node of a cluster, whose engine must answer now.
    ///
    /// # Errors
    ///
    /// [`Error::Cluster`] if the engine cannot be reached or used.
    #[cfg(feature = "cluster")]
    pub fn join(mut self, cluster: Cluster) -> Result<Self, Error> {
        self.cluster = Some(clustered::Ready::new(cluster, &self.shared.counters)?);
        Ok(self)
    }

    /// Speaks TLS with every client that does.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(self, tls: ServerTls) -> Self {
        let _ = self.shared.tls.set(tls);
        self
    }

    /// The first address that clients can connect to, with the actual port.
    ///
    /// # Panics
    ///
    /// If the server listens on Unix sockets only.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.endpoints.first_tcp()
    }

    /// All addresses that clients can connect to, with the actual ports. There is at least one,
    /// unless the server listens on Unix sockets only.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.endpoints.tcp
    }

    /// Everything that clients can connect to, Unix sockets included, in the order of the listeners.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints.all
    }

    /// How many clients can be connected at once, and which limit determines that number.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// A handle that shuts this server down.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shared.shutdown.clone()
    }

    /// A handle that reads this server's live counters.
    #[must_use]
    pub fn stats_handle(&self) -> StatsHandle {
        StatsHandle::new(Arc::clone(&self.shared.counters))
    }

    /// A handle to the files that this server reads again when they change.
    #[must_use]
    pub fn files_handle(&self) -> FilesHandle {
        FilesHandle::new(Arc::clone(&self.shared))
    }

    /// A handle that tells who is connected. From then on the server keeps a list of its clients, at
    /// some hundred bytes for each; clients that are logged in already are not in it.
    #[cfg(feature = "status")]
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer::new(Arc::clone(self.shared.registry.get_or_init(Arc::default)))
    }

    /// Serves until shutdown, drains, joins every thread, and reports what happened.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the acceptor or broker thread cannot be spawned, [`Error::Panicked`] if
    /// one of them panicked. Even then, every thread is joined first.
    pub fn run(self) -> Result<Report, Error> {
        self.run_with(|| {})
    }

    /// As [`run`](Self::run), and calls `started` once the threads run that accept clients and route
    /// their lines.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run); `started` is then not called if a thread cannot be spawned.
    pub fn run_with(self, started: impl FnOnce()) -> Result<Report, Error> {
        self.log_start();
        #[cfg(feature = "cluster")]
        let Self { listeners, capacity, shared, cluster, .. } = self;
        #[cfg(not(feature = "cluster"))]
        let Self { listeners, capacity, shared, .. } = self;
        let arrivals = arrivals(&listeners)
            .map_err(|source| Error::Start { what: "poll the listeners", source })?;
        #[cfg(feature = "users")]
        if let Some(users) = &shared.users {
            also_wake(&arrivals, users.changed())
                .map_err(|source| Error::Start { what: "watch the user file", source })?;
        }

        // The acceptor spawns a reader for each client, with a clone of the sender. Readers send
        // to the broker, and each spawns the writer that the broker sends to.
        let (sender, inbox) = unbounded();
        #[cfg(feature = "cluster")]
        let (clustered, nodes) = clustered::start(cluster, &shared, &sender)?;
        #[cfg(feature = "cluster")]
        let sender = Events::new(sender, clustered.is_some().then_some(Event::ReadersGone));
        let acceptor =
            Acceptor::new(listeners, arrivals, sender, capacity.connections, Arc::clone(&shared));
        let (counters, max_lag) = (Arc::clone(&shared.counters), shared.config.stall_timeout);
        let broker = Broker::new(counters, shared.shutdown.clone(), max_lag);
        #[cfg(feature = "cluster")]
        let broker = broker.in_cluster(clustered);
        let others = Arc::clone(&shared);
        let broker =
            spawn_stage("broker", &shared.shutdown, move || broker.run(&inbox, &others.turns));
        let broker = match broker {
            Ok(broker) => broker,
            Err(error) => {
                // A node's threads would wait for the end of the drain; nothing is there to drain.
                #[cfg(feature = "cluster")]
                clustered::abandon(nodes, &shared.shutdown);
                return Err(error);
            }
        };
        let acceptor = match spawn_stage("acceptor", &shared.shutdown, || acceptor.run()) {
            Ok(acceptor) => acceptor,
            Err(error) => {
                // The last reader's sender was dropped with the acceptor, so the broker exits.
                let _ = broker.join();
                #[cfg(feature = "cluster")]
                clustered::abandon(nodes, &shared.shutdown);
                return Err(error);
            }
        };

        started();

        // In reverse order of creation: the acceptor exits when it has joined every reader, and
        // the broker when the last of their senders is dropped.
        let totals = acceptor.join();
        let broker = broker.join();
        // The threads beside the broker end when it and all writers have ended.
        #[cfg(feature = "cluster")]
        let (broker, node) = clustered::join(nodes, broker);
        let totals = totals.map_err(|_| Error::Panicked { thread: "acceptor" })?;
        broker.map_err(|_| Error::Panicked { thread: "broker" })?;

        let stats = StatsHandle::new(Arc::clone(&shared.counters)).read();
        let report = Report::new(totals, stats, shared.shutdown.drain_elapsed());
        #[cfg(feature = "cluster")]
        let report = report.with_cluster(node?);
        report.log();
        Ok(report)
    }

    fn log_start(&self) {
        let Self { endpoints, capacity, .. } = self;
        let list: Vec<_> = endpoints.all.iter().map(Endpoint::to_string).collect();
        let list = list.join(" and ");
        log::info!(
            addresses = list.as_str(), capacity = capacity.connections;
            "listening on {list}, capacity {capacity}"
        );
        let config = &self.shared.config;
        let machine = Capacity::detect_for(config);
        if config.max_connections.is_some_and(|wanted| wanted > machine.connections) {
            log::warn!("max_connections exceeds what this machine can hold: {machine}");
        }
        let reachable = endpoints.tcp.iter().find(|it| !it.ip().to_canonical().is_loopback());
        if let Some(address) = reachable {
            for lack in self.shared.lacks() {
                log::warn!("{address} is reachable from other hosts, and {lack}");
            }
        }
    }
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    all: Vec<Endpoint>,
    tcp: Vec<SocketAddr>,
}

impl Endpoints {
    fn new(all: impl Iterator<Item = Endpoint>) -> Self {
        let all: Vec<_> = all.collect();
        let tcp = all.iter().filter_map(Endpoint::tcp_addr).collect();
        Self { all, tcp }
    }

    fn first_tcp(&self) -> SocketAddr {
        *self.tcp.first().expect("the server listens on an address")
    }
}
