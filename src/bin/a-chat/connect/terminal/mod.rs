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
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use a_chat::Name;
use a_chat::client::{Block, DisconnectReason};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded, unbounded};

use self::console::{Console, Leaving};
use self::style::Style;
use self::tty::{Modes, Restore};
use self::ui::{ScreenUpdate, Ui};
use super::input::Stop;
use super::reconnect::{self, Output, Plan};
use super::status::Status;
use crate::cli::ConnectArgs;
use crate::signals::{self, DEBOUNCE, ShutdownSignal};

/// How many screen updates, and how many pieces of input, may wait in their channels.
const QUEUE_CAPACITY: usize = 4;

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
    stop_on_signals(stop.clone(), Arc::clone(&leaving), modes.clone())?;
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
    // Unbounded: it holds only what a person typed or pasted.
    let (lines, typed) = unbounded();
    let ui = Ui::new(console, style, lines);
    let thread = Builder::new().name("terminal".to_owned());
    let (alive, end) = bounded::<()>(0);
    let ui = thread.spawn(move || {
        let _alive = alive;
        ui.run(&shown)
    })?;
    let plan = Plan::of(args, name.clone());
    let timeout = plan.stay.map(|_| FINAL_OUTPUT_TIMEOUT);
    let accepted = reconnect::run(&plan, &typed, Terminal { updates, name, timeout });
    if timeout.is_some_and(|time| end.recv_timeout(time) == Err(RecvTimeoutError::Timeout)) {
        // A blocked write cannot be interrupted, and the terminal shows no message either: the
        // thread is abandoned to the end of the process.
        return Ok(false);
    }
    ui.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(unusable)?;
    reader.join().unwrap_or_else(|panic| resume_unwind(panic));
    Ok(accepted?)
}

/// The first signal ends the input, as leaving does; a later one ends the process.
fn stop_on_signals(stop: Stop, leaving: Leaving, modes: Modes) -> Result<(), String> {
    signals::on_request(move |request| {
        let late = leaving.get().is_some_and(|since| since.elapsed() >= DEBOUNCE);
        if late || request == ShutdownSignal::Force {
            modes.leave();
            #[expect(clippy::exit, reason = "only this ends a blocked write")]
            std::process::exit(1);
        }
        stop.stop();
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

impl Output for Terminal {
    fn received(&mut self, block: Block) -> io::Result<()> {
        let update = ScreenUpdate::FromServer(block);
        self.updates.send(update).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn status(&mut self, status: &Status<'_>) {
        let text = match status {
            Status::Connected { again: false } => {
                format!("connected as {}, /help says what can be typed", self.name)
            }
            // The server's own message, already on the screen, says so.
            Status::ConnectionOutcome {
                reason: DisconnectReason::ShutDown | DisconnectReason::Refused(_),
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
