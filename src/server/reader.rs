//! The reader thread, one per client. It owns the receiving side of the connection, the client's
//! window and its writer's join handle, and exits when the client disconnects or at the shutdown
//! cutoff.
//!
//! After the login it turns lines into batches. On exit it joins its writer, tells the broker what
//! was lost (see `accounts.rs`), drops its broker sender, and produces the connection's record.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use crate::server::access::Access;
use crate::server::accounts::{SettledOnDrop, join_and_report, join_in_drain};
use crate::server::broker::{Event, JoinRoom};
use crate::server::context::{Events, Shared, spawn};
use crate::server::delivery::ticket::ticket;
use crate::server::delivery::token::Token;
use crate::server::delivery::window::{Permit, StandingPermit, Window};
use crate::server::input::{Input, ReadOutcome};
use crate::server::login::{Login, login, reject};
use crate::server::login_places::LoginPlace;
#[cfg(feature = "status")]
use crate::server::observer::Registered;
use crate::server::per_source::Place;
use crate::server::rate::Rate;
use crate::server::report::{CloseReason, ConnectionRecord};
use crate::server::rooms::MEMBERSHIP_CHARGE;
use crate::server::shutdown::Phase;
use crate::server::sync::{Synced, await_settlement};
#[cfg(feature = "users")]
use crate::server::users::failed_logins::Present;
use crate::server::writer::{Outgoing, Writer, WriterExit};
use crate::socket::connection::Connection;
use crate::wire::batch::{Barrier, BatchBuilder, JOIN_CHARGE, Join, SYNC_CHARGE, SyncRequest};
use crate::wire::framing::Line;
use crate::wire::name::Name;
use crate::wire::sync::SyncOutcome;

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

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Reader {
    input: Input,
    /// Keeps the client in the list of those that are connected, while there is one.
    #[cfg(feature = "status")]
    registered: Option<Registered>,
}

/// A logged-in client: its name and its right to it, its queue and its writer.
#[derive(Debug)]
struct Session {
    name: Name,
    access: Option<Box<Access>>,
    queue: Sender<Outgoing>,
    writer: JoinHandle<WriterExit>,
}

impl Reader {
    /// On the heap, and never inlined, so that the thread's stack fits in two pages.
    #[inline(never)]
    pub(crate) fn new(
        connection: Arc<Connection>,
        shared: Arc<Shared>,
        place: Option<Place>,
    ) -> Box<Self> {
        Box::new(Self {
            input: Input::new(connection, shared, place),
            #[cfg(feature = "status")]
            registered: None,
        })
    }

    /// The thread: serves the client until it disconnects or the cutoff is reached, and returns the
    /// connection's record.
    ///
    /// Once shutdown has begun, `broker` is dropped before this thread waits for anything, since the
    /// broker exits only once every sender is dropped.
    ///
    /// None of the steps is ever inlined: the stack frame of each would otherwise lie beneath all
    /// the others, and an idle client's reader must fit in two pages (see `context::spawn`).
    pub(crate) fn run(&mut self, broker: Events<Event>, place: LoginPlace) -> ConnectionRecord {
        let record = self.log_in_and_serve(broker, place);
        record.log();
        self.input.shared.counters.disconnects.count(record.reason.code(), record.counts());
        record
    }

    #[inline(never)]
    fn log_in_and_serve(&mut self, broker: Events<Event>, place: LoginPlace) -> ConnectionRecord {
        match self.log_in(place) {
            Ok(session) => self.serve(session, broker),
            Err(reason) => self.refuse(reason, broker),
        }
    }

    #[inline(never)]
    fn log_in(&mut self, place: LoginPlace) -> Result<Session, CloseReason> {
        login(&mut self.input, place).and_then(|login| self.start_writer(login))
    }

    /// Ends the connection of a client that has not logged in.
    #[inline(never)]
    fn refuse(&self, reason: CloseReason, broker: Events<Event>) -> ConnectionRecord {
        drop(broker);
        let exit = reject(&self.input, reason);
        self.record(None, &exit)
    }

