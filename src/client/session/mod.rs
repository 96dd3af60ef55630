//! A session over any number of connections: the lines that one server did not accept go to the
//! next, in order, and nothing is sent twice. It runs on its caller's thread, and ends when all of
//! the input is accepted, or with a connection that no other is to follow.
//!
//! Each connection has a thread `receiver` for what arrives, which exits with the connection; each
//! attempt to connect has a thread `connect`, since neither a look-up of a name nor a connection
//! attempt can be interrupted.

mod backoff;
mod control;
mod lines;
mod presence;
mod rooms;
mod send_queue;
mod status;

use std::io;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never};

use self::backoff::Backoff;
use self::control::Control;
pub use self::control::SessionHandle;
pub use self::lines::{LineReceiver, LineSender, lines};
use self::presence::{Presence, Unknown};
use self::rooms::Rooms;
use self::send_queue::{SendQueue, Waited};
pub use self::status::SessionStatus;
use super::duplex::Client;
use super::error::{AbsentError, ConnectError};
use super::inbox::{Block, Inbox};
use super::options::Options;
use super::outbox::{Outbox, Wait};
use super::outcome::{ConnectionOutcome, DisconnectReason, Lines};
use crate::wire::name::Name;
use crate::wire::reasons::DEFAULT_SYNC;
use crate::wire::reasons::Rejection;
use crate::wire::room::Room;
use crate::wire::sync::SyncOutcome;

/// Between attempts to connect.
const CONNECT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Between questions whether recipients are connected.
const WHO_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// An attempt that takes longer is reported.
const SLOW_CONNECT: Duration = Duration::from_secs(2);

/// An attempt is not abandoned earlier: most are complete by then.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);

/// How often a session that waits for a confirmation checks whether its time to stay is over.
const CONFIRMATION_CHECK: Duration = Duration::from_millis(100);

/// How long the output may take for what has arrived when the time to stay is over.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// A client that survives restarts of its server.
///
/// It connects, sends the lines of its input, and hands everything that arrives to its output. When
/// a connection ends it makes the next one and goes on with the lines that were not accepted.
///
/// ```
/// use std::io;
///
/// use a_chat::client::{self, Block, Event, LineSender, Session, SessionOutput, SessionStatus};
/// # use a_chat::{Config, Name, Server};
/// # let server = Server::bind("127.0.0.1:0", Config::default())?.spawn()?;
/// # let address = server.local_addr().to_string();
/// # let name = Name::new("echo")?;
///
/// /// Sends every message back.
/// #[derive(Clone)]
/// struct Echo(LineSender);
///
/// impl SessionOutput for Echo {
///     fn received(&mut self, block: Block) -> io::Result<()> {
///         for event in block {
///             if let Event::Message { from, text } = event {
///                 self.0.send_to([&from], text).map_err(io::Error::other)?;
///             }
///         }
///         Ok(())
///     }
///
///     fn status(&mut self, status: &SessionStatus<'_>) {
///         eprintln!("{status}");
///     }
/// }
///
/// let (lines, input) = client::lines(64 * 1024);
/// let session = Session::new(address, &name);
/// let handle = session.handle();
/// # handle.stop();
/// // A signal handler, or any other thread, calls `handle.stop()`.
/// let summary = session.run(input, Echo(lines))?;
/// assert!(summary.is_clean);
/// # server.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Session {
    /// At least one.
    addresses: Vec<String>,
    options: Options,
    #[cfg(feature = "tls")]
    tls: Option<super::Tls>,
    reconnect: bool,
    wait_for_recipients: bool,
    stay: Option<Duration>,
    confirm: bool,
    control: Arc<Control>,
}

/// The receiver of everything that happens in a session. It is called from two threads.
pub trait SessionOutput: Clone + Send + 'static {
    /// Takes lines from the server. An error ends the session.
    ///
    /// It may send lines with a [`LineSender`], which does not wait for room here.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from taking them.
    fn received(&mut self, block: Block) -> io::Result<()>;

    /// Takes anything else that happens.
    fn status(&mut self, status: &SessionStatus<'_>);
}

