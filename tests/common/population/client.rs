//! One session on a real socket: a loop that acts as its current behaviour says, and records what
//! it does.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, Socket, Type};

use super::super::TEST_TIMEOUT;
use super::super::link::{self, Link};
use super::super::wire::{Transport, Wire, transport};
use super::send_state::SendState;
use super::session_plan::{Behaviour, End, Reading, SessionPlan, Writing};
use super::transcript::{Ending, Transcript};
use super::{Profile, Run, World};

/// Pause of a slow client between two writes, or two reads.
const PACE: Duration = Duration::from_millis(1);

/// Maximum wait before a client checks whether everything is over.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Size of a read, in bytes, and that of a trickling client.
const CHUNK: usize = 16 * 1024;
const TRICKLE: usize = 7;

/// Maximum segment of a client with small buffers, in bytes, unless the server may evict it. On the
/// loopback the server's kernel would otherwise make segments of half the largest window it saw,
/// 2,048 bytes. Once the window stays below that, only the persist timer sends: 10 KB/s, for which
/// all senders to this client wait.
const SMALL_SEGMENT: u32 = 536;

/// Runs a session; `None` if the server accepts no more connections.
pub fn run_session(world: &World, run: &Run, session: SessionPlan) -> Option<Transcript> {
    // Not synchronisation: this sets the rate of new sessions.
    thread::sleep(session.pause);
    let began = Instant::now();
    let connected = connect(world, run, &session);
    let is_in_storm = usize::from(session.who.seat) >= world.seats;
    run.connected_in_storm.fetch_add(usize::from(is_in_storm), SeqCst);
    match connected {
        Ok((Err(error), address)) => {
            let mut transcript = Transcript::new(session, address, began);
            let is_reset = error.kind() == ErrorKind::ConnectionReset;
            transcript.end(if is_reset { Ending::Reset } else { Ending::InHandshake });
            Some(transcript)
        }
        Ok((Ok(stream), address)) => {
            let sent = Arc::default();
            run.live().insert(address, Arc::clone(&sent));
            let transcript = Transcript::new(session, address, began);
            let transcript = Actor::new(world, run, stream, transcript, sent).act();
            run.live().remove(&address);
            Some(transcript)
        }
        Err(error) => {
            assert!(run.is_stopping(), "{}: {error}", session.who);
            None
        }
    }
}

/// Connects from an address that no other connection of this process has used.
fn connect(
    world: &World,
    run: &Run,
    session: &SessionPlan,
) -> io::Result<(io::Result<Wire>, SocketAddrV4)> {
    static LAST: AtomicU32 = AtomicU32::new(0x7F01_0000);
    let address = Ipv4Addr::from_bits(LAST.fetch_add(1, SeqCst) + 1);
    if transport() == Transport::Unix {
        let _header_follows = run.connecting.read().unwrap_or_else(PoisonError::into_inner);
        let stream = Wire::connect(run.server)?;
        // Should the server have refused it already, reading finds out.
        let _ = write!(&stream, "PROXY TCP4 {address} 127.0.0.1 1 1\r\n");
        stream.set_nonblocking(true)?;
        return Ok((Ok(stream), SocketAddrV4::new(address, 1)));
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if session.small_buffers {
        socket.set_recv_buffer_size(4096)?;
        socket.set_send_buffer_size(4096)?;
        if world.profile != Profile::Stubborn {
            socket.set_tcp_mss(SMALL_SEGMENT)?;
        }
    }
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddrV4::new(address, 0).into())?;
    socket.connect(&run.server.into())?;
    let address = socket.local_addr()?.as_socket_ipv4().expect("what it was bound to");
    let wire = match transport() {
        Transport::Tls => Link::new(socket.into(), link::Transport::Tls).map(Wire::from),
        Transport::Tcp | Transport::Unix => Ok(Wire::Tcp(socket.into())),
    };
    if let Ok(wire) = &wire {
        wire.set_nonblocking(true)?;
    }
    Ok((wire, address))
}

