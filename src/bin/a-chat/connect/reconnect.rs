//! A conversation over any number of connections: what one server has not accepted goes to the
//! next, in order, and nothing goes twice. It runs on its caller's thread, and ends when the input
//! has and all of it is accepted, or with a connection that no other is to follow.
//!
//! Each connection has a thread `receiver` for what arrives, which ends with the connection.

use std::io;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use crate::cli::ConnectArgs;
use a_chat::Name;
use a_chat::client::{
    self, Block, ConnectError, ConnectionOutcome, DisconnectReason, Inbox, Outbox, SendError,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never};

use super::backoff::Backoff;
use super::presence::Presence;
use super::status::Status;
use super::supply::{End, SendQueue};

/// Between attempts to connect.
const CONNECT: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Between questions who is there.
const WHO: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// How long the output may take for what has arrived when the time to stay is over.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

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

impl Plan {
    /// What the command line asks for.
    pub(crate) fn of(args: &ConnectArgs, name: Name) -> Self {
        Self {
            address: args.address.clone(),
            name,
            reconnect: args.reconnect,
            wait_for_recipients: !args.no_wait,
            stay: args.wait,
        }
    }
}

/// Where a conversation can be followed, from several threads at once.
pub(crate) trait Output: Clone + Send + 'static {
    /// Takes what the server has said. To fail ends the conversation.
    fn received(&mut self, block: Block) -> io::Result<()>;

    /// Takes what else happens.
    fn status(&mut self, status: &Status<'_>);
}

/// Holds the conversation. True if it came to its end, the server has taken every line and refused
/// none, and no connection was lost.
///
/// `input` brings complete lines; its end is that of the conversation.
pub(crate) fn run(
    plan: &Plan,
    input: &Receiver<Vec<u8>>,
    output: impl Output,
) -> Result<bool, ConnectError> {
    let mut session = Session {
        plan,
        supply: SendQueue::new(input, plan.stay),
        output,
        backoff: CONNECT,
        futile: false,
        settled: 0,
        logins: 0,
        clean: true,
        output_failed: false,
    };
    while let Some((outbox, inbox)) = session.connect()? {
        let outcome = session.run_connection(outbox, inbox)?;
        if session.settle(outcome).is_break() {
            break;
        }
    }
    Ok(session.conclude())
}

/// The state of a conversation.
struct Session<'a, O> {
    plan: &'a Plan,
    supply: SendQueue<'a>,
    output: O,
    backoff: Backoff,
    /// The last connection has come to nothing, so that the next one has to wait.
    futile: bool,
    /// The number of the last line whose account is closed: it was accepted, or is in doubt.
    settled: u64,
    logins: u64,
    /// Nothing has gone wrong so far.
    clean: bool,
    /// Nobody takes what arrives any more.
    output_failed: bool,
}

