//! `connect` at a terminal. The conversation runs on the main thread, which spawns and joins the
//! threads `keys` and `terminal`.
//!
//! ```text
//!  keys ──TtyEvent──> terminal ──lines──> conversation ─> server
//!                        ^ └─> screen          │
//!                        └────ScreenUpdate─────┘ and its thread `receiver`
//! ```
//!
//! The end of the input travels from left to right: when the user leaves, `terminal` drops the
//! sender of the lines, as a pipe's end of file does. The end of the conversation drops the senders
//! of screen updates; that ends the thread `terminal`, which restores the terminal and stops the
//! thread `keys`.
//!
//! The event loop is our own. rustyline can hold messages back until the next key, and its prompt
//! cannot change meanwhile (its issues 629 and 881); reedline polls. Libraries do what is left:
//! `vte` parses escape sequences, `unicode-segmentation` and `unicode-width` measure text.

// In the order in which a key meets them, then what is shown.
mod tty_event;
mod tty;
mod keys;
mod console;
mod login;
mod ui;
mod line;
mod text;
mod history;
mod completion;
mod command;
mod style;
mod screen;

use std::env;
use std::error::Error;
use std::io::{self, IsTerminal};
use std::panic::resume_unwind;
use std::sync::{Arc, OnceLock};
use std::thread::{self, Builder};
use std::time::Duration;

use a_chat::Name;
use a_chat::client::{self, Block, DisconnectReason, SessionHandle, SessionOutput, SessionStatus};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use self::console::{Console, Leaving};
use self::style::Style;
use self::tty::{Modes, Restore};
use self::ui::{ScreenUpdate, Ui};
use super::input::Stop;
use super::reconnect;
use crate::cli::ConnectArgs;
use crate::signals::{self, DEBOUNCE, ShutdownSignal};

/// How many screen updates, and how many pieces of input, may wait in their channels.
const QUEUE_CAPACITY: usize = 4;

/// How many entered bytes may wait to be sent.
const INPUT_CAPACITY_BYTES: usize = 1024 * 1024;

/// How long an aborted session may take to report the lines that were not accepted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the terminal may take to show what is left once `--wait` is over.
const FINAL_OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// True if standard input and output are a terminal that understands escape sequences.
pub(crate) fn is_interactive() -> bool {
    let capable = env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    capable && io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Runs until the user leaves or the conversation ends. True if the server accepted every line.
pub(crate) fn run(args: &ConnectArgs) -> Result<bool, Box<dyn Error>> {
    let unusable = |error| format!("cannot use the terminal: {error}");
    let changes = tty::watch_changes().map_err(unusable)?;
    let modes = Modes::of_terminal().map_err(unusable)?;
    let _restore = Restore(modes.clone());
    let (stop, leaving) = (Stop::new()?, Leaving::default());
    let started = Arc::new(OnceLock::new());
    stop_on_signals(stop.clone(), Arc::clone(&leaving), modes.clone(), Arc::clone(&started))?;
    let (keys, events) = bounded(QUEUE_CAPACITY);
    let mut console =
        Console::open(modes.clone(), events, stop.clone(), leaving).map_err(unusable)?;
    let reader = Builder::new().name("keys".to_owned());
    let reader = reader.spawn(move || tty::read(&changes, &stop, &keys))?;
    let style = Style::from_environment();
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            login::ask_name(&mut console, &style).map_err(unusable)?.ok_or("no name was given")?
        }
    };
    let (updates, shown) = bounded(QUEUE_CAPACITY);
    let session = reconnect::session(args, &name);
    let _ = started.set(session.handle());
    let (lines, typed) = client::lines(INPUT_CAPACITY_BYTES);
    let ui = Ui::new(console, style, lines, session.handle());
    let thread = Builder::new().name("terminal".to_owned());
    let (alive, end) = bounded::<()>(0);
    let ui = thread.spawn(move || {
        let _alive = alive;
        ui.run(&shown)
    })?;
    let timeout = args.wait.map(|_| FINAL_OUTPUT_TIMEOUT);
    let summary = session.run(typed, Terminal { updates, name, timeout });
    if timeout.is_some_and(|time| end.recv_timeout(time) == Err(RecvTimeoutError::Timeout)) {
        // A blocked write cannot be interrupted, and the terminal shows no message either: the
        // thread is abandoned to the end of the process.
        return Ok(false);
    }
    ui.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(unusable)?;
    reader.join().unwrap_or_else(|panic| resume_unwind(panic));
    Ok(summary?.is_clean)
}

/// The first signal ends the input, as leaving does; a later one ends the session, then the process.
fn stop_on_signals(
    stop: Stop,
    leaving: Leaving,
    modes: Modes,
    session: Arc<OnceLock<SessionHandle>>,
) -> Result<(), String> {
    signals::on_request(move |request| {
        let late = leaving.get().is_some_and(|since| since.elapsed() >= DEBOUNCE);
        if late || request == ShutdownSignal::Force {
            if let Some(session) = session.get() {
                session.abort();
                thread::sleep(ABORT_TIMEOUT);
            }
            modes.leave();
            #[expect(clippy::exit, reason = "only this ends a blocked write")]
            std::process::exit(1);
        }
        stop.stop();
        if let Some(session) = session.get() {
            session.cancel_connecting();
        }
    })
}

/// Passes what a conversation reports to the thread `terminal`.
#[derive(Clone, Debug)]
struct Terminal {
    updates: Sender<ScreenUpdate>,
    name: Name,
    /// How long to wait for a terminal that accepts no output; `None` waits indefinitely.
    timeout: Option<Duration>,
}

impl SessionOutput for Terminal {
    fn received(&mut self, block: Block) -> io::Result<()> {
        let update = ScreenUpdate::FromServer(block);
        self.updates.send(update).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn status(&mut self, status: &SessionStatus<'_>) {
        let text = match status {
            SessionStatus::Connected { again: false } => {
                format!("connected as {}, /help says what can be typed", self.name)
            }
            // The server's own message, already on the screen, says so.
            SessionStatus::Ended {
                reason: DisconnectReason::ShutDown | DisconnectReason::Rejected(_),
                ..
            } => return,
            status => status.to_string(),
        };
        let update = ScreenUpdate::Status(text);
        // This fails only if the terminal is gone or accepts no output.
        let _ = match self.timeout {
            Some(timeout) => self.updates.send_timeout(update, timeout).is_ok(),
            None => self.updates.send(update).is_ok(),
        };
    }
}
