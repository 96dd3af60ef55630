//! A conversation over any number of connections: what one server has not accepted goes to the
//! next, in order, and nothing goes twice. It runs on its caller's thread, and ends when the input
//! has and all of it is accepted, or with a connection that no other is to follow.
//!
//! Each connection has a thread `receiver` for what arrives, which ends with the connection.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use a_chat::Name;
use a_chat::client::{self, Block, ConnectError, EndReason, Ended, Inbox, Outbox, SendError};
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never, select};

use super::status::Status;

/// Pauses between attempts to connect: from the first to the last, doubling.
const CONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Pauses between questions who is there.
const WHO_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How many pieces of input are taken while nothing can be sent, to see whether there are more.
const AHEAD: usize = 4;

/// What a conversation is to do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where the server listens: a host and a port.
    pub(crate) address: String,
    pub(crate) name: Name,
    /// Follow one connection by the next.
    pub(crate) reconnect: bool,
    /// After a login that is not the first, wait for each recipient before sending to it.
    pub(crate) wait_for_recipients: bool,
    /// How long to stay after the end of the input.
    pub(crate) stay: Option<Duration>,
}

/// Where a conversation can be followed, from several threads at once.
pub(crate) trait Output: Clone + Send {
    /// Takes what the server has said. To fail ends the conversation.
    fn received(&mut self, block: Block) -> io::Result<()>;

    /// Takes what else happens.
    fn status(&mut self, status: &Status<'_>);
}

/// Disconnected at the end of a connection.
type End = Receiver<()>;

/// Holds the conversation. True if it came to its end, and the server has taken every line and
/// refused none.
///
/// `input` brings complete lines; its end is that of the conversation.
pub(crate) fn run(
    plan: &Plan,
    input: &Receiver<Vec<u8>>,
    output: impl Output,
) -> Result<bool, ConnectError> {
    let mut session = Session {
        plan,
        input,
        output,
        pending: VecDeque::new(),
        settled: 0,
        logins: 0,
        input_ended: None,
        clean: true,
    };
    while let Some((outbox, inbox)) = session.connect()? {
        let ended = session.converse(outbox, inbox)?;
        if session.settle(ended).is_break() {
            break;
        }
    }
    Ok(session.conclude())
}

/// The state of a conversation.
struct Session<'a, O> {
    plan: &'a Plan,
    input: &'a Receiver<Vec<u8>>,
    output: O,
    /// Lines to send before what the input brings.
    pending: VecDeque<Vec<u8>>,
    /// The number of the last line whose account is closed: it was accepted, or is in doubt.
    settled: u64,
    logins: u64,
    /// When the end of the input was seen.
    input_ended: Option<Instant>,
    clean: bool,
}