impl<O: Output> Session<'_, O> {
    /// Connects and logs in, however often it takes; `None` if there is no use in it any more.
    fn connect(&mut self) -> Result<Option<(Outbox, Inbox)>, ConnectError> {
        let mut told = String::new();
        if self.futile && self.supply.pause(self.backoff.pause(), &never()).is_break() {
            return Ok(None);
        }
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
            if self.supply.is_over()
                || self.supply.pause(self.backoff.pause(), &never()).is_break()
                || self.supply.is_over()
            {
                return if self.logins > 0 { Ok(None) } else { Err(error) };
            }
        }
    }

    /// Talks over one connection, to its end.
    fn run_connection(
        &mut self,
        mut outbox: Outbox,
        inbox: Inbox,
    ) -> Result<ConnectionOutcome, ConnectError> {
        let output = self.output.clone();
        let (alive, end) = bounded(0);
        let receiver = thread::Builder::new().name("receiver".to_owned());
        let receiver = receiver.spawn(move || receive(inbox, output, alive));
        let receiver = receiver.map_err(ConnectError::Start)?;
        self.send_all(&mut outbox, &end);
        let outcome = outbox.finish(self.supply.time_left());
        let in_time = match self.supply.time_left() {
            Some(left) => end.recv_timeout(left.max(LAST_OUTPUT)) != Err(RecvTimeoutError::Timeout),
            None => true,
        };
        let heard = if in_time {
            receiver.join().unwrap_or_else(|panic| resume_unwind(panic))
        } else {
            // A write that blocks can not be ended: the thread is left to the end of the process.
            let error = io::ErrorKind::TimedOut.into();
            self.output.status(&Status::OutputFailed { error: &error });
            ReceiverExit { refused: false, failed: true }
        };
        self.clean &= !heard.refused && !heard.failed;
        self.output_failed |= heard.failed;
        Ok(outcome)
    }

    /// Sends until the input or the connection ends.
    fn send_all(&mut self, outbox: &mut Outbox, end: &End) {
        let mut presence = Presence::default();
        while let Some(lines) = self.supply.next(end) {
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

    /// Sends the first of these lines when its recipients are there, and with it those after it
    /// that are for the same or for others who were met. The rest comes next.
    fn send_in_presence(
        &mut self,
        outbox: &mut Outbox,
        mut lines: Vec<u8>,
        presence: &mut Presence,
        end: &End,
    ) -> Result<(), SendError> {
        loop {
            let (sendable_prefix, unknown_recipients) = presence.sendable_prefix(&lines);
            if sendable_prefix > 0 {
                self.supply.put_back(lines.split_off(sendable_prefix));
                return outbox.send_lines(&lines).map(drop);
            }
            if let Err(error) = self.wait_for(outbox, &unknown_recipients, end) {
                self.supply.put_back(lines);
                return Err(error);
            }
            presence.meet(unknown_recipients);
        }
    }

    /// Waits until all of these are there.
    fn wait_for(
        &mut self,
        outbox: &mut Outbox,
        names: &[Name],
        end: &End,
    ) -> Result<(), SendError> {
        let mut backoff = WHO;
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
            if self.supply.pause(backoff.pause(), end).is_break() {
                return Err(SendError::Closed);
            }
        }
    }

    /// Takes over the account of a connection; `Break` if no other is to follow.
    fn settle(&mut self, outcome: ConnectionOutcome) -> ControlFlow<()> {
        let ConnectionOutcome { reason, accepted, in_doubt, unaccepted, .. } = outcome;
        self.futile = accepted == self.settled && !matches!(reason, DisconnectReason::ShutDown);
        if !self.futile {
            self.backoff = CONNECT;
        }
        if !matches!(reason, DisconnectReason::Left) {
            let accepted = self.settled + 1..=accepted;
            self.output.status(&Status::ConnectionOutcome { reason: &reason, accepted });
        }
        if !in_doubt.is_empty() {
            self.output.status(&Status::InDoubt { lines: &in_doubt });
        }
        self.settled = in_doubt.last();
        self.supply.put_back(unaccepted.into_bytes());
        let failed = matches!(reason, DisconnectReason::Refused(_) | DisconnectReason::Lost(_));
        self.clean &= in_doubt.is_empty() && !failed;
        if self.output_failed || !self.plan.reconnect || self.supply.is_over() {
            return ControlFlow::Break(());
        }
        self.supply.check_time()
    }

    /// After the last connection: whether all is well.
    fn conclude(mut self) -> bool {
        let over = self.supply.is_over();
        if self.supply.has_more() {
            self.output.status(&Status::NotAccepted { from: self.settled + 1 });
        }
        self.clean && over
    }
}

/// What a `receiver` has seen.
struct ReceiverExit {
    /// The server has refused a line.
    refused: bool,
    /// The output takes no more.
    failed: bool,
}

/// The thread `receiver`: passes on what arrives on one connection, and ends with it.
///
/// `alive` is only held: that it is gone tells the end of the connection.
fn receive(mut inbox: Inbox, mut output: impl Output, alive: Sender<()>) -> ReceiverExit {
    let mut heard = ReceiverExit { refused: false, failed: false };
    while let Some(block) = inbox.next_block() {
        heard.refused |= !block.refusals().is_empty();
        if let Err(error) = output.received(block) {
            output.status(&Status::OutputFailed { error: &error });
            heard.failed = true;
            break;
        }
    }
    drop(alive);
    heard
}
