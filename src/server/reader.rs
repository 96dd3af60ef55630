//! The reader thread, one per client: it owns the client's side of the stream, its window and its
//! writer's handle, and ends when the client does or when the stop cuts it off.
//!
//! Login, then lines to batches. It tries to read before it waits, and waits for input and for
//! the stop at once. When it ends it lets its broker sender go, joins its writer, and makes the
//! one record of the connection.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use rustix::event::PollFlags;

use crate::server::broker::Event;
use crate::server::context::{Shared, spawn};
use crate::server::delivery::window::Window;
use crate::server::linger::linger;
use crate::server::report::{CloseReason, ConnectionRecord};
use crate::server::shutdown::{Phase, WaitOutcome};
use crate::server::timeout::WaitBudget;
use crate::server::writer::{Outgoing, Writer, WriterExit};
use crate::socket::connection::{Connection, ReadResult};
use crate::wire::batch::BatchBuilder;
use crate::wire::framing::{Line, LineBuffer};
use crate::wire::protocol::{self, MAX_NAME, Name, Rejection};

/// What a batch is charged for at most, in bytes, if a window is no smaller than twice that: all
/// lines of one large read go in one batch, and there is room for the next while it is written.
const MAX_BATCH_CHARGE: usize = 128 * 1024;

/// How often a reader that waits for its window looks whether its client is still there. It does
/// not wait for the socket then, since the input that it does not take would wake it for ever.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(500);

/// How long a client has to be quiet before its read buffer is given back.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    lines: LineBuffer,
    /// The last read was a full one: there may be more, so the next read need not wait.
    maybe_readable: bool,
    /// Once the stop is seen: how much of the input that was there then is left to read, in bytes.
    cutoff_remaining: Option<usize>,
}

/// A client that has logged in: its name, its queue and who writes it.
#[derive(Debug)]
struct Session {
    name: Name,
    queue: Sender<Outgoing>,
    writer: JoinHandle<WriterExit>,
}

/// What came of waiting for input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadOutcome {
    Read,
    /// The client has sent its last byte.
    Eof,
    /// All that was there when the stop was seen is read, or the time for that is over.
    Cutoff,
    TimedOut,
}

impl Reader {
    pub(crate) fn new(connection: Arc<Connection>, shared: Arc<Shared>) -> Self {
        let lines = LineBuffer::new(shared.config.max_line);
        Self { connection, shared, lines, maybe_readable: true, cutoff_remaining: None }
    }

    /// The thread: serves the client until it ends or is cut off, and tells how that went.
    ///
    /// `broker` is let go before anything is waited for in the end, since the broker ends when
    /// nobody holds a sender any more.
    ///
    /// None of the steps is ever inlined: what one of them needs would otherwise be on the stack
    /// beneath all others, and an idle client's reader has to do with two pages (see `context::spawn`).
    pub(crate) fn run(mut self, broker: Sender<Event>) -> ConnectionRecord {
        let session = self.login().and_then(|name| self.start_writer(name));
        let record = match session {
            Ok(session) => self.serve(session, broker),
            Err(reason) => {
                drop(broker);
                self.reject(reason)
            }
        };
        record.log();
        record
    }

    #[inline(never)]
    fn login(&mut self) -> Result<Name, CloseReason> {
        let mut budget = WaitBudget::new(self.shared.config.login_timeout, Instant::now());
        loop {
            if let Some(line) = self.lines.next_line() {
                return line.text().and_then(Name::new).ok_or(CloseReason::BadName);
            }
            // A line end may be two bytes.
            if self.lines.partial_len() > MAX_NAME + 1 {
                return Err(CloseReason::BadName);
            }
            if budget.is_exhausted(Instant::now()) {
                return Err(CloseReason::LoginTimeout);
            }
            match self.fill_buffer(budget.next_check())? {
                ReadOutcome::Read | ReadOutcome::TimedOut => {}
                ReadOutcome::Eof => return Err(CloseReason::LeftBeforeLogin),
                ReadOutcome::Cutoff => return Err(CloseReason::Shutdown),
            }
        }
    }

    /// Ends a connection that has no writer.
    #[inline(never)]
    fn reject(&self, reason: CloseReason) -> ConnectionRecord {
        let text = match reason {
            CloseReason::BadName => Rejection::BadName.line().to_owned(),
            CloseReason::LoginTimeout => Rejection::LoginTimeout.line().to_owned(),
            CloseReason::ServerFull => Rejection::ServerFull.line().to_owned(),
            CloseReason::Shutdown => protocol::closing_notice(0),
            CloseReason::LeftBeforeLogin if self.lines.partial_len() > 0 => {
                self.shared.counters.unterminated.add(1);
                Rejection::UnterminatedLine.line().to_owned()
            }
            _ => String::new(),
        };
        // A new socket takes one line, or it is gone; both are as good as told.
        let _ = self.connection.write(&[IoSlice::new(text.as_bytes())]);
        self.connection.shutdown_write();
        // No message is due, so that nothing can be lost; how the client takes it is its matter.
        let _ = linger(&self.connection, &self.shared);
        self.connection.close();
        self.record(None, &WriterExit::without_deliveries(reason))
    }