/// How a session ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each says something else")]
pub struct SessionSummary {
    /// The number of the last line whose account is closed: it was accepted, or was in doubt.
    pub settled: u64,
    /// Lines that were handed over and that no server accepted.
    pub unaccepted: Lines,
    /// The session came to the end of its input.
    pub input_ended: bool,
    /// The server refused a line, as a whole or for some recipients.
    pub refused: bool,
    /// A line was accepted and then lost on the way to some recipient.
    pub lost: bool,
    /// A server may have accepted lines, and ended without saying so.
    pub in_doubt: bool,
    /// Every delivery of the lines that each connection's server accepted was made or reported lost.
    /// Only if [`Session::confirm`] asked for that.
    pub confirmed: bool,
    /// The session came to the end of its input, everything was accepted and nothing refused, and
    /// no connection was lost.
    pub is_clean: bool,
}

impl Session {
    /// A session with the server at this address: a host and a port, looked up for each connection,
    /// or `unix:` and the path of a Unix socket.
    pub fn new(address: impl Into<String>, name: &Name) -> Self {
        Self {
            addresses: vec![address.into()],
            options: Options::new(name),
            #[cfg(feature = "tls")]
            tls: None,
            reconnect: true,
            wait_for_recipients: true,
            stay: None,
            confirm: false,
            control: Arc::default(),
        }
    }

