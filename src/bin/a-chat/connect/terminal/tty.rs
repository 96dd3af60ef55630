//! The terminal as a device: its modes and its input. The thread `keys` runs [`read`] and owns the
//! signalfd for changes; it exits when the terminal is gone or when it is stopped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crossbeam_channel::Sender;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::super::input::Stop;
use super::tty_event::TtyEvent;

/// How many bytes one call reads at most.
const READ_BYTES: usize = 4096;

/// The terminal's original modes, and from them the modes for typing.
#[derive(Clone, Debug)]
pub(crate) struct Modes {
    original: Termios,
}

impl Modes {
    pub(crate) fn of_terminal() -> io::Result<Self> {
        Ok(Self { original: tcgetattr(io::stdin())? })
    }

    /// Delivers every key unprocessed and at once, without echo. Output processing stays on.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let mut raw = self.original.clone();
        raw.input_modes &= !(InputModes::BRKINT
            | InputModes::ICRNL
            | InputModes::IGNCR
            | InputModes::INLCR
            | InputModes::ISTRIP
            | InputModes::IXON);
        raw.local_modes &=
            !(LocalModes::ECHO | LocalModes::ICANON | LocalModes::IEXTEN | LocalModes::ISIG);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &raw)?)
    }

    /// Restores the original modes.
    pub(crate) fn leave(&self) {
        // This fails only if the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.original);
    }
}

/// Restores the original modes when dropped, in case an error or a panic bypassed the usual way.
#[derive(Debug)]
pub(crate) struct Restore(pub(crate) Modes);

impl Drop for Restore {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Suspends this process as Ctrl-Z usually does; returns when it is resumed.
pub(crate) fn suspend() {
    // Sent to this thread itself, so the process is suspended before this returns.
    let _ = raise(Signal::SIGTSTP);
}

/// Returns a descriptor that reports resizes and resumptions. Call it before spawning any thread:
/// each of them must inherit these signals as blocked.
pub(crate) fn watch_changes() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGWINCH);
    signals.add(Signal::SIGCONT);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The thread `keys`: passes on what happens at the terminal.
pub(crate) fn read(changes: &SignalFd, stop: &Stop, events: &Sender<TtyEvent>) {
    let stdin = io::stdin();
    let mut buffer = [0; READ_BYTES];
    while let Some([typed, changed]) = wait(stdin.as_fd(), changes, stop) {
        if changed {
            while matches!(changes.read_signal(), Ok(Some(_))) {}
            if events.send(TtyEvent::Changed).is_err() {
                return;
            }
        }
        if typed {
            let count = match rustix::io::read(&stdin, &mut buffer) {
                Ok(count @ 1..) => count,
                // The terminal is non-blocking, and another process was faster.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                // End of file or any other error: the terminal is gone.
                Ok(_) | Err(_) => return,
            };
            if events.send(TtyEvent::Bytes(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    }
}

/// Waits for input and for changes, and returns whether each is there; `None` to stop.
fn wait(stdin: BorrowedFd<'_>, changes: &SignalFd, stop: &Stop) -> Option<[bool; 2]> {
    loop {
        let mut all = [stdin, changes.as_fd(), stop.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut all, None) {
            Ok(_) => {
                let [typed, changed, stopped] = all.map(|fd| !fd.revents().is_empty());
                return (!stopped).then_some([typed, changed]);
            }
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}