impl<O: Output> Session<'_, O> {
    /// Connects and logs in, however often it takes; `None` if there is no use in it any more.
    fn connect(&mut self) -> Result<Option<(Outbox, Inbox)>, ConnectError> {
        let mut pause = CONNECT_PAUSE.0;
        let mut told = String::new();
        loop {
            let error = match client::resume(&self.plan.address, &self.plan.name, self.settled) {
                Ok(connection) => {
                    self.logins += 1;
                    self.output.status(&Status::Connected { again: self.logins > 1 });
                    return Ok(Some(connection));
                }
                Err(error) if !self.plan.reconnect => return Err(error),
                Err(error) => error,
            };
            // The same is not told twice in a row.
            let why = error.to_string();
            if told != why {
                self.output.status(&Status::Retrying { why: &why });
                told = why;
            }
            if self.is_done() || self.pause(pause, &never()).is_break() || self.is_done() {
                return if self.logins > 0 { Ok(None) } else { Err(error) };
            }
            pause = CONNECT_PAUSE.1.min(pause * 2);
        }
    }

    /// Waits between two attempts, for more input too: less long if the input or the connection
    /// ends. `Break` if there is no use in another attempt.
    fn pause(&mut self, pause: Duration, end: &End) -> ControlFlow<()> {
        let until = Instant::now() + pause;
        let (none, mut input) = (never(), self.input);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = self.time_left().map_or(left, |time| time.min(left));
            if self.input_ended.is_some() || self.pending.len() >= AHEAD {
                input = &none;
            }
            select! {
                recv(input) -> lines => if let Ok(lines) = lines {
                    self.pending.push_back(lines);
                } else {
                    self.note_end_of_input();
                    return ControlFlow::Continue(());
                },
                recv(end) -> _ => return ControlFlow::Break(()),
                default(left) => return self.check_time(),
            }
        }
    }

    /// Talks over one connection, to its end.
    fn converse(&mut self, mut outbox: Outbox, inbox: Inbox) -> Result<Ended, ConnectError> {
        let output = self.output.clone();
        let (alive, end) = bounded(0);
        thread::scope(|scope| {
            let receiver = thread::Builder::new().name("receiver".to_owned());
            let receiver = receiver.spawn_scoped(scope, || receive(inbox, output, alive));
            let receiver = receiver.map_err(ConnectError::Start)?;
            self.send_all(&mut outbox, &end);
            let ended = outbox.finish(self.time_left());
            self.clean &= receiver.join().unwrap_or_else(|panic| resume_unwind(panic));
            Ok(ended)
        })
    }

    /// Sends until the input or the connection ends.
    fn send_all(&mut self, outbox: &mut Outbox, end: &End) {
        let mut presence = Presence::default();
        while let Some(lines) = self.next_lines(end) {
            let sent = if self.plan.wait_for_recipients && self.logins > 1 {
                self.send_in_presence(outbox, lines, &mut presence, end)
            } else {
                outbox.send_lines(&lines).map(drop)
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Waits for lines to send; `None` at the end of the input or of the connection.
    fn next_lines(&mut self, end: &End) -> Option<Vec<u8>> {
        if !self.pending.is_empty() || self.input_ended.is_some() {
            return self.pending.pop_front();
        }
        select! {
            recv(self.input) -> lines => lines.map_err(|_| self.note_end_of_input()).ok(),
            recv(end) -> _ => None,
        }
    }

    /// Sends the first of these lines when its recipients are there, and with it those after it
    /// that are for the same or for others who were met. The rest is pending.
    fn send_in_presence(
        &mut self,
        outbox: &mut Outbox,
        mut lines: Vec<u8>,
        presence: &mut Presence,
        end: &End,
    ) -> Result<(), SendError> {
        let mut acquainted = 0;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let strangers = presence.strangers(line);
            if !strangers.is_empty() {
                if acquainted > 0 {
                    break;
                }
                if let Err(error) = self.wait_for(outbox, &strangers, end) {
                    self.pending.push_front(lines);
                    return Err(error);
                }
                presence.meet(strangers);
            }
            acquainted += line.len();
        }
        let rest = lines.split_off(acquainted);
        if !rest.is_empty() {
            self.pending.push_front(rest);
        }
        outbox.send_lines(&lines).map(drop)
    }

    /// Waits until all of these are there.
    fn wait_for(
        &mut self,
        outbox: &mut Outbox,
        names: &[Name],
        end: &End,
    ) -> Result<(), SendError> {
        let mut pause = WHO_PAUSE.0;
        let mut told = Vec::new();
        loop {
            let absent = outbox.absent(names)?;
            if absent.is_empty() {
                return Ok(());
            }
            if told != absent {
                self.output.status(&Status::WaitingFor { names: &absent });
                told = absent;
            }
            if self.pause(pause, end).is_break() {
                return Err(SendError::Closed);
            }
            pause = WHO_PAUSE.1.min(pause * 2);
        }
    }

    /// Takes over the account of a connection; `Break` if no other is to follow.
    fn settle(&mut self, ended: Ended) -> ControlFlow<()> {
        let Ended { reason, accepted, in_doubt, rest, .. } = ended;
        self.settled = in_doubt.last();
        if !rest.is_empty() {
            self.pending.push_front(rest.into_bytes());
        }
        if !matches!(reason, EndReason::Left) {
            self.output.status(&Status::Ended { reason: &reason, accepted });
        }
        if !in_doubt.is_empty() {
            self.output.status(&Status::InDoubt { lines: &in_doubt });
        }
        let failed = matches!(reason, EndReason::Refused(_) | EndReason::Lost(_));
        self.clean &= in_doubt.is_empty() && !failed;
        self.look_for_input();
        // Who has left before the end does so because nobody takes what arrives.
        if self.is_done() || !self.plan.reconnect || matches!(reason, EndReason::Left) {
            return ControlFlow::Break(());
        }
        self.check_time()
    }

    /// After the last connection: whether all is well.
    fn conclude(mut self) -> bool {
        self.look_for_input();
        if !self.pending.is_empty() {
            self.output.status(&Status::NotAccepted { from: self.settled + 1 });
        }
        self.clean && self.is_done()
    }

    /// True if every line of the input was accepted, or is in doubt.
    fn is_done(&self) -> bool {
        self.input_ended.is_some() && self.pending.is_empty()
    }

    /// Without waiting, looks whether there is more input.
    fn look_for_input(&mut self) {
        if self.pending.is_empty() && self.input_ended.is_none() {
            match self.input.try_recv() {
                Ok(lines) => self.pending.push_back(lines),
                Err(TryRecvError::Disconnected) => self.note_end_of_input(),
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    fn note_end_of_input(&mut self) {
        self.input_ended.get_or_insert_with(Instant::now);
    }

    /// How much longer this may stay; `None` for as long as it takes.
    fn time_left(&self) -> Option<Duration> {
        let stay = self.input_ended.and(self.plan.stay)?;
        let stayed = self.input_ended.map_or(Duration::ZERO, |since| since.elapsed());
        Some(stay.saturating_sub(stayed))
    }

    fn check_time(&self) -> ControlFlow<()> {
        if self.time_left().is_some_and(|left| left.is_zero()) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// The thread `receiver`: passes on what arrives on one connection, and ends with it. True if the
/// server has refused nothing.
///
/// `alive` is only held: that it is gone tells the end of the connection.
fn receive(mut inbox: Inbox, mut output: impl Output, alive: Sender<()>) -> bool {
    let mut clean = true;
    while let Some(block) = inbox.next_block() {
        clean &= block.refusals().is_empty();
        if let Err(error) = output.received(block) {
            output.status(&Status::OutputFailed { error: &error });
            clean = false;
            break;
        }
    }
    drop(alive);
    clean
}

/// Who was met on one connection.
#[derive(Debug, Default)]
struct Presence {
    met: HashSet<Name>,
    /// The beginning of the last line that was for none but these, up to its `:`.
    list: Vec<u8>,
}

impl Presence {
    /// The recipients of a line that were not met yet.
    fn strangers(&mut self, line: &[u8]) -> Vec<Name> {
        if !self.list.is_empty() && line.starts_with(&self.list) {
            return Vec::new();
        }
        let strangers: Vec<_> =
            client::recipients(line).filter(|name| !self.met.contains(name)).collect();
        if strangers.is_empty() {
            let list = memchr::memchr(b':', line).map_or(0, |colon| colon + 1);
            self.list = line[..list].to_vec();
        }
        strangers
    }

    fn meet(&mut self, names: Vec<Name>) {
        self.met.extend(names);
    }
}