    /// A further server, such as another node of a cluster. When one does not answer, refuses for
    /// the moment or stops, the session goes on with the next one, and with the first one after the
    /// last.
    pub fn or_at(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// The options of each connection. Lines are counted on from the number that these begin with.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Encrypts every connection. Unless told otherwise, the server's certificate must have the name
    /// that the session connects to.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: super::Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Whether another connection follows one that ended or could not be made. Default true.
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Whether lines wait for their recipients after every login but the first: after a restart
    /// these may connect later. Default true.
    pub fn wait_for_recipients(mut self, wait: bool) -> Self {
        self.wait_for_recipients = wait;
        self
    }

    /// How long the session may last after the end of its input, whatever it waits for. Default as
    /// long as it takes.
    pub fn stay(mut self, stay: Duration) -> Self {
        self.stay = Some(stay);
        self
    }

    /// Whether to stay at the end of the input until every delivery has ended, see
    /// [`SessionSummary::confirmed`]. Default false.
    pub fn confirm(mut self, confirm: bool) -> Self {
        self.confirm = confirm;
        self
    }

    /// A handle that ends this session.
    #[must_use]
    pub fn handle(&self) -> SessionHandle {
        SessionHandle(Arc::clone(&self.control))
    }

    /// Runs to the end of the input, or to a connection that no other is to follow.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if there never was a connection. Lines that were handed over by then were
    /// reported as [`SessionStatus::NotAccepted`].
    ///
    /// # Panics
    ///
    /// Resumes a panic of the output.
    pub fn run(
        self,
        input: LineReceiver,
        output: impl SessionOutput,
    ) -> Result<SessionSummary, ConnectError> {
        let settled = self.options.number();
        let queue = SendQueue::new(input, Arc::clone(&self.control), self.stay);
        let mut run = Run {
            session: self,
            queue,
            rooms: Rooms::default(),
            output,
            backoff: CONNECT_BACKOFF,
            place: 0,
            futile: false,
            settled,
            logins: 0,
            clean: true,
            refused: false,
            lost: false,
            in_doubt: false,
            confirmed: true,
            is_confirmed: false,
            output_failed: false,
        };
        let result = run.run();
        let summary = run.conclude();
        result.map(|()| summary)
    }
}

/// The state of a session that runs.
#[expect(clippy::struct_excessive_bools, reason = "each says something else")]
struct Run<O> {
    session: Session,
    queue: SendQueue,
    rooms: Rooms,
    output: O,
    backoff: Backoff,
    /// Which of the addresses is next.
    place: usize,
    /// The last connection achieved nothing, so the next one has to wait.
    futile: bool,
    /// The number of the last line whose account is closed: it was accepted, or is in doubt.
    settled: u64,
    logins: u64,
    /// Nothing has gone wrong so far.
    clean: bool,
    refused: bool,
    lost: bool,
    in_doubt: bool,
    /// The lines of all connections so far are confirmed.
    confirmed: bool,
    /// The lines of the last connection are.
    is_confirmed: bool,
    /// The output takes no more.
    output_failed: bool,
}

impl<O: SessionOutput> Run<O> {
    fn run(&mut self) -> Result<(), ConnectError> {
        while let Some(client) = self.connect()? {
            let outcome = self.run_connection(client)?;
            // Whatever ended it, another server may be better off.
            self.next_place();
            if self.settle(outcome).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Connects and logs in, however often it takes; `None` if that has become pointless.
    fn connect(&mut self) -> Result<Option<Client>, ConnectError> {
        let mut reported = String::new();
        if self.futile && !self.pause_for_backoff() {
            return Ok(None);
        }
        let mut untried = self.session.addresses.len();
        loop {
            let error = match self.attempt() {
                Ok(client) => {
                    self.logins += 1;
                    self.queue.note_connected();
                    self.output.status(&SessionStatus::Connected { again: self.logins > 1 });
                    return Ok(Some(client));
                }
                Err(error) => error,
            };
            self.next_place();
            untried = untried.saturating_sub(1);
            let is_last = (!self.session.reconnect && untried == 0)
                || !error.is_temporary()
                || matches!(error, ConnectError::Abandoned { .. });
            if !is_last {
                // The same is not reported twice in a row.
                let status = SessionStatus::Retrying { error: &error };
                if reported != status.to_string() {
                    reported = status.to_string();
                    self.output.status(&status);
                }
                if untried > 0 && !self.queue.is_time_over() {
                    continue;
                }
                untried = self.session.addresses.len();
                if !self.queue.is_over() && self.pause_for_backoff() && !self.queue.is_over() {
                    continue;
                }
            }
            return if self.logins > 0 { Ok(None) } else { Err(error) };
        }
    }

    /// One attempt to connect. It is abandoned when the time to stay is over or the session is
    /// stopped before it ever was connected.
    fn attempt(&mut self) -> Result<Client, ConnectError> {
        let (sender, result) = bounded(1);
        let (address, options) = (self.address().clone(), self.session.options.clone());
        let options = options.after(self.settled);
        #[cfg(feature = "tls")]
        let options = match &self.session.tls {
            Some(tls) => options.tls(tls.clone().or_server_name_of(&address)),
            None => options,
        };
        let host = address.clone();
        // It is not joined: an abandoned attempt ends by its own timeouts, and closes its connection.
        thread::Builder::new()
            .name("connect".to_owned())
            .spawn(move || {
                // It fails if the attempt was abandoned.
                let _ = sender.send(options.connect_to(&address));
            })
            .map_err(ConnectError::Start)?;
        let (started, mut slow) = (Instant::now(), Some(SLOW_CONNECT));
        let attempt = loop {
            if self.queue.is_time_over() {
                let aborted = self.session.control.aborted.is_set();
                let min = if aborted { Duration::ZERO } else { MIN_ATTEMPT };
                break result.recv_timeout(min.saturating_sub(started.elapsed())).ok();
            }
            match self.queue.wait(slow, &result) {
                // `None` if the thread has panicked.
                Waited::Other(attempt) => break attempt,
                Waited::Elapsed => {
                    slow = None;
                    self.output.status(&SessionStatus::Connecting { address: &host });
                }
                Waited::InputEnded | Waited::Over => {}
            }
        };
        match attempt {
            Some(result) => result.map_err(|error| error.with_host(&host)),
            None => Err(ConnectError::Abandoned { host }),
        }
    }

    fn address(&self) -> &String {
        &self.session.addresses[self.place]
    }

    fn next_place(&mut self) {
        self.place = (self.place + 1) % self.session.addresses.len();
    }

    /// Waits before another attempt, less long if the input ends meanwhile: then it has to be seen
    /// whether another attempt is of use. False if the session is over.
    fn pause_for_backoff(&mut self) -> bool {
        let pause = self.backoff.pause();
        match self.queue.wait(Some(pause), &never::<()>()) {
            Waited::Elapsed | Waited::Other(_) | Waited::InputEnded => !self.queue.is_time_over(),
            Waited::Over => false,
        }
    }

    /// Sends and receives on one connection, to its end.
    fn run_connection(&mut self, client: Client) -> Result<ConnectionOutcome, ConnectError> {
        let (mut outbox, inbox) = client.split();
        self.session.control.set_connection(Some(outbox.abort_handle()));
        let (alive, end) = bounded(0);
        let (output, mark) = (self.output.clone(), self.queue.input.output_marker());
        let receiver = thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            mark();
            receive(inbox, output, alive)
        });
        let receiver = receiver.map_err(ConnectError::Start)?;
        self.send_all(&mut outbox, &end);
        self.is_confirmed =
            self.session.confirm && self.queue.is_over() && self.await_confirmation(&mut outbox);
        let outcome = outbox.finish(self.queue.time_left());
        self.session.control.set_connection(None);
        let exit = if self.wait_for_output(&end) {
            receiver.join().unwrap_or_else(|panic| resume_unwind(panic))
        } else {
            // A write that blocks cannot be interrupted: the thread is left to itself.
            let error = io::ErrorKind::TimedOut.into();
            self.output.status(&SessionStatus::OutputFailed { error: &error });
            ReceiverExit { refused: false, lost: false, failed: true }
        };
        self.clean &= !exit.refused && !exit.failed;
        self.refused |= exit.refused;
        self.lost |= exit.lost;
        self.output_failed |= exit.failed;
        Ok(outcome)
    }

