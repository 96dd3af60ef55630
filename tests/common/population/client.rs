//! One life on a real socket: a loop that does what the mood says, and notes what it does.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, Socket, Type};

use super::life::{Behaviour, End, Reading, SessionPlan, Writing};
use super::transcript::{Ending, Transcript};
use super::voice::SendState;
use super::{Run, World};
use crate::common::PATIENCE;

/// How long a client that goes slowly waits between two writes, or two reads.
const PACE: Duration = Duration::from_millis(1);

/// How often a client looks whether all is over, at least.
const LOOK: Duration = Duration::from_millis(20);

/// How much a client reads at a time, in bytes, and how much in sips.
const CHUNK: usize = 16 * 1024;
const SIP: usize = 7;

/// Lives a life; `None` if the server takes no connections any more.
pub fn live(world: &World, run: &Run, life: SessionPlan) -> Option<Transcript> {
    // Nobody waits for this: it is how fast clients come and go.
    thread::sleep(life.pause);
    let began = Instant::now();
    let connected = connect(run, &life);
    let is_in_storm = usize::from(life.who.seat) >= world.seats;
    run.connected_in_storm.fetch_add(usize::from(is_in_storm), SeqCst);
    match connected {
        Ok((stream, address)) => {
            let sent = Arc::default();
            run.live().insert(address, Arc::clone(&sent));
            let transcript = Transcript::new(life, address, began);
            let transcript = Actor::new(world, run, stream, transcript, sent).act();
            run.live().remove(&address);
            Some(transcript)
        }
        Err(error) => {
            assert!(run.is_stopping(), "{}: {error}", life.who);
            None
        }
    }
}

/// Connects from an address that nobody in this process has connected from.
fn connect(run: &Run, life: &SessionPlan) -> io::Result<(TcpStream, SocketAddrV4)> {
    static LAST: AtomicU32 = AtomicU32::new(0x7F01_0000);
    let address = Ipv4Addr::from_bits(LAST.fetch_add(1, SeqCst) + 1);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if life.small_buffers {
        socket.set_recv_buffer_size(4096)?;
        socket.set_send_buffer_size(4096)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddrV4::new(address, 0).into())?;
    socket.connect(&run.server.into())?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?.as_socket_ipv4().expect("what it was bound to");
    Ok((socket.into(), address))
}

/// A life in progress.
struct Actor<'a> {
    world: &'a World,
    run: &'a Run,
    stream: TcpStream,
    transcript: Transcript,
    voice: SendState,
    /// How many bytes it has sent, as the stop sees it.
    sent: Arc<AtomicU64>,
    mood: Behaviour,
    mood_number: u64,
    mood_ends: Instant,
    next_write: Instant,
    next_read: Instant,
    /// It makes no more lines.
    leaves: bool,
    /// It writes no more.
    mute: bool,
    /// A write has met a reset, which then is all that the client hears of it.
    reset: bool,
    /// When it must have seen the end.
    patience: Option<Instant>,
    chunk: Box<[u8]>,
}

impl<'a> Actor<'a> {
    fn new(
        world: &'a World,
        run: &'a Run,
        stream: TcpStream,
        transcript: Transcript,
        sent: Arc<AtomicU64>,
    ) -> Self {
        let (life, now) = (&transcript.life, Instant::now());
        let mood = life.mood(world, 0);
        Self {
            world,
            run,
            stream,
            voice: SendState::new(world, life),
            sent,
            mood,
            mood_number: 0,
            mood_ends: now + mood.lasts,
            next_write: now,
            next_read: now,
            leaves: false,
            mute: false,
            reset: false,
            patience: None,
            chunk: vec![0; CHUNK].into(),
            transcript,
        }
    }

    /// Acts until the connection has ended.
    fn act(mut self) -> Transcript {
        let ending = loop {
            self.change_mood();
            if self.is_time_to_leave() && self.leave() {
                break Ending::Abandoned;
            }
            if self.leaves && !self.mute && self.voice.is_quiet() {
                self.half_close();
            }
            let (events, timeout) = self.wishes();
            let ready = self.wait(events, timeout);
            if ready.contains(PollFlags::IN) {
                if let Some(ending) = self.read() {
                    break ending;
                }
            }
            if ready.contains(PollFlags::OUT) {
                self.write();
            }
        };
        self.transcript.end(ending);
        if ending != Ending::Abandoned {
            // Nobody waits for this: it does not know better than to keep the connection.
            thread::sleep(self.transcript.life.clings);
        }
        self.transcript
    }