    /// Spawns the writer of a client that sent a valid name.
    #[inline(never)]
    fn start_writer(&self, login: Login) -> Result<Session, CloseReason> {
        let Login { name, access } = login;
        let (connection, shared) =
            (Arc::clone(&self.input.connection), Arc::clone(&self.input.shared));
        let (id, peer, client) = (connection.id(), connection.peer(), name.clone());
        let (queue, inbox) = unbounded();
        let settled = SettledOnDrop::new(&connection);
        let writer = spawn(format!("writer-{id}"), move || {
            let _settled_even_after_a_panic = settled;
            // Logged here instead of by the reader, whose stack thus stays within two pages.
            log::info!(
                client = client.as_str(), connection = id.0, address:% = peer;
                "{client} connected (connection {id}, {peer})"
            );
            Writer::new(connection, inbox, shared).run()
        });
        match writer {
            Ok(writer) => Ok(Session { name, access, queue, writer }),
            Err(error) => {
                log::error!("cannot spawn a writer for {name} (connection {id}): {error}");
                Err(CloseReason::ServerFull)
            }
        }
    }

    /// Serves a client until the end of its connection.
    #[inline(never)]
    fn serve(&mut self, session: Session, broker: Events<Event>) -> ConnectionRecord {
        let Session { name, access, queue, writer } = session;
        let rate = self.rate(access.as_deref());
        #[cfg(feature = "users")]
        let _present = self.note_presence();
        let window = self.join(&name, access, queue, &broker);
        let read_lines = || self.read_lines(&name, window, &broker, rate);
        let reason = catch_unwind(AssertUnwindSafe(read_lines)).unwrap_or(CloseReason::Panicked);
        self.leave(name, writer, reason, broker)
    }

    /// Tells the broker of the client. Returns the client's window.
    #[inline(never)]
    fn join(
        &self,
        name: &Name,
        access: Option<Box<Access>>,
        queue: Sender<Outgoing>,
        broker: &Sender<Event>,
    ) -> Arc<Window> {
        let shared = &self.input.shared;
        let window = Arc::new(Window::new(shared.config.window, Arc::clone(&shared.counters)));
        let (id, its_window) = (self.input.connection.id(), Arc::clone(&window));
        let join = Event::Join { id, name: name.clone(), access, queue, window: its_window };
        // Fails only if the broker has exited, which the first batch will find too.
        let _ = broker.send(join);
        window
    }

    /// Tells the broker that the client is gone, waits for the writer, and makes the record.
    #[inline(never)]
    fn leave(
        &mut self,
        name: Name,
        writer: JoinHandle<WriterExit>,
        reason: CloseReason,
        broker: Events<Event>,
    ) -> ConnectionRecord {
        let mut exit = if reason == CloseReason::Shutdown {
            // No `Leave`: it would overtake lines that other readers still have for this client.
            self.input.connection.set_reader_lingers();
            drop(broker);
            self.input.discard();
            let exit = join_in_drain(writer, &self.input.shared);
            self.input.connection.close_behind_input();
            exit
        } else {
            let Input { connection, shared, .. } = &self.input;
            // The kernel tells of a reset once. If the writer was the one to hear of it, this thread
            // has read an end of file, from a client that did not leave.
            if reason == CloseReason::Left && !connection.is_disconnected() {
                connection.set_left();
            }
            let _ = broker.send(Event::Leave { id: connection.id() });
            join_and_report(writer, &name, broker, (connection, shared))
        };
        if exit.reason == CloseReason::Left {
            // The broker knows only that the client left; this thread knows why.
            exit.reason = reason;
        }
        self.record(Some(name), &exit)
    }

    /// Reads and forwards lines until the connection ends, for any reason, or until the shutdown
    /// cutoff ([`CloseReason::Shutdown`]).
    #[inline(never)]
    fn read_lines(
        &mut self,
        name: &Name,
        window: Arc<Window>,
        broker: &Sender<Event>,
        rate: Option<Box<Rate>>,
    ) -> CloseReason {
        #[cfg(feature = "status")]
        if let Some(registry) = self.input.shared.registry.get() {
            self.registered = Some(registry.enter(name, &self.input.connection, &window));
        }
        let mut batches = BatchSender::new(&self.input, name, window, broker, rate);
        loop {
            while let Some(line) = self.input.lines.next_line() {
                #[cfg(test)]
                crate::fault::point("panic-reader", line.text().unwrap_or_default());
                if let Err(reason) = batches.push(line) {
                    return reason;
                }
                match batches.push_run(self.input.lines.valid_lines()) {
                    Ok(consumed) => self.input.lines.consume(consumed),
                    Err(reason) => return reason,
                }
            }
            if let Err(reason) = batches.send() {
                return reason;
            }
            match self.input.fill(None) {
                Ok(ReadOutcome::Read | ReadOutcome::TimedOut) => {}
                Ok(ReadOutcome::Cutoff) => return CloseReason::Shutdown,
                Ok(ReadOutcome::Eof) if self.input.is_cut_off() => {
                    return CloseReason::Shutdown;
                }
                Ok(ReadOutcome::Eof) => {
                    if self.input.lines.partial_len() > 0 {
                        batches.builder.push_unterminated_line();
                    }
                    return batches.send().err().unwrap_or(CloseReason::Left);
                }
                Err(reason) => return reason,
            }
        }
    }