    /// Asks until every delivery has ended, however often it takes; false if the connection or the
    /// time to stay ends before.
    fn await_confirmation(&mut self, outbox: &mut Outbox) -> bool {
        loop {
            let limit = self.queue.time_left().map_or(DEFAULT_SYNC, |left| left.min(DEFAULT_SYNC));
            if outbox.ask_confirmation(limit).is_err() {
                return false;
            }
            let outcome = loop {
                if self.queue.is_time_over() {
                    return false;
                }
                match outbox.confirmation(Wait::at_most(CONFIRMATION_CHECK)) {
                    Ok(Some(outcome)) => break outcome,
                    Ok(None) => {}
                    Err(_) => return false,
                }
            };
            match outcome {
                SyncOutcome::Delivered | SyncOutcome::DeliveredOrLost => return true,
                SyncOutcome::NotInTime(_) => {}
                SyncOutcome::ShuttingDown => return false,
            }
        }
    }

    /// Waits until the output has taken everything; false if the session is over before.
    fn wait_for_output(&mut self, end: &Receiver<()>) -> bool {
        loop {
            match self.queue.wait(None, end) {
                Waited::Other(_) => return true,
                Waited::Elapsed | Waited::InputEnded => {}
                Waited::Over => {
                    return end.recv_timeout(LAST_OUTPUT) != Err(RecvTimeoutError::Timeout);
                }
            }
        }
    }

    /// Sends until the input or the connection ends.
    fn send_all(&mut self, outbox: &mut Outbox, end: &Receiver<()>) {
        let mut presence = Presence::default();
        // Before anything else: lines to a room are refused until then.
        for (room, notices) in self.rooms.joined() {
            if outbox.rejoin(room, notices).is_err() {
                return;
            }
        }
        while let Some(lines) = self.queue.next(end) {
            let lines = if self.session.wait_for_recipients && self.logins > 1 {
                let Some(lines) = self.await_recipients(outbox, lines, &mut presence, end) else {
                    return;
                };
                lines
            } else {
                lines
            };
            let Ok(numbers) = outbox.send_lines(&lines) else {
                self.queue.put_back(lines);
                return;
            };
            self.rooms.sent(numbers.start, &lines);
        }
    }

    /// Waits until the recipients of the first of these lines are connected. Returns it, and with it
    /// the lines after it that are for the same or for others that were seen; the rest comes next.
    /// `None` at the end of the connection.
    fn await_recipients(
        &mut self,
        outbox: &mut Outbox,
        mut lines: Vec<u8>,
        presence: &mut Presence,
        end: &Receiver<()>,
    ) -> Option<Vec<u8>> {
        loop {
            let (sendable_prefix, unknown) = presence.sendable_prefix(&lines);
            if sendable_prefix > 0 {
                self.queue.put_back(lines.split_off(sendable_prefix));
                return Some(lines);
            }
            if self.wait_for(outbox, &unknown, end).is_break() {
                self.queue.put_back(lines);
                return None;
            }
            presence.add(unknown);
        }
    }

    /// Waits until all of these are connected, or somebody else is in the room.
    fn wait_for(
        &mut self,
        outbox: &mut Outbox,
        unknown: &Unknown,
        end: &Receiver<()>,
    ) -> ControlFlow<()> {
        let Unknown { names, room } = unknown;
        if let Some(room) = room {
            return self.wait_for_room(outbox, room, end);
        }
        let mut backoff = WHO_BACKOFF;
        let mut reported = Vec::new();
        loop {
            let absent = match outbox.absent(names) {
                Ok(absent) => absent,
                Err(AbsentError::Send(_)) => return ControlFlow::Break(()),
                // The server will say of each line what is wrong with it.
                Err(AbsentError::Refused(_)) => Vec::new(),
            };
            if absent.is_empty() {
                return ControlFlow::Continue(());
            }
            if reported != absent {
                self.output.status(&SessionStatus::WaitingFor { names: &absent });
                reported = absent;
            }
            match self.queue.wait(Some(backoff.pause()), end) {
                Waited::Elapsed | Waited::InputEnded => {}
                Waited::Other(_) | Waited::Over => return ControlFlow::Break(()),
            }
            if self.queue.is_time_over() {
                return ControlFlow::Break(());
            }
        }
    }