    /// Starts the writer of a client that has given a good name.
    #[inline(never)]
    fn start_writer(&self, name: Name) -> Result<Session, CloseReason> {
        let (connection, shared) = (Arc::clone(&self.connection), Arc::clone(&self.shared));
        let (id, peer, client) = (connection.id(), connection.peer(), name.clone());
        let (queue, inbox) = unbounded();
        let writer = spawn(format!("writer-{id}"), move || {
            // Said here rather than by the reader, whose stack then stays in two pages.
            log::info!("{client} connected (connection {id}, {peer})");
            Writer::new(connection, inbox, shared).run()
        });
        match writer {
            Ok(writer) => Ok(Session { name, queue, writer }),
            Err(error) => {
                log::error!("cannot spawn a writer for {name} (connection {id}): {error}");
                Err(CloseReason::ServerFull)
            }
        }
    }

    /// Serves a client to the end.
    #[inline(never)]
    fn serve(&mut self, session: Session, broker: Sender<Event>) -> ConnectionRecord {
        let Session { name, queue, writer } = session;
        let id = self.connection.id();
        // Fails only if the broker is gone, which the first batch will find too.
        let _ = broker.send(Event::Join { id, name: name.clone(), queue });
        let read_lines = || self.read_lines(&name, &broker);
        let end = catch_unwind(AssertUnwindSafe(read_lines)).unwrap_or(CloseReason::Panicked);
        if end != CloseReason::Shutdown {
            // At the stop there is no leave: it would overtake what others have still to say.
            let _ = broker.send(Event::Leave { id });
        }
        drop(broker);
        if end == CloseReason::Shutdown {
            self.discard_input();
        }
        let mut exit =
            writer.join().unwrap_or_else(|_| WriterExit::without_deliveries(CloseReason::Panicked));
        if exit.reason == CloseReason::Left {
            // The broker knows that it left, this thread knows how.
            exit.reason = end;
        }
        self.record(Some(name), &exit)
    }

    /// Reads and sends lines until the client ends (any reason) or the stop cuts it off
    /// ([`CloseReason::Shutdown`]).
    fn read_lines(&mut self, name: &Name, broker: &Sender<Event>) -> CloseReason {
        let config = &self.shared.config;
        let window = Window::new(config.window, Arc::clone(&self.shared.counters));
        let mut batches = BatchSender {
            connection: Arc::clone(&self.connection),
            builder: BatchBuilder::new(name, config.max_line),
            flush_threshold: MAX_BATCH_CHARGE.min(config.window / 2),
            window: Arc::new(window),
            broker,
            shared: Arc::clone(&self.shared),
        };
        loop {
            while let Some(line) = self.lines.next_line() {
                #[cfg(test)]
                crate::fault::point("panic-reader", line.text().unwrap_or_default());
                if let Err(reason) = batches.push(line) {
                    return reason;
                }
                let taken = batches.push_run(self.lines.valid_lines());
                self.lines.consume(taken);
            }
            if let Err(reason) = batches.send() {
                return reason;
            }
            match self.fill_buffer(None) {
                Ok(ReadOutcome::Read | ReadOutcome::TimedOut) => {}
                Ok(ReadOutcome::Cutoff) => return CloseReason::Shutdown,
                Ok(ReadOutcome::Eof) if self.cutoff_remaining.is_some() => {
                    return CloseReason::Shutdown;
                }
                Ok(ReadOutcome::Eof) => {
                    if self.lines.partial_len() > 0 {
                        batches.builder.push_unterminated_line();
                    }
                    return batches.send().err().unwrap_or(CloseReason::Left);
                }
                Err(reason) => return reason,
            }
        }
    }