/// A session in progress.
struct Actor<'a> {
    world: &'a World,
    run: &'a Run,
    stream: Wire,
    transcript: Transcript,
    send_state: SendState,
    /// Bytes sent so far, as read at shutdown.
    sent: Arc<AtomicU64>,
    behaviour: Behaviour,
    behaviour_number: u64,
    behaviour_ends: Instant,
    next_write: Instant,
    next_read: Instant,
    /// It creates no more lines.
    leaves: bool,
    /// It writes no more.
    write_closed: bool,
    /// A write failed with a reset, which no read will report again.
    reset: bool,
    /// When it must have seen the end.
    patience: Option<Instant>,
    chunk: Box<[u8]>,
}

impl<'a> Actor<'a> {
    fn new(
        world: &'a World,
        run: &'a Run,
        stream: Wire,
        transcript: Transcript,
        sent: Arc<AtomicU64>,
    ) -> Self {
        let (session, now) = (&transcript.session, Instant::now());
        let behaviour = session.behaviour(world, 0);
        Self {
            world,
            run,
            stream,
            send_state: SendState::new(world, session),
            sent,
            behaviour,
            behaviour_number: 0,
            behaviour_ends: now + behaviour.lasts,
            next_write: now,
            next_read: now,
            leaves: false,
            write_closed: false,
            reset: false,
            patience: None,
            chunk: vec![0; CHUNK].into(),
            transcript,
        }
    }