    fn change_mood(&mut self) {
        let now = Instant::now();
        let is_late = self.patience.is_some_and(|patience| now > patience);
        assert!(!is_late, "no end: {}", self.transcript);
        if self.run.is_over() {
            self.patience.get_or_insert(now + PATIENCE);
            self.mood.reading = Reading::Eagerly;
            self.mood_ends = now + LOOK;
        }
        while now >= self.mood_ends {
            self.mood_number += 1;
            let reading = self.mood.reading;
            self.mood = self.transcript.life.mood(self.world, self.mood_number);
            if reading == Reading::NothingEver {
                self.mood.reading = reading;
            }
            self.mood_ends += self.mood.lasts;
        }
    }

    fn is_time_to_leave(&self) -> bool {
        let Transcript { life, began, .. } = &self.transcript;
        !self.leaves && life.span.is_some_and(|span| began.elapsed() >= span)
    }

    /// Does what its end begins with; true if that is the end already.
    fn leave(&mut self) -> bool {
        self.leaves = true;
        let end = self.transcript.life.end;
        if let End::HalfClose | End::UnterminatedLine = end {
            self.voice.finish(end == End::UnterminatedLine);
            return false;
        }
        self.transcript.parted = Some(Instant::now());
        if end == End::Reset {
            let linger = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
            linger.expect("an option");
        }
        true
    }

    fn half_close(&mut self) {
        self.transcript.parted = Some(Instant::now());
        // Fails if the connection is gone, which reading will tell.
        self.transcript.half_closed = self.stream.shutdown(Shutdown::Write).is_ok();
        self.mute = true;
    }

    /// What it waits for now, and how long at most.
    fn wishes(&mut self) -> (PollFlags, Duration) {
        let now = Instant::now();
        let mut until = (now + LOOK).min(self.mood_ends);
        if let Some(span) = self.transcript.life.span.filter(|_| !self.leaves) {
            until = until.min(self.transcript.began + span);
        }
        let mut events = PollFlags::empty();
        let soonest = |until: Instant, next| if next > now { until.min(next) } else { until };
        if !matches!(self.mood.reading, Reading::Nothing | Reading::NothingEver) {
            events.set(PollFlags::IN, now >= self.next_read);
            until = soonest(until, self.next_read);
        }
        if !self.mute && (self.leaves || self.mood.writing != Writing::Nothing) {
            if self.voice.is_quiet() && !self.leaves {
                let packet = self.voice.go_on(self.world, &self.transcript.life);
                self.transcript.packets.extend(packet);
            }
            events.set(PollFlags::OUT, !self.voice.is_quiet() && now >= self.next_write);
            until = soonest(until, self.next_write);
        }
        (events, until.saturating_duration_since(now))
    }

    /// Waits for the stream, if for anything of it, and for the time. An error or an end is
    /// something to be read, and to be met by a write, too.
    fn wait(&self, events: PollFlags, timeout: Duration) -> PollFlags {
        let timeout = Timespec::try_from(timeout).expect("a short time");
        let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), events)];
        let asked = if events.is_empty() { &mut [] } else { &mut fds[..] };
        match poll(asked, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => PollFlags::empty(),
            Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => events,
            Ok(_) => fds[0].revents(),
            Err(error) => panic!("{}: {error}", self.transcript.life.who),
        }
    }

    fn write(&mut self) {
        let pause = match self.mood.writing {
            Writing::Packets | Writing::Nothing => Duration::ZERO,
            Writing::Lines => PACE,
            Writing::Bytes => PACE / 5,
        };
        self.next_write = Instant::now() + pause;
        match self.stream.write(self.voice.next(self.mood.writing)) {
            Ok(count) => {
                self.transcript.say(self.voice.advance(count));
                self.sent.store(self.transcript.bytes_sent, SeqCst);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => {}
                ErrorKind::ConnectionReset => (self.mute, self.reset) = (true, true),
                ErrorKind::BrokenPipe => self.mute = true,
                _ => panic!("{}: {error}", self.transcript.life.who),
            },
        }
    }

    /// Reads something; the end, if that is it.
    fn read(&mut self) -> Option<Ending> {
        let (most, pause) = match self.mood.reading {
            Reading::Sips => (SIP, PACE),
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
                _ => panic!("{}: {error}", self.transcript.life.who),
            },
        }
    }
}
