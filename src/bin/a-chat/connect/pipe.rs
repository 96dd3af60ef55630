//! `connect` in a pipe: sends standard input unchanged, writes what arrives to standard output
//! unchanged, and everything else to standard error. The conversation runs on the main thread, which
//! spawns and joins the thread `input`.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::cli::ConnectArgs;
use a_chat::Name;
use a_chat::client::{
    self, Block, DisconnectReason, LineBlocks, Lines, LostLines, SessionHandle, SessionOutput,
    SessionStatus,
};

use super::escape::escape_controls;
use super::input::{self, InputSummary, StandardInput, Stop};
use super::reconnect;
use super::status::Status;
use crate::output;
use crate::signals::{self, ShutdownSignal};

/// How many bytes of input may wait to be sent.
const INPUT_CAPACITY_BYTES: usize = 128 * 1024;

/// How many lines of a loss are shown.
const SHOWN_LOSSES: usize = 10;

/// How long an aborted session may take to report the lines that were not accepted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends all of standard input. Success if the server accepted every line, or with `--confirm` if it
/// delivered every line.
pub(crate) fn run(args: &ConnectArgs) -> Result<Status, Box<dyn Error>> {
    let unreadable = |error| format!("cannot read standard input: {error}");
    let input = if args.receive { StandardInput::silent() } else { StandardInput::new() };
    let input = input.map_err(unreadable)?;
    let stop = input.stop();
    let mut blocks = LineBlocks::new(input);
    let (name, first) = if let Some(name) = &args.name {
        (name.clone(), Vec::new())
    } else {
        if io::stdin().is_terminal() {
            warn(&"type your name, then lines such as \"bob: hello\"");
        }
        let block = blocks.next_block().map_err(unreadable)?.unwrap_or_default();
        let (name, rest) = name_and_rest(block)?;
        (name, rest.to_vec())
    };
    let session = reconnect::session(args, &name)?;
    stop_on_signals(stop.clone(), session.handle())?;
    let (lines, waiting) = client::lines(INPUT_CAPACITY_BYTES);
    let reader = thread::Builder::new().name("input".to_owned());
    let reader = reader.spawn(move || input::read(first, blocks, &lines))?;
    let output = Pipe { escaped: io::stdout().is_terminal(), ..Pipe::default() };
    let (reported, shut_down) = (Arc::clone(&output.reported), Arc::clone(&output.shut_down));
    let session = session.run(waiting, output);
    // If it has not ended, it is stopped here, and its errors do not matter.
    let input_ended = session.as_ref().is_ok_and(|session| session.input_ended);
    stop.stop();
    let summary = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
    if !summary.unsent.is_empty() && !reported.load(Relaxed) {
        let lines = Lines::new(summary.lines, summary.unsent.as_slice());
        warn(&SessionStatus::NotAccepted { lines: &lines });
    }
    let complete = input_ended && report_incomplete(&summary);
    // A client that only receives has no input to come to the end of.
    let was_served = args.receive && shut_down.load(Relaxed);
    let summary = session?;
    if args.confirm.confirm && !args.receive {
        let status = Status::of_confirmed(&summary, complete);
        if status == Status::Unconfirmed {
            warn(&"everything was accepted, but not confirmed as delivered");
        }
        return Ok(status);
    }
    Ok(Status::of_accepted(summary.is_clean && complete || was_served))
}

/// Reports input that was not read to its end, or only up to the middle of a line; true if neither.
fn report_incomplete(summary: &InputSummary) -> bool {
    let InputSummary { lines, unfinished, error, .. } = summary;
    if let Some(error) = error {
        warn(&format_args!("standard input was read up to line {lines} only: {error}"));
    }
    if !unfinished.is_empty() {
        let text = String::from_utf8_lossy(unfinished);
        warn(&format_args!("the last line is incomplete and was not sent: {text}"));
    }
    error.is_none() && unfinished.is_empty()
}

/// As on the wire, the first line is the name, unless another one was given.
fn name_and_rest(block: &[u8]) -> Result<(Name, &[u8]), &'static str> {
    let end = memchr::memchr(b'\n', block).ok_or("no --name, and no first line to take for it")?;
    let line = block[..end].strip_suffix(b"\r").unwrap_or(&block[..end]);
    let name = Name::new(line).map_err(|_| "no --name, and the first line is none")?;
    Ok((name, &block[end + 1..]))
}

/// The first signal ends the input, a later one the session, then the process, whatever it waits
/// for.
fn stop_on_signals(stop: Stop, session: SessionHandle) -> Result<(), String> {
    signals::on_request(move |request| match request {
        ShutdownSignal::First => {
            stop.stop();
            session.cancel_connecting();
        }
        ShutdownSignal::Duplicate => {}
        #[expect(clippy::exit, reason = "only this ends a blocked write")]
        ShutdownSignal::Force => {
            session.abort();
            thread::sleep(ABORT_TIMEOUT);
            std::process::exit(1)
        }
    })
}

/// Writes the server's lines to standard output, the rest to standard error.
#[derive(Clone, Debug, Default)]
struct Pipe {
    /// Standard output is a terminal after all; it must not obey text from others.
    escaped: bool,
    /// The lines that were not accepted have been reported.
    reported: Arc<AtomicBool>,
    /// The last connection ended with the server's shutdown.
    shut_down: Arc<AtomicBool>,
}

impl SessionOutput for Pipe {
    fn received(&mut self, block: Block) -> io::Result<()> {
        if self.escaped {
            let text = String::from_utf8_lossy(block.bytes());
            let lines = text.lines().map(|line| escape_controls(line) + "\n");
            output::to_stdout(lines.collect::<String>().as_bytes())?;
        } else {
            output::to_stdout(block.bytes())?;
        }
        for refusal in block.refusals() {
            let (line, reason, text) = (refusal.line, &refusal.reason, &refusal.text);
            warn(&format_args!("line {line} was refused, {reason}: {text}"));
        }
        for loss in block.losses() {
            warn_of_loss(loss);
        }
        Ok(())
    }

    fn status(&mut self, status: &SessionStatus<'_>) {
        if let SessionStatus::Ended { reason, .. } = status {
            self.shut_down.store(matches!(reason, DisconnectReason::ShutDown), Relaxed);
        }
        match status {
            SessionStatus::Connected { again: false } => {}
            // The reader has seen enough, as in `| head -1`: other filters end without a word, too.
            SessionStatus::OutputFailed { error } if error.kind() == io::ErrorKind::BrokenPipe => {}
            SessionStatus::NotAccepted { .. } => {
                self.reported.store(true, Relaxed);
                warn(status);
            }
            status => warn(status),
        }
    }
}

/// Names lost lines: the first few with their texts, as far as they are still known.
fn warn_of_loss(loss: &LostLines) {
    let mut message = loss.to_string();
    for (number, text) in loss.lines.iter().take(SHOWN_LOSSES) {
        message.extend(["\n  ", &number.to_string(), ": ", text]);
    }
    if loss.lines.len() > SHOWN_LOSSES {
        message += "\n  ...";
    }
    warn(&message);
}

/// Writes a message for people, who may sit at a terminal, to standard error.
fn warn(message: &dyn fmt::Display) {
    let text = format!("a-chat: {message}");
    let lines = text.split('\n').map(|line| escape_controls(line) + "\n");
    // If this fails, there is nowhere left to report it.
    let _ = output::to_stderr(lines.collect::<String>().as_bytes());
}
