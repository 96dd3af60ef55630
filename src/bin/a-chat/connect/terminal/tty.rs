//! The terminal as a device: its modes, and what comes from it. The thread `keys` runs [`read`] and
//! owns the descriptor that tells of changes; it ends with the terminal or when told to stop.

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
use super::console::Input;

/// How much is read at once, in bytes.
const READ: usize = 4096;

/// The modes of the terminal: the usual ones, in which it was found, and those for typing.
#[derive(Clone, Debug)]
pub(crate) struct Modes {
    usual: Termios,
}

impl Modes {
    pub(crate) fn of_terminal() -> io::Result<Self> {
        Ok(Self { usual: tcgetattr(io::stdin())? })
    }

    /// Has every key come as it is and at once, and shows none. Output is as usual.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let mut raw = self.usual.clone();
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

    /// Back to the usual ones.
    pub(crate) fn leave(&self) {
        // It fails only if the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.usual);
    }
}

/// Puts the usual modes back when it is dropped, should nobody else come to it.
#[derive(Debug)]
pub(crate) struct Restore(pub(crate) Modes);

impl Drop for Restore {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Stops this process as Ctrl-Z usually does; it returns when that goes on.
pub(crate) fn suspend() {
    // The signal is this thread's own, so that all is stopped before this returns.
    let _ = raise(Signal::SIGTSTP);
}

/// From now on changes are told by a descriptor. It has to be called before there are other
/// threads: each of them must have these signals blocked.
pub(crate) fn watch_changes() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGWINCH);
    signals.add(Signal::SIGCONT);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The thread `keys`: hands over what comes from the terminal.
pub(crate) fn read(changes: &SignalFd, stop: &Stop, input: &Sender<Input>) {
    let stdin = io::stdin();
    let mut buffer = [0; READ];
    while let Some([typed, changed]) = wait(stdin.as_fd(), changes, stop) {
        if changed {
            while matches!(changes.read_signal(), Ok(Some(_))) {}
            if input.send(Input::Changed).is_err() {
                return;
            }
        }
        if typed {
            // Whatever else may be wrong, there is no terminal any more.
            let Ok(count @ 1..) = rustix::io::read(&stdin, &mut buffer) else { return };
            if input.send(Input::Bytes(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    }
}

/// Waits for a key or for a change, and tells which it is; `None` if this is to stop.
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