    /// Waits until somebody else is in a room, unless this client is not in it.
    fn wait_for_room(
        &mut self,
        outbox: &mut Outbox,
        room: &Room,
        end: &Receiver<()>,
    ) -> ControlFlow<()> {
        let mut backoff = WHO_BACKOFF;
        for attempt in 0.. {
            match outbox.members(room) {
                Ok(1) => {}
                Ok(_) | Err(AbsentError::Refused(_)) => break,
                Err(AbsentError::Send(_)) => return ControlFlow::Break(()),
            }
            if attempt == 0 {
                self.output.status(&SessionStatus::WaitingForRoom { room });
            }
            match self.queue.wait(Some(backoff.pause()), end) {
                Waited::Elapsed | Waited::InputEnded => {}
                Waited::Other(_) | Waited::Over => return ControlFlow::Break(()),
            }
            if self.queue.is_time_over() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes over the account of a connection; `Break` if no other is to follow.
    fn settle(&mut self, outcome: ConnectionOutcome) -> ControlFlow<()> {
        let settled = outcome.settled();
        let ConnectionOutcome { reason, accepted, in_doubt, unaccepted } = outcome;
        self.confirmed &= self.is_confirmed || accepted == self.settled;
        self.in_doubt |= !in_doubt.is_empty();
        self.futile = accepted == self.settled && !matches!(reason, DisconnectReason::ShutDown);
        if !self.futile {
            self.backoff = CONNECT_BACKOFF;
        }
        if !matches!(reason, DisconnectReason::Left) {
            let accepted = self.settled + 1..=accepted;
            self.output.status(&SessionStatus::Ended { reason: &reason, accepted });
        }
        if !in_doubt.is_empty() {
            self.output.status(&SessionStatus::InDoubt { lines: &in_doubt });
        }
        self.settled = settled;
        self.rooms.settled(settled);
        self.queue.put_back(unaccepted.into_bytes());
        let clean = matches!(
            reason,
            DisconnectReason::Left | DisconnectReason::ShutDown | DisconnectReason::GivenUp
        );
        self.clean &= in_doubt.is_empty() && clean;
        let is_final =
            matches!(&reason, DisconnectReason::Rejected(reason) if ends_session(reason));
        let over =
            self.output_failed || !self.session.reconnect || self.queue.is_over() || is_final;
        if over || self.queue.is_time_over() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// After the last connection: sums up, and reports the lines that are left.
    fn conclude(mut self) -> SessionSummary {
        let over = self.queue.is_over();
        let input_ended = self.queue.has_ended();
        let mut unaccepted = Lines::after(self.settled);
        unaccepted.push(&self.queue.close());
        if !unaccepted.is_empty() {
            self.output.status(&SessionStatus::NotAccepted { lines: &unaccepted });
        }
        let aborted = self.session.control.aborted.is_set();
        let is_clean = self.clean && over && !aborted && unaccepted.is_empty();
        SessionSummary {
            settled: self.settled,
            unaccepted,
            input_ended,
            refused: self.refused,
            lost: self.lost,
            in_doubt: self.in_doubt,
            confirmed: self.session.confirm && self.confirmed,
            is_clean,
        }
    }
}

/// Whether the server parted with the client for a reason that another connection would not change,
/// or would only pass on to the client that has the name now.
fn ends_session(reason: &Rejection) -> bool {
    matches!(reason, Rejection::LoggedInElsewhere | Rejection::Revoked | Rejection::NameReserved)
}

/// What a `receiver` thread found.
struct ReceiverExit {
    /// The server refused a line.
    refused: bool,
    /// The server lost a line that it had accepted.
    lost: bool,
    /// The output takes no more.
    failed: bool,
}

/// The thread `receiver`: passes on everything that arrives on one connection, and exits with it.
///
/// `alive` is only held: dropping it signals the end of the connection.
fn receive(mut inbox: Inbox, mut output: impl SessionOutput, alive: Sender<()>) -> ReceiverExit {
    let mut exit = ReceiverExit { refused: false, lost: false, failed: false };
    while let Some(block) = inbox.next_block() {
        exit.refused |= !block.refusals().is_empty();
        exit.lost |= !block.losses().is_empty();
        if let Err(error) = output.received(block) {
            output.status(&SessionStatus::OutputFailed { error: &error });
            exit.failed = true;
            break;
        }
    }
    drop(alive);
    exit
}
