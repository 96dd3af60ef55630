//! `connect` in a pipe: standard input is sent as it is, what arrives goes to standard output as
//! it is, everything else to standard error. The conversation runs on the main thread; the thread
//! `input` is joined when that is over.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::resume_unwind;
use std::thread;

use crate::cli::ConnectArgs;
use a_chat::Name;
use a_chat::client::{Block, LineBlocks, Refusal};
use crossbeam_channel::{TryRecvError, bounded};

use super::escape::escape_controls;
use super::input::{self, Input, Reading, Stop};
use super::reconnect::{self, Output, Plan};
use super::status::Status;
use crate::signals::{self, ShutdownSignal};

/// How many blocks of input may wait to be sent.
const AHEAD: usize = 2;

/// Sends all of standard input. True if the server has taken every line.
pub(crate) fn run(args: &ConnectArgs) -> Result<bool, Box<dyn Error>> {
    let unreadable = |error| format!("cannot read standard input: {error}");
    let input = Input::new().map_err(unreadable)?;
    let stop = input.stop();
    stop_on_signals(stop.clone())?;
    let mut blocks = LineBlocks::new(input);
    let (name, first) = if let Some(name) = &args.name {
        (name.clone(), Vec::new())
    } else {
        let block = blocks.next_block().map_err(unreadable)?.unwrap_or_default();
        let (name, rest) = name_and_rest(block)?;
        (name, rest.to_vec())
    };
    let (lines, waiting) = bounded(AHEAD);
    let reader = thread::Builder::new().name("input".to_owned());
    let reader = reader.spawn(move || input::read(first, blocks, &lines))?;
    let output = Pipe { escaped: io::stdout().is_terminal() };
    let taken = reconnect::run(&Plan::of(args, name), &waiting, output);
    // If not, it is stopped here, and says nothing of interest about that.
    let input_ended = matches!(waiting.try_recv(), Err(TryRecvError::Disconnected));
    stop.stop();
    drop(waiting);
    let reading = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
    let whole = input_ended && was_whole(&reading);
    Ok(taken? && whole)
}

/// True if standard input was read to its end, and the last line had one.
fn was_whole(reading: &Reading) -> bool {
    let Reading { lines, unfinished, error } = reading;
    if let Some(error) = error {
        complain(&format_args!("standard input was read up to line {lines} only: {error}"));
    }
    if !unfinished.is_empty() {
        let text = String::from_utf8_lossy(unfinished);
        complain(&format_args!("the last line has no line end and was not sent: {text}"));
    }
    error.is_none() && unfinished.is_empty()
}

/// As on the wire, the first line is the name, unless another one was given.
fn name_and_rest(block: &[u8]) -> Result<(Name, &[u8]), &'static str> {
    let end = memchr::memchr(b'\n', block).ok_or("no --name, and no first line to take for it")?;
    let line = block[..end].strip_suffix(b"\r").unwrap_or(&block[..end]);
    let name = Name::new(line).ok_or("no --name, and the first line is none")?;
    Ok((name, &block[end + 1..]))
}

/// The first signal ends the input, a later one everything, whatever that waits for.
fn stop_on_signals(stop: Stop) -> Result<(), String> {
    signals::on_request(move |request| match request {
        ShutdownSignal::First => stop.stop(),
        ShutdownSignal::Duplicate => {}
        #[expect(clippy::exit, reason = "nothing else ends a write that blocks")]
        ShutdownSignal::Force => std::process::exit(1),
    })
}

/// Standard output for what the server says, standard error for the rest.
#[derive(Clone, Debug)]
struct Pipe {
    /// It is a terminal after all, which must not obey what others have sent.
    escaped: bool,
}

impl Output for Pipe {
    fn received(&mut self, block: Block) -> io::Result<()> {
        // Standard output keeps nothing back that ends with a line end.
        if self.escaped {
            let text = String::from_utf8_lossy(block.bytes());
            let lines = text.lines().map(|line| escape_controls(line) + "\n");
            io::stdout().write_all(lines.collect::<String>().as_bytes())?;
        } else {
            io::stdout().write_all(block.bytes())?;
        }
        for Refusal { line, reason, text } in block.refusals() {
            complain(&format_args!("line {line} was refused, {reason}: {text}"));
        }
        Ok(())
    }

    fn status(&mut self, status: &Status<'_>) {
        if !matches!(status, Status::Connected { again: false }) {
            complain(status);
        }
    }
}

/// Says something that is for people only, who may sit at a terminal.
fn complain(what: &dyn fmt::Display) {
    let text = format!("a-chat: {what}");
    let lines = text.split('\n').map(|line| escape_controls(line) + "\n");
    // Nowhere is left to complain to, should this fail.
    let _ = io::stderr().write_all(lines.collect::<String>().as_bytes());
}