    /// Reads what is there, waiting for it until `until`, or what was there at the stop.
    fn fill_buffer(&mut self, until: Option<Instant>) -> Result<ReadOutcome, CloseReason> {
        let broken = |error| CloseReason::broken(&error);
        loop {
            let phase = self.shared.shutdown.phase();
            if phase != Phase::Running && self.cutoff_remaining.is_none() {
                self.cutoff_remaining = Some(self.connection.readable_bytes());
                self.maybe_readable = true;
            }
            if self.maybe_readable {
                let mut spare = self.lines.spare();
                if let Some(left) = self.cutoff_remaining {
                    let end = if self.shared.shutdown.cutoff_expired() { 0 } else { left };
                    let end = end.min(spare.len());
                    spare = &mut spare[..end];
                }
                if spare.is_empty() {
                    return Ok(ReadOutcome::Cutoff);
                }
                match self.connection.read(spare).map_err(broken)? {
                    ReadResult::Bytes(count) => {
                        self.maybe_readable =
                            self.cutoff_remaining.is_some() || count == spare.len();
                        self.cutoff_remaining = self.cutoff_remaining.map(|left| left - count);
                        self.lines.advance(count);
                        return Ok(ReadOutcome::Read);
                    }
                    ReadResult::Eof => return Ok(ReadOutcome::Eof),
                    ReadResult::WouldBlock if self.cutoff_remaining.is_some() => {
                        return Ok(ReadOutcome::Cutoff);
                    }
                    ReadResult::WouldBlock => {}
                }
            }
            let idle = Instant::now().checked_add(SHRINK_AFTER).filter(|_| self.lines.is_large());
            let first = [until, idle].into_iter().flatten().min();
            let socket = Some(self.connection.as_fd());
            let woken = self.shared.shutdown.wait(socket, PollFlags::IN, first, phase);
            self.maybe_readable = true;
            if woken.map_err(broken)? == WaitOutcome::TimedOut {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return Ok(ReadOutcome::TimedOut);
                }
                self.lines.shrink();
            }
        }
    }

    /// Throws away what comes after the cut until the writer, or the client, ends the connection:
    /// a client that writes before it reads gets to read what is due to it.
    fn discard_input(&self) {
        while let Ok(ReadResult::Bytes(_) | ReadResult::WouldBlock) =
            self.connection.discard_input()
        {
            let shutdown = &self.shared.shutdown;
            let (phase, deadline) = (shutdown.phase(), shutdown.deadline());
            let woken =
                shutdown.wait(Some(self.connection.as_fd()), PollFlags::IN, deadline, phase);
            // At the deadline the writer ends the connection, which joining it will wait for.
            if !matches!(woken, Ok(WaitOutcome::Ready | WaitOutcome::PhaseChanged)) {
                return;
            }
        }
    }

    fn record(&self, name: Option<Name>, exit: &WriterExit) -> ConnectionRecord {
        let WriterExit { reason, accepted, delivered, lost, unacknowledged, in_drain } = *exit;
        ConnectionRecord {
            id: self.connection.id(),
            peer: self.connection.peer(),
            name,
            reason,
            accepted,
            delivered,
            lost,
            unacknowledged,
            in_drain,
        }
    }
}

/// The way from a reader to the broker, through the window.
struct BatchSender<'a> {
    connection: Arc<Connection>,
    builder: BatchBuilder,
    /// At this charge a batch is sent without waiting for more lines.
    flush_threshold: usize,
    window: Arc<Window>,
    broker: &'a Sender<Event>,
    shared: Arc<Shared>,
}

impl BatchSender<'_> {
    /// Takes a line, and sends what is large enough: before the line, if the window could not hold
    /// it with the others, and after it otherwise.
    fn push(&mut self, line: Line<'_>) -> Result<(), CloseReason> {
        if !self.builder.has_room_for(&line, self.window.limit()) {
            self.send()?;
        }
        self.builder.push(line);
        if self.builder.charge() >= self.flush_threshold { self.send() } else { Ok(()) }
    }

    /// Takes as many of these lines as go on with what the last one has begun.
    fn push_run(&mut self, lines: &[u8]) -> usize {
        self.builder.push_run(lines, self.flush_threshold, self.window.limit())
    }

    /// Sends the lines taken so far, as soon as the window has room for them.
    ///
    /// Lines that the window has no room for until the cut's deadline are not accepted: nobody
    /// has promised anything about them, and the closing notice says so.
    fn send(&mut self) -> Result<(), CloseReason> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let shutdown = &self.shared.shutdown;
        let permit = self.window.acquire(self.builder.charge(), || match shutdown.phase() {
            Phase::Running if self.connection.is_disconnected() => Err(CloseReason::RESET),
            Phase::Running => Ok(Instant::now().checked_add(LIVENESS_INTERVAL)),
            Phase::Draining | Phase::Forced if shutdown.cutoff_expired() => {
                Err(CloseReason::Shutdown)
            }
            Phase::Draining | Phase::Forced => Ok(shutdown.cutoff_deadline()),
        })?;
        let batch = Box::new(self.builder.finish());
        let event = Event::Batch { from: self.connection.id(), batch, permit };
        self.broker.send(event).map_err(|_| CloseReason::ServerFailed)
    }
}
