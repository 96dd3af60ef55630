//! The wiring: the only place that creates the broker's channel and starts the stage threads, and
//! that joins them in order. It runs on the caller's thread.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::unbounded;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::acceptor::Acceptor;
use crate::broker::Broker;
use crate::config::Config;
use crate::error::Error;
use crate::limits::Capacity;
use crate::report::Report;
use crate::shutdown::ShutdownHandle;
use crate::stats::{Counter, Counters, StatsHandle};

/// How many clients may wait to be accepted. With the standard library's 128, nine thousand that
/// came at once took 48 s to connect, because the surplus has to try again; with this, 1.3 s.
const BACKLOG: i32 = 4096;

/// How many written bytes the kernel may hold unsent for one client. What a slow client does not
/// take then waits in the server, where it is counted in messages, not in the kernel.
const UNSENT_BYTES: u32 = 128 * 1024;

/// A client that has vanished is found out after the first of these, and as many times the second
/// as the third says, of silence.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 6);

/// A thread's stack, in bytes: address space, of which only the pages that were touched take memory.
/// A logger of the embedding program runs on it too.
///
/// An idle client's threads touch two pages of 4 KiB each, of which the C library takes 4.3 KiB for
/// the thread itself. What they do until then has to fit into the rest; `tests/footprint.rs` looks.
pub(crate) const STACK_SIZE: usize = 256 * 1024;

/// What all threads of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) counters: Arc<Counters>,
    /// Readers that are at their end: how the acceptor knows that joining is worth a look.
    pub(crate) ended_readers: Counter,
}

/// A relay that is bound to its address and ready to run.
///
/// Clients can connect from [`bind`](Self::bind) on; they are served while [`run`](Self::run)
/// runs.
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
    listener: TcpListener,
    address: SocketAddr,
    capacity: Capacity,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens on the first of the addresses that can be listened on; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a limit can not work, [`Error::Bind`] if no address can be listened
    /// on, [`Error::Start`] if the system has no descriptors for the stop.
    pub fn bind(address: impl ToSocketAddrs, config: Config) -> Result<Self, Error> {
        config.check()?;
        let listener = listen(address)?;
        let unknown = |source| Error::Start { what: "ask for the listener's address", source };
        let address = listener.local_addr().map_err(unknown)?;
        let no_latch = |source| Error::Start { what: "create the stop's descriptors", source };
        let shutdown = ShutdownHandle::new(config.drain_timeout).map_err(no_latch)?;
        let capacity = match config.max_connections {
            Some(connections) => Capacity::wanted(connections),
            None => Capacity::of_this_machine(),
        };
        let (counters, ended_readers) = (Arc::default(), Counter::default());
        let shared = Arc::new(Shared { config, shutdown, counters, ended_readers });
        Ok(Self { listener, address, capacity, shared })
    }

    /// The address that clients connect to, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many clients may be connected at once, and what limits them.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// A handle that stops this server.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shared.shutdown.clone()
    }

    /// A handle that reads this server's live counters.
    #[must_use]
    pub fn stats_handle(&self) -> StatsHandle {
        StatsHandle::new(Arc::clone(&self.shared.counters))
    }

    /// Serves until it is stopped, drains, joins every thread, and reports what happened.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the first two threads can not be started, [`Error::Panicked`] if one of
    /// them panicked: also then all threads are joined.
    pub fn run(self) -> Result<Report, Error> {
        let Self { listener, address, capacity, shared } = self;
        log::info!("listening on {address}, room for {capacity}");
        let machine = Capacity::of_this_machine();
        if capacity.connections > machine.connections {
            log::warn!("this machine holds fewer: {machine}");
        }
        if !address.ip().is_loopback() {
            log::warn!("{address} can be reached from elsewhere, and nobody has to prove a name");
        }
        let (sender, inbox) = unbounded();
        let broker = Broker::new(Arc::clone(&shared.counters));
        let stop_with_broker = StopOnDrop(shared.shutdown.clone());
        let broker = spawn("broker", move || {
            let _stop_also_if_this_panics = stop_with_broker;
            broker.run(&inbox);
        })?;
        let acceptor = Acceptor::new(listener, sender, capacity.connections, Arc::clone(&shared));
        let stop_with_acceptor = StopOnDrop(shared.shutdown.clone());
        let acceptor = match spawn("acceptor", move || {
            let _stop_also_if_this_panics = stop_with_acceptor;
            acceptor.run()
        }) {
            Ok(acceptor) => acceptor,
            Err(error) => {
                // With the acceptor the only sender is gone, so the broker has ended.
                let _ = broker.join();
                return Err(error);
            }
        };
        // In reverse order of their start: the acceptor's end means that all connections' have
        // come, and with those the broker's.
        let tally = acceptor.join();
        let broker = broker.join();
        let tally = tally.map_err(|_| Error::Panicked { thread: "acceptor" })?;
        broker.map_err(|_| Error::Panicked { thread: "broker" })?;

        let counters = StatsHandle::new(Arc::clone(&shared.counters)).read();
        let drain = shared.shutdown.since().map_or(Duration::ZERO, |since| since.elapsed());
        let report = Report {
            connections: tally.connections,
            refused: tally.refused,
            accepted: counters.accepted,
            torn: counters.torn,
            owed: counters.owed,
            delivered: tally.delivered,
            lost_before_drain: tally.lost_before_drain,
            lost_in_drain: tally.lost_in_drain,
            losses_before_drain: tally.losses_before_drain,
            losses_in_drain: tally.losses_in_drain,
            drain,
            forced: tally.forced,
        };
        debug_assert_eq!(report.owed, report.delivered + report.lost());
        if report.is_clean() {
            log::info!("stopped: {report}");
        } else {
            log::error!("stopped with losses: {report}");
        }
        Ok(report)
    }
}

/// Begins the drain when its thread ends, so that no thread is left behind by another's panic.
#[derive(Debug)]
struct StopOnDrop(ShutdownHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}

fn spawn<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, Error> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK_SIZE);
    thread.spawn(run).map_err(|source| Error::Start { what: "start a thread", source })
}

/// Listens on the first address that allows it.
fn listen(addresses: impl ToSocketAddrs) -> Result<TcpListener, Error> {
    let unresolved = |source| Error::Bind { address: "the given address".to_owned(), source };
    let mut failure = None;
    for address in addresses.to_socket_addrs().map_err(unresolved)? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(source) => failure = Some(Error::Bind { address: address.to_string(), source }),
        }
    }
    Err(failure.unwrap_or_else(|| unresolved(io::ErrorKind::AddrNotAvailable.into())))
}

/// The accepted sockets inherit all these options from the listener, which saves as many system
/// calls for each of them.
fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// How a vanished other side is found out.
pub(crate) fn keepalive() -> TcpKeepalive {
    let (idle, interval, retries) = KEEPALIVE;
    TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries)
}
