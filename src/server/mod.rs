//! The wiring: the only place that creates the broker's channel and starts the stage threads, and
//! that joins them in order. It runs on the caller's thread.

// The threads, in the order in which a message meets them.
pub(crate) mod acceptor;
pub(crate) mod reader;
pub(crate) mod broker;
pub(crate) mod writer;

// What they stand on.
pub(crate) mod linger;
pub(crate) mod per_source;
pub(crate) mod timeout;
pub(crate) mod busy_poll;
pub(crate) mod context;
pub(crate) mod delivery;
pub(crate) mod report;
pub(crate) mod shutdown;
pub(crate) mod config;
pub(crate) mod limits;
pub(crate) mod stats;

#[cfg(test)]
mod panics;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;

use self::acceptor::Acceptor;
use self::broker::Broker;
use self::config::Config;
use self::context::{Shared, spawn};
use self::limits::Capacity;
use self::report::Report;
use self::shutdown::ShutdownHandle;
use self::stats::{Counter, StatsHandle};
use crate::error::Error;
use crate::socket::listener::listen;

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
            Some(connections) => Capacity::capped(connections),
            None => Capacity::detect(),
        };
        let (counters, finished_readers) = (Arc::default(), Counter::default());
        let shared = Arc::new(Shared { config, shutdown, counters, finished_readers });
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
        let machine = Capacity::detect();
        if capacity.connections > machine.connections {
            log::warn!("this machine holds fewer: {machine}");
        }
        if !address.ip().is_loopback() {
            log::warn!("{address} can be reached from elsewhere, and nobody has to prove a name");
        }
        let (sender, inbox) = unbounded();
        let broker = Broker::new(Arc::clone(&shared.counters));
        let stop_with_broker = ShutdownOnDrop(shared.shutdown.clone());
        let no_thread = |source| Error::Start { what: "start a thread", source };
        let broker = spawn("broker", move || {
            let _stop_also_if_this_panics = stop_with_broker;
            broker.run(&inbox);
        })
        .map_err(no_thread)?;
        let acceptor = Acceptor::new(listener, sender, capacity.connections, Arc::clone(&shared));
        let stop_with_acceptor = ShutdownOnDrop(shared.shutdown.clone());
        let acceptor = match spawn("acceptor", move || {
            let _stop_also_if_this_panics = stop_with_acceptor;
            acceptor.run()
        }) {
            Ok(acceptor) => acceptor,
            Err(error) => {
                // With the acceptor the only sender is gone, so the broker has ended.
                let _ = broker.join();
                return Err(no_thread(error));
            }
        };
        // In reverse order of their start: the acceptor's end means that all connections' have
        // come, and with those the broker's.
        let totals = acceptor.join();
        let broker = broker.join();
        let totals = totals.map_err(|_| Error::Panicked { thread: "acceptor" })?;
        broker.map_err(|_| Error::Panicked { thread: "broker" })?;

        let counters = StatsHandle::new(Arc::clone(&shared.counters)).read();
        let drain = shared.shutdown.drain_started().map_or(Duration::ZERO, |since| since.elapsed());
        let report = Report {
            connections: totals.connections,
            refused: totals.refused,
            accepted: counters.accepted,
            unterminated: counters.unterminated,
            owed: counters.owed,
            delivered: totals.delivered,
            lost_before_drain: totals.lost_before_drain,
            lost_in_drain: totals.lost_in_drain,
            losses_before_drain: totals.losses_before_drain,
            losses_in_drain: totals.losses_in_drain,
            drain,
            forced: totals.forced,
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
struct ShutdownOnDrop(ShutdownHandle);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}