    /// Acts until the connection has ended.
    fn act(mut self) -> Transcript {
        let ending = loop {
            self.change_behaviour();
            if self.is_time_to_leave() && self.leave() {
                break Ending::Abandoned;
            }
            let is_idle = self.send_state.is_idle() && !self.stream.has_pending();
            if self.leaves && !self.write_closed && is_idle {
                self.half_close();
            }
            let (events, timeout) = self.interests();
            let ready = self.wait(events, timeout);
            if ready.contains(PollFlags::IN) {
                if let Some(ending) = self.read() {
                    break ending;
                }
            }
            if ready.contains(PollFlags::OUT) && self.stream.has_pending() {
                let flushed = self.stream.flush_pending();
                if flushed.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset) {
                    (self.write_closed, self.reset) = (true, true);
                }
            } else if ready.contains(PollFlags::OUT) {
                self.write();
            }
        };
        self.transcript.end(ending);
        if ending != Ending::Abandoned {
            // Not synchronisation: the client is slow to close.
            thread::sleep(self.transcript.session.lingers);
        }
        self.transcript
    }

    fn change_behaviour(&mut self) {
        let now = Instant::now();
        let is_late = self.patience.is_some_and(|patience| now > patience);
        assert!(!is_late, "no end: {}", self.transcript);
        if self.run.is_over() {
            self.patience.get_or_insert(now + TEST_TIMEOUT);
            self.behaviour.reading = Reading::Eagerly;
            self.behaviour_ends = now + POLL_INTERVAL;
        }
        while now >= self.behaviour_ends {
            self.behaviour_number += 1;
            let reading = self.behaviour.reading;
            self.behaviour = self.transcript.session.behaviour(self.world, self.behaviour_number);
            if reading == Reading::Never {
                self.behaviour.reading = reading;
            }
            self.behaviour_ends += self.behaviour.lasts;
        }
    }

    fn is_time_to_leave(&self) -> bool {
        let Transcript { session, began, .. } = &self.transcript;
        !self.leaves && session.span.is_some_and(|span| began.elapsed() >= span)
    }

    /// Starts its end; true if that ends the connection.
    fn leave(&mut self) -> bool {
        self.leaves = true;
        let end = self.transcript.session.end;
        if let End::HalfClose | End::UnterminatedLine = end {
            self.send_state.finish(end == End::UnterminatedLine);
            return false;
        }
        self.transcript.left_at = Some(Instant::now());
        if end == End::Reset {
            let linger = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
            linger.expect("an option");
        }
        true
    }

    fn half_close(&mut self) {
        self.transcript.left_at = Some(Instant::now());
        // Fails if the connection is gone, which a read will report; a reset is reported only once.
        let closed = self.stream.shutdown(Shutdown::Write);
        self.reset |= closed.as_ref().is_err_and(|it| it.kind() == ErrorKind::ConnectionReset);
        self.transcript.half_closed = closed.is_ok();
        self.write_closed = true;
    }

    /// The events it waits for now, and the maximum wait.
    fn interests(&mut self) -> (PollFlags, Duration) {
        let now = Instant::now();
        let mut until = (now + POLL_INTERVAL).min(self.behaviour_ends);
        if let Some(span) = self.transcript.session.span.filter(|_| !self.leaves) {
            until = until.min(self.transcript.began + span);
        }
        let mut events = PollFlags::empty();
        let soonest = |until: Instant, next| if next > now { until.min(next) } else { until };
        if !matches!(self.behaviour.reading, Reading::Nothing | Reading::Never) {
            events.set(PollFlags::IN, now >= self.next_read);
            until = soonest(until, self.next_read);
        }
        if !self.write_closed && (self.leaves || self.behaviour.writing != Writing::Nothing) {
            if self.send_state.is_idle() && !self.leaves {
                let packet = self.send_state.next_packet(self.world, &self.transcript.session);
                self.transcript.packets.extend(packet);
            }
            events.set(PollFlags::OUT, !self.send_state.is_idle() && now >= self.next_write);
            until = soonest(until, self.next_write);
        }
        if self.stream.has_pending() && !self.write_closed {
            events |= PollFlags::OUT;
        }
        if self.stream.has_buffered() {
            until = until.min(self.next_read);
        }
        (events, until.saturating_duration_since(now))
    }

    /// Waits for the events, if any, and the timeout. Errors and hang-ups count as whatever it
    /// waits for, so the next call meets them.
    fn wait(&self, events: PollFlags, timeout: Duration) -> PollFlags {
        let timeout = Timespec::try_from(timeout).expect("a short time");
        let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), events)];
        let asked = if events.is_empty() { &mut [] } else { &mut fds[..] };
        match poll(asked, Some(&timeout)) {
            // What is decrypted shows at no socket.
            Ok(0) if self.stream.has_buffered() => events & PollFlags::IN,
            Ok(0) | Err(rustix::io::Errno::INTR) => PollFlags::empty(),
            Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => events,
            Ok(_) => fds[0].revents(),
            Err(error) => panic!("{}: {error}", self.transcript.session.who),
        }
    }

    fn write(&mut self) {
        let pause = match self.behaviour.writing {
            Writing::Packets | Writing::Nothing => Duration::ZERO,
            Writing::Lines => PACE,
            Writing::Bytes => PACE / 5,
        };
        self.next_write = Instant::now() + pause;
        match self.stream.write(self.send_state.next(self.behaviour.writing)) {
            Ok(count) => {
                self.transcript.say(self.send_state.advance(count));
                self.sent.store(self.transcript.bytes_sent, SeqCst);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {}
                ErrorKind::ConnectionReset => (self.write_closed, self.reset) = (true, true),
                ErrorKind::BrokenPipe => self.write_closed = true,
                _ => panic!("{}: {error}", self.transcript.session.who),
            },
        }
    }

    /// Reads once; returns the ending if that is it.
    fn read(&mut self) -> Option<Ending> {
        let (most, pause) = match self.behaviour.reading {
            Reading::Trickle => (TRICKLE, PACE),
            _ => (CHUNK, Duration::ZERO),
        };
        self.next_read = Instant::now() + pause;
        match self.stream.read(&mut self.chunk[..most]) {
            Ok(0) if self.reset => Some(Ending::Reset),
            Ok(0) => Some(Ending::Clean),
            Ok(count) => {
                self.transcript.hear(self.world, &self.chunk[..count]);
                None
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => None,
                ErrorKind::ConnectionReset => Some(Ending::Reset),
                // Over TLS, an end of file that nobody announced.
                ErrorKind::UnexpectedEof if self.reset => Some(Ending::Reset),
                _ => panic!("{error}: {}", self.transcript),
            },
        }
    }
}