    /// How fast the client may send, if that is limited.
    fn rate(&self, access: Option<&Access>) -> Option<Box<Rate>> {
        #[cfg(feature = "users")]
        let own = access.and_then(|access| access.rate);
        #[cfg(not(feature = "users"))]
        let own = access.and(None);
        let rate = own.or(self.input.shared.config.rate)?;
        Some(Box::new(Rate::new(rate, Instant::now())))
    }

    /// Notes where the client is logged in from, until the result is dropped.
    #[cfg(feature = "users")]
    fn note_presence(&self) -> Option<Present> {
        let failed_logins = self.input.shared.failed_logins()?;
        failed_logins.enter(self.input.connection.peer().ip()?)
    }

    fn record(&self, name: Option<Name>, exit: &WriterExit) -> ConnectionRecord {
        let WriterExit { reason, accepted, delivered, lost, lost_written, .. } = *exit;
        let WriterExit { unacknowledged, in_drain, .. } = *exit;
        ConnectionRecord {
            id: self.input.connection.id(),
            peer: self.input.connection.peer(),
            name,
            reason,
            accepted,
            delivered,
            lost,
            lost_written,
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
    /// How fast lines may come, if that is limited.
    rate: Option<Box<Rate>>,
    shared: Arc<Shared>,
    /// Set once the broker was told that the name is free.
    name_released: bool,
    /// When a wait for a window checks next whether the client is still there.
    next_liveness_check: Instant,
}

impl<'a> BatchSender<'a> {
    /// On the heap, and never inlined, so that the thread's stack fits in two pages.
    #[inline(never)]
    fn new(
        input: &Input,
        name: &Name,
        window: Arc<Window>,
        broker: &'a Sender<Event>,
        rate: Option<Box<Rate>>,
    ) -> Box<Self> {
        let config = &input.shared.config;
        let errors = Window::new(config.window.saturating_mul(ERROR_WINDOWS), Arc::default());
        Box::new(Self {
            connection: Arc::clone(&input.connection),
            builder: BatchBuilder::new(name, config.max_line),
            flush_threshold: MAX_BATCH_CHARGE.min(config.window / 2),
            window,
            errors: Arc::new(errors),
            broker,
            rate,
            shared: Arc::clone(&input.shared),
            name_released: false,
            next_liveness_check: Instant::now(),
        })
    }

    /// Adds a line and sends the batch when it is large enough: before the line if the window could
    /// not hold both, otherwise after it.
    fn push(&mut self, line: Line<'_>) -> Result<(), CloseReason> {
        if self.rate.is_some() {
            self.hold_back(line.text().unwrap_or_default())?;
        }
        if !self.builder.has_room_for(&line, self.window.limit()) {
            self.send()?;
        }
        match self.builder.push(line) {
            None => {}
            Some(Barrier::Join(join)) => return self.join_room(join),
            Some(Barrier::Sync(request)) => return self.sync(request),
        }
        if self.builder.charge() >= self.flush_threshold { self.send() } else { Ok(()) }
    }

    /// Adds as many of these lines as continue the run of the last one, and sends the batch if they
    /// are as many as it may have.
    fn push_run(&mut self, lines: &[u8]) -> Result<usize, CloseReason> {
        if self.rate.is_some() {
            // Each line is held back on its own.
            return Ok(0);
        }
        let limit = self.window.limit();
        let taken = self.builder.push_run(lines, self.flush_threshold, limit);
        if self.builder.run_errors() > limit / 4 && taken < lines.len() {
            self.send()?;
        }
        Ok(taken)
    }

    /// Waits until a line may come, parked. Nothing is lost: TCP slows the client down meanwhile. A
    /// shutdown ends the wait, since whatever was received by then is to be delivered.
    fn hold_back(&mut self, line: &[u8]) -> Result<(), CloseReason> {
        let Some(rate) = &mut self.rate else { return Ok(()) };
        let now = Instant::now();
        let until = rate.wait_until(now);
        rate.charge(line, until.unwrap_or(now));
        let Some(until) = until else { return Ok(()) };
        if !std::mem::replace(&mut rate.is_told, true) {
            self.builder.push_rate_notice(rate.lines_per_second());
        }
        // What was accepted so far must not wait as well.
        self.send()?;
        while self.shared.shutdown.phase() == Phase::Running && Instant::now() < until {
            let next = self.check_client(false)?.map_or(until, |check| check.min(until));
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
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

    /// Sends a line that asks to enter a room, and waits until the broker has handled it: what the
    /// lines behind it are charged depends on the room's size.
    #[inline(never)]
    fn join_room(&mut self, join: Join) -> Result<(), CloseReason> {
        self.send()?;
        let window = Arc::clone(&self.window);
        let standing = StandingPermit::new(self.acquire(&window, MEMBERSHIP_CHARGE)?);
        let permit = self.acquire(&window, JOIN_CHARGE)?;
        let (from, Join { line, room, loud }) = (self.connection.id(), join);
        let (ticket, answer) = ticket();
        let join = JoinRoom { from, line, room: room.clone(), loud, permit, standing, ticket };
        let event = Event::JoinRoom(Box::new(join));
        self.broker.send(event).map_err(|_| CloseReason::ServerFailed)?;
        if let Some(size) = answer.wait(|| self.check_client(true))? {
            self.builder.joined(room, size);
        }
        Ok(())
    }

    /// Sends a line that asks whether everything before it is delivered, and waits until it is. Nothing
    /// more is read from the client meanwhile.
    #[inline(never)]
    fn sync(&mut self, request: SyncRequest) -> Result<(), CloseReason> {
        self.send()?;
        if self.shared.shutdown.is_shutdown() {
            self.builder.push_unserved(request, SyncOutcome::ShuttingDown);
            return Ok(());
        }
        let permit = self.acquire(&Arc::clone(&self.window), SYNC_CHARGE)?;
        let (id, SyncRequest { line, limit }) = (self.connection.id(), request);
        self.shared.counters.syncs.add(1);
        let (token, share) = Token::new();
        let asked = self.broker.send(Event::Sync { id, share });
        asked.map_err(|_| CloseReason::ServerFailed)?;
        let shutdown = self.shared.shutdown.clone();
        let outcome = await_settlement(&token, limit, &shutdown, || self.check_client(false))?;
        let synced = Event::Synced(Box::new(Synced { id, line, outcome, permit }));
        self.broker.send(synced).map_err(|_| CloseReason::ServerFailed)
    }

    /// Waits until a window has room. Meanwhile it notices that the client has gone, and that
    /// shutdown leaves no time.
    fn acquire(&mut self, window: &Arc<Window>, bytes: usize) -> Result<Permit, CloseReason> {
        window.acquire(bytes, || self.check_client(true))
    }

    /// Before each wait for something other than the client: until when to wait, or why the
    /// connection ends instead. `by_others` says whether it may be others that hold the client up.
    fn check_client(&mut self, by_others: bool) -> Result<Option<Instant>, CloseReason> {
        let shutdown = &self.shared.shutdown;
        match shutdown.phase() {
            Phase::Running => {
                let now = Instant::now();
                if self.next_liveness_check <= now {
                    self.next_liveness_check = now + LIVENESS_INTERVAL;
                    if self.connection.is_disconnected() {
                        return Err(CloseReason::RESET);
                    }
                    let id = self.connection.id();
                    if !self.name_released && self.connection.peer_has_closed() {
                        // It sends no more, and what it has sent is read only when there is room.
                        // Its name must not be taken until then.
                        self.name_released = true;
                        let _ = self.broker.send(Event::ReleaseName { id });
                    }
                    if by_others && self.builder.is_in_rooms() {
                        let _ = self.broker.send(Event::HeldUp { id });
                    }
                }
                Ok(Some(self.next_liveness_check))
            }
            Phase::Draining | Phase::Forced if shutdown.cutoff_expired() => {
                Err(CloseReason::Shutdown)
            }
            Phase::Draining | Phase::Forced => Ok(shutdown.cutoff_deadline()),
        }
    }
}
