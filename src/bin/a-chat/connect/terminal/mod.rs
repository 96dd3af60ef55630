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
mod recipient;
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
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder};
use std::time::Duration;

use a_chat::Name;
use a_chat::client::{
    self, Block, ConnectError, DisconnectReason, Rejection, SessionHandle, SessionOutput,
    SessionStatus,
};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use self::console::{Console, Leaving};
use self::tty::{Modes, Restore};
use self::ui::{ScreenUpdate, Ui};
use super::input::Stop;
use super::reconnect;
use super::status::Status;
use crate::cli::ConnectArgs;
use crate::error_chain;
use crate::signals::{self, DEBOUNCE, ShutdownSignal};

/// How many screen updates, and how many pieces of input, may wait in their channels.
const QUEUE_CAPACITY: usize = 4;

/// How many entered bytes may wait to be sent: no limit, since that is what a person typed or pasted,
/// and the thread `terminal` must not wait.
const INPUT_CAPACITY_BYTES: usize = usize::MAX;

/// How long an aborted session may take to report the lines that were not accepted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the terminal may take to show what is left once `--wait` is over.
const FINAL_OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// True if standard input and output are a terminal that understands escape sequences.
pub(crate) fn is_interactive() -> bool {
    let capable = env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    capable && io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Runs until the user leaves or the conversation ends. Success if the server accepted every line, or
/// with `--confirm` if it delivered every line.
pub(crate) fn run(args: &ConnectArgs) -> Result<Status, Box<dyn Error>> {
    let changes = tty::watch_changes().map_err(unusable)?;
    let modes = Modes::of_terminal().map_err(unusable)?;
    let _restore = Restore(modes.clone());
    let (stop, leaving) = (Stop::new()?, Leaving::default());
    let started = Arc::default();
    stop_on_signals(stop.clone(), Arc::clone(&leaving), modes.clone(), Arc::clone(&started))?;
    let (keys, events) = bounded(QUEUE_CAPACITY);
    let mut console =
        Console::open(modes.clone(), events, stop.clone(), leaving).map_err(unusable)?;
    let reader = Builder::new().name("keys".to_owned());
    let reader = reader.spawn(move || tty::read(&changes, &stop, &keys))?;
    let status = loop {
        let name = match &args.name {
            Some(name) => name.clone(),
            None => login::ask_name(&mut console).map_err(unusable)?.ok_or("no name was given")?,
        };
        match run_session(args, name, console, &started)? {
            Outcome::Ended(status) => break status,
            Outcome::NameTaken(returned) => console = *returned,
            // A blocked write cannot be interrupted, and the terminal shows no message either: its
            // thread is abandoned to the end of the process.
            Outcome::Stuck => return Ok(Status::Failure),
        }
    };
    reader.join().unwrap_or_else(|panic| resume_unwind(panic));
    Ok(status)
}

/// How a session at the terminal ended.
enum Outcome {
    Ended(Status),
    /// The name that the user was asked for is taken.
    NameTaken(Box<Console>),
    /// The terminal accepts no more output.
    Stuck,
}

/// Runs a session, with the thread `terminal` for the user's side of it.
fn run_session(
    args: &ConnectArgs,
    name: Name,
    console: Console,
    started: &Mutex<Option<SessionHandle>>,
) -> Result<Outcome, Box<dyn Error>> {
    let is_asked = args.name.is_none();
    let (updates, shown) = bounded(QUEUE_CAPACITY);
    let session = reconnect::session(args, &name)?;
    *started.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.handle());
    let (lines, typed) = client::lines(INPUT_CAPACITY_BYTES);
    let ui = Ui::new(console, lines, session.handle(), is_asked);
    let thread = Builder::new().name("terminal".to_owned());
    let (alive, end) = bounded::<()>(0);
    let ui = thread.spawn(move || {
        let _alive = alive;
        ui.run(&shown)
    })?;
    let timeout = args.wait.map(|_| FINAL_OUTPUT_TIMEOUT);
    let asking = is_asked.then(|| session.handle());
    let output = Terminal { updates: updates.clone(), name, timeout, asking };
    let summary = session.run(typed, output);
    if let Some(error) = summary.as_ref().err().filter(|error| is_asked && is_name_taken(error)) {
        // If this fails, the user has left.
        let _ = updates.send(ScreenUpdate::NameTaken(error_chain::in_one_line(error)));
    }
    drop(updates);
    if timeout.is_some_and(|time| end.recv_timeout(time) == Err(RecvTimeoutError::Timeout)) {
        return Ok(Outcome::Stuck);
    }
    let console = ui.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(unusable)?;
    if let Some(console) = console {
        return Ok(Outcome::NameTaken(Box::new(console)));
    }
    let summary = summary?;
    Ok(Outcome::Ended(if args.confirm.confirm {
        Status::of_confirmed(&summary, summary.input_ended)
    } else {
        Status::of_accepted(summary.is_clean)
    }))
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for `map_err`")]
fn unusable(error: io::Error) -> String {
    format!("cannot use the terminal: {error}")
}

fn is_name_taken(error: &ConnectError) -> bool {
    let ConnectError::Login { reason, .. } = error else { return false };
    matches!(reason, DisconnectReason::Rejected(Rejection::NameTaken))
}

/// The first signal ends the input, as leaving does; a later one ends the session, then the process.
fn stop_on_signals(
    stop: Stop,
    leaving: Leaving,
    modes: Modes,
    session: Arc<Mutex<Option<SessionHandle>>>,
) -> Result<(), String> {
    signals::on_request(move |request| {
        let session = session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let late = leaving.get().is_some_and(|since| since.elapsed() >= DEBOUNCE);
        if late || request == ShutdownSignal::Force {
            if let Some(session) = session {
                session.abort();
                thread::sleep(ABORT_TIMEOUT);
            }
            modes.leave();
            #[expect(clippy::exit, reason = "only this ends a blocked write")]
            std::process::exit(1);
        }
        stop.stop();
        if let Some(session) = session {
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
    /// Until the first login, if the user was asked for the name: a taken one is asked for again.
    asking: Option<SessionHandle>,
}

impl SessionOutput for Terminal {
    fn received(&mut self, block: Block) -> io::Result<()> {
        let update = ScreenUpdate::FromServer(block);
        self.updates.send(update).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn status(&mut self, status: &SessionStatus<'_>) {
        let update = match status {
            SessionStatus::Connected { again: false } => {
                self.asking = None;
                let name = &self.name;
                ScreenUpdate::Connected(format!(
                    "connected as {name}, /help says what can be typed"
                ))
            }
            SessionStatus::Retrying { error } if self.asking.is_some() && is_name_taken(error) => {
                if let Some(session) = &self.asking {
                    session.cancel_connecting();
                }
                return;
            }
            // The server's own message, already on the screen, says so.
            SessionStatus::Ended {
                reason: DisconnectReason::ShutDown | DisconnectReason::Rejected(_),
                ..
            } => return,
            status => ScreenUpdate::Status(status.to_string()),
        };
        // This fails only if the terminal is gone or accepts no output.
        let _ = match self.timeout {
            Some(timeout) => self.updates.send_timeout(update, timeout).is_ok(),
            None => self.updates.send(update).is_ok(),
        };
    }
}
