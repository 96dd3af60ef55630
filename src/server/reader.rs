//! The reader thread, one per client. It owns the receiving side of the connection, the client's
//! window and its writer's join handle, and exits when the client disconnects or at the shutdown
//! cutoff.
//!
//! It handles login, then turns lines into batches. It tries to read before it polls, and polls the
//! socket and the shutdown latch together. On exit it drops its broker sender, joins its writer,
//! and produces the connection's record.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use rustix::event::PollFlags;

use crate::server::broker::Event;
use crate::server::context::{Burst, Shared, spawn};
use crate::server::delivery::window::{Permit, Window};
use crate::server::linger::linger;
use crate::server::report::{CloseReason, ConnectionRecord};
use crate::server::shutdown::{Phase, WaitOutcome};
use crate::server::timeout::{StallDetector, WaitBudget};
use crate::server::writer::{Outgoing, Writer, WriterExit};
use crate::socket::connection::{Connection, ReadResult};
use crate::wire::batch::BatchBuilder;
use crate::wire::framing::{Line, LineBuffer};
use crate::wire::name::Name;
use crate::wire::protocol;
use crate::wire::reasons::Rejection;

/// The maximum charge for a batch, in bytes, if the window is at least twice as large. All lines of
/// one large read fit in one batch, and there is room for the next while it is written.
const MAX_BATCH_CHARGE: usize = 128 * 1024;

/// How many windows of error replies batches may cause, beyond their charge, before the broker has
/// routed them. A line with a long list of recipients can cause as many bytes as it has; with one
/// window, a fan-out to 100 recipients filled no round of the broker and took twice the CPU time.
const ERROR_WINDOWS: usize = 8;

/// How often a reader that waits for its window checks that its client is still connected. It
/// cannot poll the socket meanwhile: input that it does not read would wake it immediately.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(500);

/// How long a client must be idle before its read buffer is freed.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

/// The maximum length of a login line, in bytes, its line end not counted: a name and the white space
/// around it.
const MAX_LOGIN_BYTES: usize = 100;

/// The time for a line feed to follow a carriage return in the login line. Some clients never send
/// one, and would otherwise wait for the login timeout without knowing why.
const LINE_FEED_TIMEOUT: Duration = Duration::from_secs(2);

/// Some programs write this mark before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    lines: LineBuffer,
    /// The last read filled the buffer, so the next one is tried without polling first.
    maybe_readable: bool,
    /// Set once shutdown is noticed: how much of the input available at that moment is still
    /// unread, in bytes.
    cutoff_remaining: Option<usize>,
    /// Held while the read buffer is large.
    burst: Option<Burst>,
}

/// A logged-in client: its name, its queue and its writer.
#[derive(Debug)]
struct Session {
    name: Name,
    queue: Sender<Outgoing>,
    writer: JoinHandle<WriterExit>,
}

/// The result of waiting for input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadOutcome {
    Read,
    /// The client closed its sending side.
    Eof,
    /// Everything available at the start of the shutdown is read, or the time limit for that has
    /// passed.
    Cutoff,
    TimedOut,
}

impl Reader {
    pub(crate) fn new(connection: Arc<Connection>, shared: Arc<Shared>) -> Self {
        let lines = LineBuffer::new(shared.config.max_line);
        Self {
            connection,
            shared,
            lines,
            maybe_readable: true,
            cutoff_remaining: None,
            burst: None,
        }
    }

    /// The thread: serves the client until it disconnects or the cutoff is reached, and returns the
    /// connection's record.
    ///
    /// `broker` is dropped before this thread waits for anything at the end, since the broker exits
    /// only once every sender is dropped.
    ///
    /// None of the steps is ever inlined: the stack frame of each would otherwise lie beneath all
    /// the others, and an idle client's reader must fit in two pages (see `context::spawn`).
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
        // Set while the line so far ends with a carriage return.
        let mut line_feed: Option<WaitBudget> = None;
        loop {
            if let Some(line) = self.lines.next_line() {
                return line.text().map_or(Err(CloseReason::BadName), parse_login);
            }
            // A line end may be two bytes.
            if self.lines.partial_len() > MAX_LOGIN_BYTES + 1 {
                return Err(CloseReason::BadName);
            }
            let now = Instant::now();
            let mut next_check = budget.next_check();
            match memchr::memchr(b'\r', self.lines.partial()) {
                None => line_feed = None,
                Some(at) if at + 1 < self.lines.partial_len() => {
                    return Err(CloseReason::NoLineFeed);
                }
                Some(_) => {
                    let budget =
                        line_feed.get_or_insert_with(|| WaitBudget::new(LINE_FEED_TIMEOUT, now));
                    if budget.is_exhausted(now) {
                        return Err(CloseReason::NoLineFeed);
                    }
                    next_check = next_check.into_iter().chain(budget.next_check()).min();
                }
            }
            if budget.is_exhausted(now) {
                return Err(CloseReason::LoginTimeout);
            }
            match self.fill_buffer(next_check)? {
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
            CloseReason::BadName => Rejection::BadName.line(),
            CloseReason::NoLineFeed => Rejection::NoLineFeed.line(),
            CloseReason::LoginTimeout => Rejection::LoginTimeout.line(),
            CloseReason::ServerFull => Rejection::ServerFull.line(),
            CloseReason::Shutdown => protocol::closing_notice(0),
            CloseReason::LeftBeforeLogin if self.lines.partial_len() > 0 => {
                self.shared.counters.unterminated.add(1);
                Rejection::UnterminatedLine.line()
            }
            _ => String::new(),
        };
        // A new socket accepts one line unless it is disconnected, and nothing more can be done in
        // either case.
        let _ = self.connection.write(&[IoSlice::new(text.as_bytes())]);
        self.connection.shutdown_write();
        // No message is pending, so nothing can be lost, and the result does not matter.
        let config = &self.shared.config;
        let mut stall = StallDetector::new(config.stall_timeout, config.stall_bytes);
        let _ = linger(&self.connection, &self.shared, &mut stall);
        self.connection.close();
        self.record(None, &WriterExit::without_deliveries(reason))
    }

