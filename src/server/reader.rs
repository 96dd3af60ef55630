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
use crate::server::patience::Patience;
use crate::server::report::{CloseReason, Departure};
use crate::server::shutdown::{Phase, Woken};
use crate::server::writer::{Farewell, Outgoing, Writer};
use crate::socket::connection::{Connection, Input};
use crate::wire::batch::BatchBuilder;
use crate::wire::framing::{Line, LineBuffer};
use crate::wire::protocol::{self, MAX_NAME, Name, Rejection};

/// What a batch is charged for at most, in bytes, if a window is no smaller than twice that: all
/// lines of one large read go in one batch, and there is room for the next while it is written.
const BATCH: usize = 128 * 1024;

/// How often a reader that waits for its window looks whether its client is still there. It does
/// not wait for the socket then, since the input that it does not take would wake it for ever.
const GONE_CHECK: Duration = Duration::from_millis(500);

/// How long a client has to be quiet before its read buffer is given back.
const IDLE: Duration = Duration::from_secs(1);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    lines: LineBuffer,
    /// The last read was a full one: there may be more, so the next read need not wait.
    eager: bool,
    /// Once the stop is seen: how much of the input that was there then is left to read, in bytes.
    cut: Option<usize>,
}

/// A client that has logged in: its name, its queue and who writes it.
#[derive(Debug)]
struct Session {
    name: Name,
    queue: Sender<Outgoing>,
    writer: JoinHandle<Farewell>,
}

/// What came of waiting for input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    More,
    /// The client has sent its last byte.
    End,
    /// All that was there when the stop was seen is read, or the time for that is over.
    Cut,
    TimedOut,
}

impl Reader {
    pub(crate) fn new(connection: Arc<Connection>, shared: Arc<Shared>) -> Self {
        let lines = LineBuffer::new(shared.config.max_line);
        Self { connection, shared, lines, eager: true, cut: None }
    }

    /// The thread: serves the client until it ends or is cut off, and tells how that went.
    ///
    /// `broker` is let go before anything is waited for in the end, since the broker ends when
    /// nobody holds a sender any more.
    ///
    /// None of the steps is ever inlined: what one of them needs would otherwise be on the stack
    /// beneath all others, and an idle client's reader has to do with two pages (see `context::spawn`).
    pub(crate) fn run(mut self, broker: Sender<Event>) -> Departure {
        let session = self.login().and_then(|name| self.start_writer(name));
        let departure = match session {
            Ok(session) => self.serve(session, broker),
            Err(reason) => {
                drop(broker);
                self.reject(reason)
            }
        };
        departure.log();
        departure
    }

    #[inline(never)]
    fn login(&mut self) -> Result<Name, CloseReason> {
        let mut patience = Patience::new(self.shared.config.login_timeout, Instant::now());
        loop {
            if let Some(line) = self.lines.next_line() {
                return line.text().and_then(Name::new).ok_or(CloseReason::BadName);
            }
            // A line end may be two bytes.
            if self.lines.unfinished() > MAX_NAME + 1 {
                return Err(CloseReason::BadName);
            }
            if patience.is_over(Instant::now()) {
                return Err(CloseReason::LoginTimeout);
            }
            match self.fill(patience.next_look())? {
                Fill::More | Fill::TimedOut => {}
                Fill::End => return Err(CloseReason::LeftBeforeLogin),
                Fill::Cut => return Err(CloseReason::Shutdown),
            }
        }
    }

    /// Ends a connection that has no writer.
    #[inline(never)]
    fn reject(&self, reason: CloseReason) -> Departure {
        let text = match reason {
            CloseReason::BadName => Rejection::BadName.line().to_owned(),
            CloseReason::LoginTimeout => Rejection::LoginTimeout.line().to_owned(),
            CloseReason::ServerFull => Rejection::ServerFull.line().to_owned(),
            CloseReason::Shutdown => protocol::closing_notice(0),
            CloseReason::LeftBeforeLogin if self.lines.unfinished() > 0 => {
                self.shared.counters.torn.add(1);
                Rejection::TornLine.line().to_owned()
            }
            _ => String::new(),
        };
        // A new socket takes one line, or it is gone; both are as good as told.
        let _ = self.connection.write(&[IoSlice::new(text.as_bytes())]);
        self.connection.finish_writing();
        // No message is due, so that nothing can be lost; how the client takes it is its matter.
        let _ = linger(&self.connection, &self.shared);
        self.connection.close();
        self.departure(None, &Farewell::nothing_due(reason))
    }

    /// Starts the writer of a client that has given a good name.
    #[inline(never)]
    fn start_writer(&self, name: Name) -> Result<Session, CloseReason> {
        let (connection, shared) = (Arc::clone(&self.connection), Arc::clone(&self.shared));
        let (id, peer, client) = (connection.id(), connection.peer(), name.clone());
        let (queue, inbox) = unbounded();
        let writer = spawn(format!("writer-{id}"), move || {
            // Said here rather than by the reader, whose stack then stays in two pages.
            log::info!("{client} came, connection {id} from {peer}");
            Writer::new(connection, inbox, shared).run()
        });
        match writer {
            Ok(writer) => Ok(Session { name, queue, writer }),
            Err(error) => {
                log::error!("cannot start a writer for {name}, connection {id}: {error}");
                Err(CloseReason::ServerFull)
            }
        }
    }

    /// Serves a client to the end.
    #[inline(never)]
    fn serve(&mut self, session: Session, broker: Sender<Event>) -> Departure {
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
        let mut farewell =
            writer.join().unwrap_or_else(|_| Farewell::nothing_due(CloseReason::Panicked));
        if farewell.reason == CloseReason::Left {
            // The broker knows that it left, this thread knows how.
            farewell.reason = end;
        }
        self.departure(Some(name), &farewell)
    }

