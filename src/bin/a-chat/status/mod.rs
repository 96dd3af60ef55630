//! The status endpoint: probes, metrics, the clients as JSON, and a page for people, over HTTP. Runs on
//! the thread `status`, which owns the listener and its few connections, and ends after the report.
//!
//! Figures are pulled when somebody asks. Nothing here wakes while nobody does, and whatever happens
//! here, the server goes on.

mod connection;
mod exposition;
mod http;
mod listener;
mod process;
mod source;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use a_chat::Report;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;

use self::connection::{Connection, Next};
use self::http::{Request, Response};
use self::listener::StatusListener;

pub(crate) use self::listener::StatusAddress;
pub(crate) use self::source::Source;

/// How many connections are open at once. When one more comes, the oldest has to go: a program that
/// opens them all and says nothing must not keep the probes out.
const MAX_CONNECTIONS: usize = 8;

/// How long after its end the server answers a page that was watching, so that it gets the report: its
/// next look begins a second after the last one ended. Service managers grant five seconds for this and
/// for what is left of the log.
const PAGE_GRACE: Duration = Duration::from_secs(2);

/// A page that has asked within this time is watching: it asks every second.
const PAGE_INTERVAL: Duration = Duration::from_secs(3);

/// How long accepting pauses after it failed, as for lack of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// The page, and the policy under which a browser shows it: nothing from elsewhere, and no script or
/// style but its own two, by their hashes.
const PAGE: &str = include_str!("page.html");
const PAGE_POLICY: &str = include_str!("page.policy");

/// A running endpoint.
#[derive(Debug)]
pub(crate) struct Status {
    source: Arc<Source>,
    /// Dropped to end the thread.
    running: OwnedFd,
    thread: JoinHandle<()>,
}

impl Status {
    /// Listens and spawns the thread.
    pub(crate) fn start(
        address: &StatusAddress,
        shows_clients: bool,
        source: Source,
    ) -> Result<Self, String> {
        let listener = StatusListener::bind(address)
            .map_err(|error| format!("cannot listen on {address} for the status: {error}"))?;
        listener.log(shows_clients);
        let source = Arc::new(source);
        let cannot = |error: io::Error| format!("cannot start the status endpoint: {error}");
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        let (ended, running) = pipe.map_err(|error| cannot(error.into()))?;
        let serving = Serving {
            listener,
            shows_clients,
            source: Arc::clone(&source),
            ended,
            connections: Vec::new(),
            paused_until: None,
            page_asked: None,
            report_shown: false,
        };
        let thread = thread::Builder::new().name("status".to_owned());
        let thread = thread.spawn(move || serving.run()).map_err(cannot)?;
        Ok(Self { source, running, thread })
    }

    /// Shows the report to a page that is watching, and ends the thread.
    pub(crate) fn end(self, report: &Report) {
        let Self { source, running, thread } = self;
        // It is set once, here.
        let _ = source.report.set(report.clone());
        drop(running);
        if thread.join().is_err() {
            log::error!("the status endpoint's thread panicked");
        }
    }
}

/// The thread's state.
#[derive(Debug)]
struct Serving {
    listener: StatusListener,
    shows_clients: bool,
    source: Arc<Source>,
    /// Readable once the other end is dropped.
    ended: OwnedFd,
    /// The oldest first.
    connections: Vec<Connection>,
    paused_until: Option<Instant>,
    /// When the page asked last.
    page_asked: Option<Instant>,
    report_shown: bool,
}

impl Serving {
    fn run(mut self) {
        let mut end: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end || self.report_shown && self.connections.is_empty())
            {
                return;
            }
            self.wait(end);
            let now = Instant::now();
            if end.is_none() && self.has_ended() {
                let watches = |asked: Instant| now.duration_since(asked) < PAGE_INTERVAL;
                // Otherwise nobody waits for the report.
                let grace = self.page_asked.is_some_and(watches).then_some(PAGE_GRACE);
                end = Some(now + grace.unwrap_or_default());
            }
            self.accept(now);
            self.serve(now);
        }
    }

    /// Waits until there is something to do. While nobody asks, that is until the end.
    fn wait(&self, end: Option<Instant>) {
        let accepts = self.paused_until.is_none();
        let mut fds = Vec::with_capacity(MAX_CONNECTIONS + 2);
        if end.is_none() {
            fds.push(PollFd::new(&self.ended, PollFlags::IN));
        }
        if accepts {
            fds.push(PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN));
        }
        fds.extend(self.connections.iter().map(|it| PollFd::new(it, it.interest())));
        let deadlines = self.connections.iter().map(Connection::deadline);
        let until = deadlines.chain(end).chain(self.paused_until).min();
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // An interruption is a turn in vain; no other error can come of these arguments.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.ended, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn accept(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        self.paused_until = None;
        // As many as there is room for: more of them would only push each other out.
        for _ in 0..MAX_CONNECTIONS {
            match self.listener.accept() {
                Ok((stream, is_local)) => {
                    if self.connections.len() == MAX_CONNECTIONS {
                        self.connections.remove(0);
                    }
                    self.connections.push(Connection::new(stream, is_local, now));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.paused_until = Some(now + ACCEPT_BACKOFF);
                    return;
                }
            }
        }
    }

    /// Lets each connection get on.
    fn serve(&mut self, now: Instant) {
        for mut connection in std::mem::take(&mut self.connections) {
            let is_local = connection.is_local();
            let next = connection.advance(now, |request| self.answer(request, is_local, now));
            if next == Next::Wait {
                self.connections.push(connection);
            }
        }
    }

    /// The answer to a request.
    fn answer(&mut self, request: &Request, is_local: bool, now: Instant) -> Response {
        let source = &self.source;
        match request.path.as_str() {
            "/livez" | "/healthz" if source.liveness.is_alive(&source.stats) => {
                Response::text("200 OK", source.state())
            }
            "/livez" | "/healthz" => Response::text("503 Service Unavailable", "stuck"),
            "/readyz" if !source.liveness.is_alive(&source.stats) => {
                Response::text("503 Service Unavailable", "stuck")
            }
            "/readyz" if source.shutdown.is_shutdown() => {
                Response::text("503 Service Unavailable", source.state())
            }
            #[cfg(feature = "cluster")]
            "/readyz" if source.stats.cluster().is_some_and(|it| !it.was_settled) => {
                // Whoever restarts node after node is paced by this.
                Response::text("503 Service Unavailable", "waiting for the cluster")
            }
            "/readyz" => Response::text("200 OK", "ready"),
            "/metrics" => {
                let (content_type, body) = source.metrics(request.takes_open_metrics);
                Response { status: "200 OK", content_type, header: None, body }
            }
            "/" | "/clients" if !(is_local || self.shows_clients) => {
                Response::text("403 Forbidden", "only on a loopback address or a Unix socket")
            }
            "/" | "/clients" if !self.listener.is_unix() && !request.has_plain_host => {
                Response::text("403 Forbidden", "use an address or localhost")
            }
            "/" | "/clients" if request.is_cross_site => {
                Response::text("403 Forbidden", "not for pages of other sites")
            }
            "/" => Response {
                status: "200 OK",
                content_type: "text/html; charset=utf-8",
                header: Some(("Content-Security-Policy", PAGE_POLICY.trim_ascii_end())),
                body: PAGE.to_owned(),
            },
            "/clients" => {
                self.page_asked = Some(now);
                self.report_shown = source.report.get().is_some();
                let body = source.clients();
                Response { status: "200 OK", content_type: "application/json", header: None, body }
            }
            _ => Response::text("404 Not Found", "there is no such page"),
        }
    }
}