    /// Spawns the writer of a client that sent a valid name.
    #[inline(never)]
    fn start_writer(&self, name: Name) -> Result<Session, CloseReason> {
        let (connection, shared) = (Arc::clone(&self.connection), Arc::clone(&self.shared));
        let (id, peer, client) = (connection.id(), connection.peer(), name.clone());
        let (queue, inbox) = unbounded();
        let writer = spawn(format!("writer-{id}"), move || {
            // Logged here instead of by the reader, whose stack thus stays within two pages.
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

    /// Serves a client until the end of its connection.
    #[inline(never)]
    fn serve(&mut self, session: Session, broker: Sender<Event>) -> ConnectionRecord {
        let Session { name, queue, writer } = session;
        let id = self.connection.id();
        // Fails only if the broker has exited, which the first batch will find too.
        let _ = broker.send(Event::Join { id, name: name.clone(), queue });
        let read_lines = || self.read_lines(&name, &broker);
        let reason = catch_unwind(AssertUnwindSafe(read_lines)).unwrap_or(CloseReason::Panicked);
        if reason != CloseReason::Shutdown {
            // No `Leave` at shutdown: it would overtake lines that other readers still have for
            // this client.
            let _ = broker.send(Event::Leave { id });
        }
        drop(broker);
        if reason == CloseReason::Shutdown {
            self.discard_input();
        }
        let mut exit =
            writer.join().unwrap_or_else(|_| WriterExit::without_deliveries(CloseReason::Panicked));
        if exit.reason == CloseReason::Left {
            // The broker knows only that the client left; this thread knows why.
            exit.reason = reason;
        }
        self.record(Some(name), &exit)
    }

    /// Reads and forwards lines until the connection ends, for any reason, or until the shutdown
    /// cutoff ([`CloseReason::Shutdown`]).
    fn read_lines(&mut self, name: &Name, broker: &Sender<Event>) -> CloseReason {
        let config = &self.shared.config;
        let window = Window::new(config.window, Arc::clone(&self.shared.counters));
        let mut batches = BatchSender {
            connection: Arc::clone(&self.connection),
            builder: BatchBuilder::new(name, config.max_line),
            flush_threshold: MAX_BATCH_CHARGE.min(config.window / 2),
            window: Arc::new(window),
            errors: Arc::new(Window::new(
                config.window.saturating_mul(ERROR_WINDOWS),
                Arc::default(),
            )),
            broker,
            shared: Arc::clone(&self.shared),
            name_released: false,
            next_liveness_check: Instant::now(),
        };
        loop {
            while let Some(line) = self.lines.next_line() {
                #[cfg(test)]
                crate::fault::point("panic-reader", line.text().unwrap_or_default());
                if let Err(reason) = batches.push(line) {
                    return reason;
                }
                match batches.push_run(self.lines.valid_lines()) {
                    Ok(consumed) => self.lines.consume(consumed),
                    Err(reason) => return reason,
                }
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

    /// Reads available input, waiting until `until` for it; after shutdown, only what was available
    /// then.
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
                if let Some(remaining) = self.cutoff_remaining {
                    let limit = if self.shared.shutdown.cutoff_expired() { 0 } else { remaining };
                    let limit = limit.min(spare.len());
                    spare = &mut spare[..limit];
                }
                if spare.is_empty() {
                    return Ok(ReadOutcome::Cutoff);
                }
                match self.connection.read(spare).map_err(broken)? {
                    ReadResult::Bytes(count) => {
                        self.maybe_readable =
                            self.cutoff_remaining.is_some() || count == spare.len();
                        self.cutoff_remaining =
                            self.cutoff_remaining.map(|remaining| remaining - count);
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
            let shrink_at =
                Instant::now().checked_add(SHRINK_AFTER).filter(|_| self.lines.is_large());
            if shrink_at.is_some() {
                self.burst.get_or_insert_with(|| Burst::begin(&self.shared));
            }
            let deadline = [until, shrink_at].into_iter().flatten().min();
            let socket = Some(self.connection.as_fd());
            let outcome = self.shared.shutdown.wait(socket, PollFlags::IN, deadline, phase);
            self.maybe_readable = true;
            if outcome.map_err(broken)? == WaitOutcome::TimedOut {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return Ok(ReadOutcome::TimedOut);
                }
                self.lines.shrink();
                self.burst = None;
            }
        }
    }

    /// Discards input after the cutoff until the writer or the client ends the connection. A client
    /// that writes before it reads thus gets to read what is queued for it.
    fn discard_input(&self) {
        while let Ok(ReadResult::Bytes(_) | ReadResult::WouldBlock) =
            self.connection.discard_input()
        {
            let shutdown = &self.shared.shutdown;
            let (phase, deadline) = (shutdown.phase(), shutdown.deadline());
            let outcome =
                shutdown.wait(Some(self.connection.as_fd()), PollFlags::IN, deadline, phase);
            // At the deadline the writer ends the connection, and the caller joins it.
            if !matches!(outcome, Ok(WaitOutcome::Ready | WaitOutcome::PhaseChanged)) {
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

/// Sends a reader's batches to the broker, within its window.
struct BatchSender<'a> {
    connection: Arc<Connection>,
    builder: BatchBuilder,
    /// A batch is sent once its charge reaches this, without waiting for more lines.
    flush_threshold: usize,
    window: Arc<Window>,
    /// For the error replies that unrouted batches can cause beyond their charge.
    errors: Arc<Window>,
    broker: &'a Sender<Event>,
    shared: Arc<Shared>,
    /// Set once the broker was told that the name is free.
    name_released: bool,
    /// When a wait for a window checks next whether the client is still there.
    next_liveness_check: Instant,
}

impl BatchSender<'_> {
    /// Adds a line and sends the batch when it is large enough: before the line if the window could
    /// not hold both, otherwise after it.
    fn push(&mut self, line: Line<'_>) -> Result<(), CloseReason> {
        if !self.builder.has_room_for(&line, self.window.limit()) {
            self.send()?;
        }
        self.builder.push(line);
        if self.builder.charge() >= self.flush_threshold { self.send() } else { Ok(()) }
    }

    /// Adds as many of these lines as continue the run of the last one, and sends the batch if they
    /// are as many as it may have.
    fn push_run(&mut self, lines: &[u8]) -> Result<usize, CloseReason> {
        let limit = self.window.limit();
        let taken = self.builder.push_run(lines, self.flush_threshold, limit);
        if self.builder.run_errors() > limit / 4 && taken < lines.len() {
            self.send()?;
        }
        Ok(taken)
    }

    /// Sends the lines added so far, once the windows have room for them.
    ///
    /// Lines for which they have no room by the cutoff deadline are not accepted: nothing was
    /// promised about them, and the closing notice does not count them.
    fn send(&mut self) -> Result<(), CloseReason> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let errors = match self.builder.run_errors() {
            0 => None,
            bytes => Some(self.acquire(&Arc::clone(&self.errors), bytes)?),
        };
        let permit = self.acquire(&Arc::clone(&self.window), self.builder.charge())?;
        let batch = Box::new(self.builder.finish());
        let event = Event::Batch { from: self.connection.id(), batch, permit, errors };
        self.broker.send(event).map_err(|_| CloseReason::ServerFailed)
    }

    /// Waits until a window has room. Meanwhile it notices that the client has gone, and that
    /// shutdown leaves no time.
    fn acquire(&mut self, window: &Arc<Window>, bytes: usize) -> Result<Permit, CloseReason> {
        let shutdown = &self.shared.shutdown;
        window.acquire(bytes, || match shutdown.phase() {
            Phase::Running => {
                let now = Instant::now();
                if self.next_liveness_check <= now {
                    self.next_liveness_check = now + LIVENESS_INTERVAL;
                    if self.connection.is_disconnected() {
                        return Err(CloseReason::RESET);
                    }
                    if !self.name_released && self.connection.peer_has_closed() {
                        // It sends no more, and what it has sent is read only when there is room.
                        // Its name must not be taken until then.
                        self.name_released = true;
                        let _ = self.broker.send(Event::ReleaseName { id: self.connection.id() });
                    }
                }
                Ok(Some(self.next_liveness_check))
            }
            Phase::Draining | Phase::Forced if shutdown.cutoff_expired() => {
                Err(CloseReason::Shutdown)
            }
            Phase::Draining | Phase::Forced => Ok(shutdown.cutoff_deadline()),
        })
    }
}

/// The name in a login line, which must be UTF-8.
fn parse_login(line: &[u8]) -> Result<Name, CloseReason> {
    if line.len() > MAX_LOGIN_BYTES {
        return Err(CloseReason::BadName);
    }
    if line.contains(&b'\r') {
        return Err(CloseReason::NoLineFeed);
    }
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    Name::new(protocol::trim(line)).map_err(|_| CloseReason::BadName)
}