    /// Reads and sends lines until the client ends (any reason) or the stop cuts it off
    /// ([`CloseReason::Shutdown`]).
    fn read_lines(&mut self, name: &Name, broker: &Sender<Event>) -> CloseReason {
        let config = &self.shared.config;
        let window = Window::new(config.window, Arc::clone(&self.shared.counters));
        let mut outbox = Outbox {
            connection: Arc::clone(&self.connection),
            builder: BatchBuilder::new(name, config.max_line),
            most: BATCH.min(config.window / 2),
            window: Arc::new(window),
            broker,
            shared: Arc::clone(&self.shared),
        };
        loop {
            while let Some(line) = self.lines.next_line() {
                #[cfg(test)]
                crate::fault::point("panic-reader", line.text().unwrap_or_default());
                if let Err(reason) = outbox.push(line) {
                    return reason;
                }
                let taken = outbox.push_run(self.lines.good_lines());
                self.lines.skip(taken);
            }
            if let Err(reason) = outbox.send() {
                return reason;
            }
            match self.fill(None) {
                Ok(Fill::More | Fill::TimedOut) => {}
                Ok(Fill::Cut) => return CloseReason::Shutdown,
                Ok(Fill::End) if self.cut.is_some() => return CloseReason::Shutdown,
                Ok(Fill::End) => {
                    if self.lines.unfinished() > 0 {
                        outbox.builder.push_torn_line();
                    }
                    return outbox.send().err().unwrap_or(CloseReason::Left);
                }
                Err(reason) => return reason,
            }
        }
    }

    /// Reads what is there, waiting for it until `until`, or what was there at the stop.
    fn fill(&mut self, until: Option<Instant>) -> Result<Fill, CloseReason> {
        let broken = |error| CloseReason::broken(&error);
        loop {
            let phase = self.shared.shutdown.phase();
            if phase != Phase::Running && self.cut.is_none() {
                self.cut = Some(self.connection.readable_bytes());
                self.eager = true;
            }
            if self.eager {
                let mut space = self.lines.space();
                if let Some(left) = self.cut {
                    let end = if self.shared.shutdown.cut_is_over() { 0 } else { left };
                    let end = end.min(space.len());
                    space = &mut space[..end];
                }
                if space.is_empty() {
                    return Ok(Fill::Cut);
                }
                match self.connection.read(space).map_err(broken)? {
                    Input::Bytes(count) => {
                        self.eager = self.cut.is_some() || count == space.len();
                        self.cut = self.cut.map(|left| left - count);
                        self.lines.advance(count);
                        return Ok(Fill::More);
                    }
                    Input::End => return Ok(Fill::End),
                    Input::Empty if self.cut.is_some() => return Ok(Fill::Cut),
                    Input::Empty => {}
                }
            }
            let idle = Instant::now().checked_add(IDLE).filter(|_| self.lines.is_large());
            let first = [until, idle].into_iter().flatten().min();
            let socket = Some(self.connection.as_fd());
            let woken = self.shared.shutdown.wait(socket, PollFlags::IN, first, phase);
            self.eager = true;
            if woken.map_err(broken)? == Woken::TimedOut {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return Ok(Fill::TimedOut);
                }
                self.lines.shrink();
            }
        }
    }

    /// Throws away what comes after the cut until the writer, or the client, ends the connection:
    /// a client that writes before it reads gets to read what is due to it.
    fn discard_input(&self) {
        while let Ok(Input::Bytes(_) | Input::Empty) = self.connection.discard_input() {
            let shutdown = &self.shared.shutdown;
            let (phase, deadline) = (shutdown.phase(), shutdown.deadline());
            let woken =
                shutdown.wait(Some(self.connection.as_fd()), PollFlags::IN, deadline, phase);
            // At the deadline the writer ends the connection, which joining it will wait for.
            if !matches!(woken, Ok(Woken::Ready | Woken::PhaseChanged)) {
                return;
            }
        }
    }

    fn departure(&self, name: Option<Name>, farewell: &Farewell) -> Departure {
        let Farewell { reason, accepted, delivered, lost, unacknowledged, in_drain } = *farewell;
        Departure {
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
struct Outbox<'a> {
    connection: Arc<Connection>,
    builder: BatchBuilder,
    /// At this charge a batch is sent without waiting for more lines.
    most: usize,
    window: Arc<Window>,
    broker: &'a Sender<Event>,
    shared: Arc<Shared>,
}

impl Outbox<'_> {
    /// Takes a line, and sends what is large enough: before the line, if the window could not hold
    /// it with the others, and after it otherwise.
    fn push(&mut self, line: Line<'_>) -> Result<(), CloseReason> {
        if !self.builder.has_room_for(&line, self.window.limit()) {
            self.send()?;
        }
        self.builder.push(line);
        if self.builder.charge() >= self.most { self.send() } else { Ok(()) }
    }

    /// Takes as many of these lines as go on with what the last one has begun.
    fn push_run(&mut self, lines: &[u8]) -> usize {
        self.builder.push_run(lines, self.most, self.window.limit())
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
            Phase::Running if self.connection.is_gone() => Err(CloseReason::RESET),
            Phase::Running => Ok(Instant::now().checked_add(GONE_CHECK)),
            Phase::Draining | Phase::Forced if shutdown.cut_is_over() => Err(CloseReason::Shutdown),
            Phase::Draining | Phase::Forced => Ok(shutdown.cut_deadline()),
        })?;
        let batch = Box::new(self.builder.finish());
        let event = Event::Batch { from: self.connection.id(), batch, permit };
        self.broker.send(event).map_err(|_| CloseReason::ServerFailed)
    }
}
