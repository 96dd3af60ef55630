//! The threads beside a server that tell others how it is: the log of its counters, the status endpoint,
//! the conversation with a service manager. The main thread starts them before the server, and ends them
//! once the report is written.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use a_chat::{Report, Server, ShutdownHandle, StatsHandle};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::cli::ServeArgs;
use crate::operator;
#[cfg(feature = "status")]
use crate::status::{Source, Status};
#[cfg(feature = "systemd")]
use crate::systemd::{self, Notifier};

/// Those that were asked for.
#[derive(Debug)]
pub(crate) struct Attendants {
    counters: Option<(Sender<Infallible>, JoinHandle<()>)>,
    #[cfg(feature = "status")]
    status: Option<Status>,
    #[cfg(feature = "systemd")]
    notifier: Option<Notifier>,
    stats: StatsHandle,
    shutdown: ShutdownHandle,
    #[cfg(feature = "systemd")]
    reloads: systemd::Reloads,
}

impl Attendants {
    /// Starts what must be there before clients are.
    pub(crate) fn start(
        args: &ServeArgs,
        server: &Server,
        #[cfg(feature = "systemd")] reloads: &systemd::Reloads,
    ) -> Result<Self, Box<dyn Error>> {
        let stats = server.stats_handle();
        let counters = args.stats_every.map(|interval| log_counters(interval, stats.clone()));
        let counters = counters.transpose()?;
        #[cfg(feature = "status")]
        let status = start_status(args, server)?;
        Ok(Self {
            counters,
            #[cfg(feature = "status")]
            status,
            #[cfg(feature = "systemd")]
            notifier: None,
            stats,
            shutdown: server.shutdown_handle(),
            #[cfg(feature = "systemd")]
            reloads: reloads.clone(),
        })
    }

    /// Starts what must wait until clients are served.
    pub(crate) fn serving(&mut self) {
        #[cfg(feature = "systemd")]
        match Notifier::start(self.stats.clone(), self.shutdown.clone(), self.reloads.clone()) {
            Ok(notifier) => self.notifier = notifier,
            // The manager will miss it, and the clients will not.
            Err(error) => log::warn!("cannot notify the service manager: {error}"),
        }
        #[cfg(not(feature = "systemd"))]
        let _ = (&self.stats, &self.shutdown);
    }

    /// Ends them all, the status endpoint once it has shown the report to a page that watches.
    pub(crate) fn end(self, report: &Report) {
        if let Some((running, thread)) = self.counters {
            drop(running);
            // A panic is in the log's place already: on standard error.
            let _ = thread.join();
        }
        #[cfg(feature = "status")]
        if let Some(status) = self.status {
            status.end(report);
        }
        #[cfg(not(feature = "status"))]
        let _ = report;
        #[cfg(feature = "systemd")]
        if let Some(notifier) = self.notifier {
            notifier.end();
        }
    }
}

#[cfg(feature = "status")]
fn start_status(args: &ServeArgs, server: &Server) -> Result<Option<Status>, String> {
    let Some(address) = &args.status.status else { return Ok(None) };
    let source = Source {
        stats: server.stats_handle(),
        observer: server.observer(),
        files: server.files_handle(),
        shutdown: server.shutdown_handle(),
        capacity: server.capacity(),
        started: std::time::Instant::now(),
        liveness: crate::liveness::Liveness::default(),
        report: std::sync::OnceLock::new(),
    };
    Status::start(address, args.status.status_clients, source).map(Some)
}

/// Spawns the thread `stats`, which logs the live counters until the sender is dropped.
fn log_counters(
    interval: Duration,
    stats: StatsHandle,
) -> io::Result<(Sender<Infallible>, JoinHandle<()>)> {
    let (running, ended) = bounded(0);
    let thread = thread::Builder::new().name("stats".to_owned());
    let thread = thread.spawn(move || {
        while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            operator::log_figures(&stats.read());
        }
    })?;
    Ok((running, thread))
}
