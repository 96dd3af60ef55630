//! What the service manager is told, and the sockets it passes. Without one, nothing of this runs.
//!
//! The thread `systemd` owns the conversation: it waits for the shutdown, and otherwise wakes only as
//! often as the watchdog must be fed. It ends after the report, but nobody waits long for it: a manager
//! that does not read must not delay the exit.
#![expect(unsafe_code, reason = "passed descriptors come as bare numbers")]

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use a_chat::{ShutdownHandle, StatsHandle};
use crossbeam_channel::{Receiver, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;

use crate::liveness::Liveness;

/// How often the manager learns how far the drain is.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);

/// How long the exit waits for the last word to be sent.
const LAST_WORD: Duration = Duration::from_millis(500);

/// A name that systemd gives to descriptors that a service has stored, which are no listeners.
const STORED: &str = "stored";

/// The listening sockets that were passed to this process, in their order; none without a manager.
///
/// Call it before anything else is opened: it takes the descriptors from the third on by their numbers.
pub(crate) fn passed_sockets() -> Result<Vec<OwnedFd>, String> {
    let cannot = |error: io::Error| format!("cannot take the sockets that were passed: {error}");
    let passed: Vec<_> = sd_notify::listen_fds_with_names().map_err(cannot)?.collect();
    if let Some((fd, _)) = passed.iter().find(|(_, name)| name == STORED) {
        return Err(format!(
            "descriptor {fd} was passed as `{STORED}`, which is no socket to serve on"
        ));
    }
    // SAFETY: each was open when this was called, as setting its flags has shown, and was opened
    // before this process began; so nothing else in it owns them.
    Ok(passed.into_iter().map(|(fd, _)| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}

/// Tells the thread `systemd` that a reload was requested and done, from any thread and without ever
/// waiting. Without a manager there is nobody to tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reloads(Option<Arc<OwnedFd>>);

impl Reloads {
    pub(crate) fn new() -> io::Result<Self> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self::default());
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Some(Arc::new(eventfd(0, flags)?))))
    }

    /// A reload was done.
    pub(crate) fn done(&self) {
        if let Some(event) = &self.0 {
            // Fails only if there were 2^64 before that nobody has seen.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    /// Whether one was done since the last look.
    fn take(&self) -> bool {
        let mut count = [0; 8];
        self.0.as_ref().is_some_and(|event| rustix::io::read(event, &mut count).is_ok())
    }
}

/// The conversation with the manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    /// Dropped to end the thread.
    running: OwnedFd,
    /// Disconnected at the thread's end.
    ended: Receiver<()>,
}

impl Notifier {
    /// Tells the manager that clients are served, and spawns the thread; `None` without a manager.
    pub(crate) fn start(
        stats: StatsHandle,
        shutdown: ShutdownHandle,
        reloads: Reloads,
    ) -> io::Result<Option<Self>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(None);
        }
        let (stop, running) = pipe_with(PipeFlags::CLOEXEC)?;
        let (end, ended) = bounded(0);
        // Twice as often as it must be.
        let feeding = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let conversation = Conversation {
            stats,
            shutdown,
            reloads,
            liveness: Liveness::default(),
            feeding,
            status: String::new(),
            stop,
        };
        let thread = thread::Builder::new().name("systemd".to_owned());
        thread.spawn(move || {
            let _disconnected_at_the_end = end;
            conversation.run();
        })?;
        Ok(Some(Self { running, ended }))
    }

    /// Ends the thread, once its last word is sent or did not get through in time.
    pub(crate) fn end(self) {
        let Self { running, ended } = self;
        drop(running);
        // Either way it is over.
        let _ = ended.recv_timeout(LAST_WORD);
    }
}

/// The thread's state.
struct Conversation {
    stats: StatsHandle,
    shutdown: ShutdownHandle,
    reloads: Reloads,
    liveness: Liveness,
    /// How often the watchdog is fed.
    feeding: Option<Duration>,
    /// What the manager was told last.
    status: String,
    stop: OwnedFd,
}

impl Conversation {
    fn run(mut self) {
        self.status = self.running_status();
        tell(&[NotifyState::Ready, NotifyState::Status(&self.status)]);
        let mut fed = Instant::now();
        let mut is_stopping = false;
        loop {
            let draining = is_stopping.then_some(DRAIN_INTERVAL);
            let feed_in = self.feeding.map(|every| every.saturating_sub(fed.elapsed()));
            let timeout = feed_in.into_iter().chain(draining).min();
            let has_ended = self.wait(timeout, is_stopping);
            // Also if the drain was over before this thread ran.
            if !is_stopping && self.shutdown.is_shutdown() {
                is_stopping = true;
                self.status = self.draining_status();
                tell(&[NotifyState::Stopping, NotifyState::Status(&self.status)]);
            }
            if has_ended {
                return;
            }
            if self.reloads.take() && !is_stopping {
                self.tell_of_reload();
            }
            if self.feeding.is_some_and(|every| fed.elapsed() >= every) {
                fed = Instant::now();
                // A broker that is stuck is not fed for, and the manager ends the process.
                if self.liveness.is_alive(&self.stats) {
                    tell(&[NotifyState::Watchdog]);
                }
            }
            let status = if is_stopping { self.draining_status() } else { self.running_status() };
            if status != self.status {
                self.status = status;
                tell(&[NotifyState::Status(&self.status)]);
            }
        }
    }

    /// A manager that has asked for the reload waits for both of these (`Type=notify-reload`); any
    /// other takes them for what they say.
    fn tell_of_reload(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => log::debug!("cannot read the clock for the service manager: {error}"),
        }
        tell(&[NotifyState::Ready, NotifyState::Status(&self.status)]);
    }

    /// Waits for the end, for a reload, for the shutdown unless it is known, or until the time is
    /// over; true at the end.
    fn wait(&self, timeout: Option<Duration>, knows_shutdown: bool) -> bool {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = vec![PollFd::new(&self.stop, PollFlags::IN)];
        fds.extend(self.reloads.0.as_deref().map(|event| PollFd::new(event, PollFlags::IN)));
        if !knows_shutdown {
            fds.push(PollFd::from_borrowed_fd(self.shutdown.as_fd(), PollFlags::IN));
        }
        // An interruption is a turn in vain.
        let _ = poll(&mut fds, timeout.as_ref());
        !fds[0].revents().is_empty()
    }

    fn running_status(&self) -> String {
        let stats = self.stats.read();
        format!("{} clients, {} B queued", stats.connected, stats.queued_bytes)
    }

    fn draining_status(&self) -> String {
        let stats = self.stats.read();
        let left = self.shutdown.drain_timeout().saturating_sub(self.shutdown.drain_elapsed());
        let due = stats.owed.saturating_sub(stats.delivered + stats.lost);
        format!("draining: {due} deliveries to go, {:.1} s left", left.as_secs_f64())
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("cannot notify the service manager: {error}");
    }
}
