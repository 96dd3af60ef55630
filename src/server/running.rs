//! A server on a thread of its own, for programs that embed one.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use super::context::spawn;
use super::report::Report;
use super::shutdown::ShutdownHandle;
use super::stats::StatsHandle;
use super::{Endpoints, Server};
use crate::error::Error;
use crate::wire::endpoint::Endpoint;

/// A server that runs on a thread of its own, see [`Server::spawn`].
///
/// Dropping it shuts the server down and waits for the end of the drain.
#[derive(Debug)]
#[must_use = "dropping it shuts the server down"]
pub struct Running {
    endpoints: Endpoints,
    shutdown: ShutdownHandle,
    stats: StatsHandle,
    /// The server's thread, until it is joined.
    thread: Option<JoinHandle<Result<Report, Error>>>,
}

impl Server {
    /// Runs this server on a thread of its own, named `a-chat`.
    ///
    /// ```
    /// use a_chat::{Config, Server};
    ///
    /// let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
    /// println!("clients connect to {}", server.local_addr());
    /// let report = server.stop()?;
    /// assert!(report.is_clean());
    /// # Ok::<(), a_chat::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the system refuses the thread.
    pub fn spawn(self) -> Result<Running, Error> {
        let endpoints = self.endpoints.clone();
        let (shutdown, stats) = (self.shutdown_handle(), self.stats_handle());
        let thread = spawn("a-chat", || self.run())
            .map_err(|source| Error::Start { what: "start a thread", source })?;
        Ok(Running { endpoints, shutdown, stats, thread: Some(thread) })
    }
}

impl Running {
    /// The first address that clients can connect to.
    ///
    /// # Panics
    ///
    /// If the server listens on Unix sockets only.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.endpoints.first_tcp()
    }

    /// All addresses that clients can connect to. There is at least one, unless the server listens
    /// on Unix sockets only.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.endpoints.tcp
    }

    /// Everything that clients can connect to, Unix sockets included.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints.all
    }

    /// A handle that shuts the server down.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// A handle that reads the server's live counters.
    #[must_use]
    pub fn stats_handle(&self) -> StatsHandle {
        self.stats.clone()
    }

    /// Waits until the server has shut down.
    ///
    /// # Errors
    ///
    /// As for [`Server::run`].
    pub fn join(mut self) -> Result<Report, Error> {
        self.end()
    }

    /// Shuts the server down and waits for the end of the drain.
    ///
    /// # Errors
    ///
    /// As for [`Server::run`].
    pub fn stop(self) -> Result<Report, Error> {
        self.shutdown.shutdown();
        self.join()
    }

    fn end(&mut self) -> Result<Report, Error> {
        let thread = self.thread.take().expect("it is joined once");
        thread.join().unwrap_or(Err(Error::Panicked { thread: "a-chat" }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.shutdown.shutdown();
            // Whoever wants the report calls `stop`.
            let _ = self.end();
        }
    }
}
