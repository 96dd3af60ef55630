//! `connect` at a terminal. The conversation runs on the main thread; the threads `keys` and
//! `terminal` are joined when that is over.
//!
//! ```text
//!  keys ──Input──> terminal ──lines──> conversation ─> server
//!                     ^ └─> screen          │
//!                     └───────News──────────┘ its thread `receiver`, too
//! ```
//!
//! The end of the input goes from left to right: who leaves lets go of the lines, as the end of a
//! file does in a pipe. The end of the conversation lets go of the news, which ends the thread
//! `terminal`, which gives the terminal back and tells the thread `keys` to stop.
//!
//! The line is edited here and not by a library, since what a line editor must not do here is what
//! they do: to hold up what arrives while it waits for a key, to lose what has arrived when a line
//! ends, to take signals over, to wait for somebody to type when all is over.

// In the order in which a key meets them, then what is shown.
mod tty;
mod keys;
mod console;
mod login;
mod talk;
mod line;
mod history;
mod completion;
mod typed;
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
use self::talk::{News, Talk};
use self::tty::{Modes, Restore};
use super::input::Stop;
use super::reconnect::{self, Output, Plan};
use super::status::Status;
use crate::cli::ConnectArgs;
use crate::signals::{self, DEBOUNCE, ShutdownSignal};

/// How much may wait to be shown, and how much of what is typed to be looked at, in pieces.
const AHEAD: usize = 4;

/// How long the terminal may take for what is left when the time to stay is over.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Whether somebody sits at a terminal that can do what is needed.
pub(crate) fn is_there() -> bool {
    let able = env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    able && io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Talks until the user leaves or the conversation ends. True if the server has taken every line.
pub(crate) fn run(args: &ConnectArgs) -> Result<bool, Box<dyn Error>> {
    let unusable = |error| format!("cannot use the terminal: {error}");
    let changes = tty::watch_changes().map_err(unusable)?;
    let modes = Modes::of_terminal().map_err(unusable)?;
    let _restore = Restore(modes.clone());
    let (stop, leaving) = (Stop::new()?, Leaving::default());
    stop_on_signals(stop.clone(), Arc::clone(&leaving), modes.clone())?;
    let (keys, input) = bounded(AHEAD);
    let mut console =
        Console::open(modes.clone(), input, stop.clone(), leaving).map_err(unusable)?;
    let reader = Builder::new().name("keys".to_owned());
    let reader = reader.spawn(move || tty::read(&changes, &stop, &keys))?;
    let style = Style::of_environment();
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            login::ask_name(&mut console, &style).map_err(unusable)?.ok_or("no name was given")?
        }
    };
    let (news, shown) = bounded(AHEAD);
    // Never full for long: somebody has typed all of it.
    let (lines, typed) = unbounded();
    let talk = Talk::new(console, style, lines);
    let thread = Builder::new().name("terminal".to_owned());
    let (alive, end) = bounded::<()>(0);
    let talk = thread.spawn(move || {
        let _alive = alive;
        talk.run(&shown)
    })?;
    let plan = Plan::of(args, name.clone());
    let patience = plan.stay.map(|_| LAST_OUTPUT);
    let taken = reconnect::run(&plan, &typed, Terminal { news, name, patience });
    if patience.is_some_and(|time| end.recv_timeout(time) == Err(RecvTimeoutError::Timeout)) {
        // A write that blocks can not be ended: the thread is left to the end of the process. It
        // can not be told either.
        return Ok(false);
    }
    talk.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(unusable)?;
    reader.join().unwrap_or_else(|panic| resume_unwind(panic));
    Ok(taken?)
}

/// A signal ends the input, as leaving does; one that comes later ends everything.
fn stop_on_signals(stop: Stop, leaving: Leaving, modes: Modes) -> Result<(), String> {
    signals::on_request(move |request| {
        let late = leaving.get().is_some_and(|since| since.elapsed() >= DEBOUNCE);
        if late || request == ShutdownSignal::Force {
            modes.leave();
            #[expect(clippy::exit, reason = "nothing else ends a write that blocks")]
            std::process::exit(1);
        }
        stop.stop();
    })
}

/// The way from a conversation to the thread `terminal`.
#[derive(Clone, Debug)]
struct Terminal {
    news: Sender<News>,
    name: Name,
    /// How long to wait for a terminal that takes nothing; `None` for as long as it takes.
    patience: Option<Duration>,
}

impl Output for Terminal {
    fn received(&mut self, block: Block) -> io::Result<()> {
        self.news.send(News::ServerLine(block)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn status(&mut self, status: &Status<'_>) {
        let text = match status {
            Status::Connected { again: false } => {
                format!("connected as {}, /help says what can be typed", self.name)
            }
            // The server has said so itself.
            Status::ConnectionOutcome {
                reason: DisconnectReason::ShutDown | DisconnectReason::Refused(_),
                ..
            } => return,
            status => status.to_string(),
        };
        let news = News::Status(text);
        // It fails only if there is no terminal any more, or none that takes anything.
        let _ = match self.patience {
            Some(patience) => self.news.send_timeout(news, patience).is_ok(),
            None => self.news.send(news).is_ok(),
        };
    }
}
