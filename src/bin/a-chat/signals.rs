//! The signals that ask the process to exit, and those that must not kill a server. Each kind is
//! handled on a thread of its own, which lasts until the process exits.
//!
//! ctrlc handles SIGINT, SIGTERM and SIGHUP. It knows no other signals, so a server keeps the rest
//! from killing it with signal-hook, whose handlers need no `unsafe` and take real-time signals.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use a_chat::ShutdownHandle;
use libc::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGPWR, SIGQUIT, SIGSTKFLT, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGXCPU, c_int,
};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::iterator::Signals;

use crate::dispositions::{ignore, is_ignored};

/// Signals within this time of the first one count as the same request. A shell that closes sends
/// SIGHUP twice, and others send SIGTERM and SIGHUP together; a person who presses Ctrl-C again
/// because the first one had no visible effect is slower.
pub(crate) const DEBOUNCE: Duration = Duration::from_millis(500);

/// The meaning of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShutdownSignal {
    /// Exit.
    First,
    /// The same request as the first.
    Duplicate,
    /// Exit at once.
    Force,
}

/// Calls `handle` on every SIGINT, SIGTERM and SIGHUP from now on. SIGINT and SIGHUP stay ignored if
/// they are, as after nohup(1) or in a background job of a script.
pub(crate) fn on_request(
    mut handle: impl FnMut(ShutdownSignal) + Send + 'static,
) -> Result<(), String> {
    let ignored = [SIGHUP, SIGINT].into_iter().filter(|signal| is_ignored(*signal));
    let ignored: Vec<c_int> = ignored.collect();
    let mut first: Option<Instant> = None;
    ctrlc::set_handler(move || {
        handle(match first {
            None => ShutdownSignal::First,
            Some(first) if first.elapsed() < DEBOUNCE => ShutdownSignal::Duplicate,
            Some(_) => ShutdownSignal::Force,
        });
        first.get_or_insert_with(Instant::now);
    })
    .map_err(|error| match error {
        // Its own text omits the cause.
        ctrlc::Error::System(error) => format!("cannot wait for signals: {error}"),
        error => format!("cannot wait for signals: {error}"),
    })?;
    ignored.into_iter().for_each(ignore);
    Ok(())
}

/// The signals with numbers of their own that kill a process by default, other than those of
/// [`on_request`], those of a crash, SIGKILL, and SIGPIPE and SIGXFSZ, which are ignored.
const OTHERS: [(c_int, &str); 10] = [
    (SIGQUIT, "SIGQUIT"),
    (SIGUSR1, "SIGUSR1"),
    (SIGUSR2, "SIGUSR2"),
    (SIGALRM, "SIGALRM"),
    (SIGVTALRM, "SIGVTALRM"),
    (SIGPROF, "SIGPROF"),
    (SIGIO, "SIGIO"),
    (SIGPWR, "SIGPWR"),
    (SIGSTKFLT, "SIGSTKFLT"),
    (SIGXCPU, "SIGXCPU"),
];

/// Holds back the signals of operators, which kill a process that has no handler for them yet. The
/// main thread calls this before it does anything else.
pub(crate) fn hold_back() -> SigSet {
    let signals: SigSet = [NixSignal::SIGUSR1, NixSignal::SIGUSR2].into_iter().collect();
    // Fails only for an invalid request.
    let _ = signals.thread_block();
    signals
}

/// Delivers these signals from now on, those held back first.
pub(crate) fn let_through(signals: &SigSet) {
    let _ = signals.thread_unblock();
}

/// Signals that no longer kill the process, and wait for the thread that reacts to them.
pub(crate) struct Caught(Signals);

/// Catches every signal that would kill a server without a drain. No other thread may run yet: it
/// would keep the signals blocked that were held back until now.
pub(crate) fn catch(held_back: &SigSet) -> Result<Caught, String> {
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    let others = OTHERS.into_iter().map(|(signal, _)| signal);
    let signals = others.chain(real_time).filter(|signal| !is_ignored(*signal));
    let signals = Signals::new(signals).map_err(cannot_wait)?;
    let_through(held_back);
    Ok(Caught(signals))
}

#[expect(clippy::needless_pass_by_value, reason = "it is a function for map_err")]
fn cannot_wait(error: io::Error) -> String {
    format!("cannot wait for signals: {error}")
}

impl Caught {
    /// Spawns the thread `signals`, which calls `attend` on each SIGUSR1.
    pub(crate) fn react(
        mut self,
        handle: ShutdownHandle,
        attend: impl Fn() + Send + 'static,
    ) -> Result<(), String> {
        let thread = thread::Builder::new().name("signals".to_owned());
        let spawned = thread.spawn(move || {
            for signal in self.0.forever() {
                react(signal, &handle, &attend);
            }
        });
        spawned.map(drop).map_err(cannot_wait)
    }
}

fn react(signal: c_int, handle: &ShutdownHandle, attend: &dyn Fn()) {
    let name = OTHERS.into_iter().find(|(other, _)| *other == signal);
    let real_time = || format!("SIGRTMIN+{}", signal - libc::SIGRTMIN());
    let name = name.map_or_else(real_time, |(_, name)| name.to_owned());
    match signal {
        // ctrlc's thread then counts it with the others.
        SIGQUIT => drop(kill_process(getpid(), Signal::TERM)),
        SIGUSR1 => attend(),
        SIGUSR2 => log::warn!("ignored {name}: replacing the running program is not available"),
        // Both announce a kill. The kernel repeats SIGXCPU every second, so it never forces.
        SIGXCPU | SIGPWR if !handle.is_shutdown() => {
            log::warn!("{name} received, draining");
            handle.shutdown();
        }
        _ => log::warn!("ignored {name}"),
    }
}
