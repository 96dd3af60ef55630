//! Many clients, driven by one thread: each sends and reads by its plan, hostile or not, and notes
//! what it got. No client waits for another.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use socket2::{Domain, Socket, Type};

use crate::common::TEST_TIMEOUT;

/// How many bytes a client reads at a time.
const CHUNK: usize = 128 * 1024;

/// How often clients that read at a rate get their turn.
const TICK: Duration = Duration::from_millis(10);

/// How long the leftovers of a connection may take once the attack is over.
const END_TIMEOUT: Duration = Duration::from_secs(360);

/// What a client sends.
#[derive(Clone, Debug)]
pub enum Sending {
    Nothing,
    /// These lines, once.
    Once(Arc<Vec<u8>>),
    /// These lines, over and over.
    Forever(Arc<Vec<u8>>),
    /// Numbered lines to a list of names, each with this much padding.
    Numbered {
        to: String,
        padding: usize,
    },
}

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    Nothing,
    Everything,
    /// Everything for a while, then at most this many bytes a second, however much there is.
    Rate {
        fast_for: Duration,
        bytes_per_second: u64,
    },
}

/// The size of a receive buffer, in bytes as asked for: the kernel doubles it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Buffer {
    /// The kernel's choice, which grows with what is read.
    Automatic,
    Bytes(usize),
    /// Beyond the limit for everybody, where this is permitted.
    Forced(usize),
}

/// What a client is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    pub sending: Sending,
    pub reading: Reading,
    pub buffer: Buffer,
    /// The largest segment that it accepts, in bytes.
    pub segment: Option<u32>,
    /// How much its kernel takes of what it sends, in bytes; the kernel's choice grows to megabytes.
    pub send_buffer: Option<usize>,
}

impl Plan {
    pub fn new(name: impl Into<String>, sending: Sending, reading: Reading) -> Self {
        let (name, buffer) = (name.into(), Buffer::Automatic);
        Self { name, sending, reading, buffer, segment: None, send_buffer: None }
    }

    pub fn with_buffer(self, buffer: Buffer) -> Self {
        Self { buffer, ..self }
    }

    pub fn with_segment(self, segment: u32) -> Self {
        Self { segment: Some(segment), ..self }
    }

    pub fn with_send_buffer(self, bytes: usize) -> Self {
        Self { send_buffer: Some(bytes), ..self }
    }

    /// Connects with this plan's socket options.
    pub fn connect(&self, server: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        match self.buffer {
            Buffer::Automatic => {}
            Buffer::Bytes(bytes) => socket.set_recv_buffer_size(bytes)?,
            Buffer::Forced(bytes) => {
                if sockopt::set_socket_recv_buffer_size_force(&socket, bytes).is_err() {
                    socket.set_recv_buffer_size(bytes)?;
                }
            }
        }
        if let Some(segment) = self.segment {
            socket.set_tcp_mss(segment)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        socket.connect(&server.into())?;
        Ok(socket.into())
    }
}

/// How a connection ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Clean,
    Reset,
}

/// What a client got.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub bytes: u64,
    pub messages: u64,
    /// Replies to lines of its own.
    pub replies: u64,
    /// The number in the closing notice.
    pub accepted: Option<u64>,
    /// The error that closed the connection.
    pub error: Option<String>,
    /// The first message that was not the next one of its sender.
    pub fault: Option<String>,
    /// The number that comes next in each stream of numbered messages.
    next: HashMap<Vec<u8>, u64>,
    partial: Vec<u8>,
}

impl Received {
    pub fn feed(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if !self.partial.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.partial.extend_from_slice(bytes);
                return;
            };
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&bytes[..end]);
            self.line(&line);
            bytes = &bytes[end + 1..];
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            self.line(&bytes[start..end]);
            start = end + 1;
        }
        self.partial.extend_from_slice(&bytes[start..]);
    }

    fn line(&mut self, line: &[u8]) {
        if let Some(message) = line.strip_prefix(b"from ") {
            self.messages += 1;
            self.message(message);
        } else if let Some(rest) = line.strip_prefix(b"notice: server is shutting down, ") {
            let number = rest.split(|byte| *byte == b' ').next();
            let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
            self.accepted = Some(number.expect("a number in the closing notice"));
        } else if line.starts_with(b"error: line ") || line.starts_with(b"notice: line ") {
            self.replies += 1;
        } else {
            self.error = Some(String::from_utf8_lossy(line).into_owned());
        }
    }

    /// Of messages that begin with `#` and a number each sender's come in order, without a gap.
    fn message(&mut self, message: &[u8]) {
        let Some(colon) = memchr::memchr(b':', message) else { return };
        let (sender, text) = (&message[..colon], &message[colon + 1..]);
        let Some(text) = text.strip_prefix(b" #") else { return };
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        if !self.next.contains_key(sender) {
            self.next.insert(sender.to_vec(), 0);
        }
        let next = self.next.get_mut(sender).expect("inserted");
        if number == *next {
            *next += 1;
        } else {
            let sender = String::from_utf8_lossy(sender);
            let fault = format!("number {number} of {sender} instead of {next}");
            self.fault.get_or_insert(fault);
        }
    }
}

/// A client, during the attack and after it.
pub struct Member {
    pub name: String,
    pub address: SocketAddr,
    /// Complete lines sent after the login line.
    pub lines_sent: u64,
    pub received: Received,
    /// How the connection ended, once it has.
    pub end: Option<End>,
    stream: Option<TcpStream>,
    sending: Sending,
    reading: Reading,
    /// What is sent next, from this position on.
    packet: Arc<Vec<u8>>,
    position: usize,
    /// The number of the next numbered line.
    number: u64,
    cannot_write: bool,
    reading_since: Option<Instant>,
    /// Whether what it may read now is limited: the clock may have moved on by the time it reads.
    is_at_rate: bool,
    read_at_rate: u64,
}

impl fmt::Debug for Member {
    /// Leaves out what it sends, which may be much.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, address, lines_sent, received, end, .. } = self;
        let mut text = f.debug_struct("Member");
        text.field("name", name).field("address", address).field("lines_sent", lines_sent);
        text.field("received", received).field("end", end).finish_non_exhaustive()
    }
}

impl Member {
    fn new(plan: Plan, server: SocketAddr) -> Self {
        let stream = plan.connect(server).expect("a listening server");
        let address = stream.local_addr().expect("an address");
        stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
        let login = format!("{0}\n/who {0}\n", plan.name);
        (&stream).write_all(login.as_bytes()).expect("a server that reads");
        Self {
            name: plan.name,
            address,
            lines_sent: 1,
            received: Received::default(),
            end: None,
            stream: Some(stream),
            sending: plan.sending,
            reading: plan.reading,
            packet: Arc::default(),
            position: 0,
            number: 0,
            cannot_write: false,
            reading_since: None,
            is_at_rate: false,
            read_at_rate: 0,
        }
    }

    /// Waits for the answer to the login.
    fn log_in(&mut self) -> io::Result<()> {
        let mut stream = self.stream.as_ref().expect("connected");
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte)?;
            self.received.feed(&byte);
        }
        match &self.received.error {
            None => stream.set_nonblocking(true),
            Some(error) => Err(io::Error::other(format!("{}: {error}", self.name))),
        }
    }

    /// Whether it has bytes to send; `quiet` is for no more than the line that it is in.
    fn has_output(&mut self, quiet: bool) -> bool {
        if self.cannot_write || self.stream.is_none() {
            return false;
        }
        if self.position < self.packet.len() {
            return !quiet || self.position > 0 && self.packet[self.position - 1] != b'\n';
        }
        if quiet || matches!(self.sending, Sending::Nothing) {
            return false;
        }
        self.position = 0;
        match &self.sending {
            Sending::Nothing => {}
            Sending::Once(bytes) => {
                self.packet = Arc::clone(bytes);
                self.sending = Sending::Nothing;
            }
            Sending::Forever(bytes) => self.packet = Arc::clone(bytes),
            Sending::Numbered { to, padding } => {
                let lines = (self.number..self.number + 50)
                    .map(|number| format!("{to}: #{number} {:x<padding$}\n", ""));
                self.packet = Arc::new(lines.collect::<String>().into_bytes());
                self.number += 50;
            }
        }
        true
    }

    fn write(&mut self, quiet: bool) {
        let mut rest = &self.packet[self.position..];
        if quiet {
            // No further than the end of the line.
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            rest = &rest[..end];
        }
        match self.stream.as_ref().expect("a connection").write(rest) {
            Ok(count) => {
                self.lines_sent += memchr::memchr_iter(b'\n', &rest[..count]).count() as u64;
                self.position += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // What there is to read says how it ended.
            Err(_) => self.cannot_write = true,
        }
    }

    /// How much may be read now.
    fn allowance(&mut self, eager: bool) -> usize {
        if eager {
            return CHUNK;
        }
        match self.reading {
            Reading::Nothing => 0,
            Reading::Everything => CHUNK,
            Reading::Rate { fast_for, bytes_per_second } => {
                let since = *self.reading_since.get_or_insert_with(Instant::now);
                let Some(time) = since.elapsed().checked_sub(fast_for) else { return CHUNK };
                self.is_at_rate = true;
                let wanted = u128::from(bytes_per_second) * time.as_millis() / 1000;
                let allowed = wanted.saturating_sub(u128::from(self.read_at_rate));
                usize::try_from(allowed).unwrap_or(CHUNK).min(CHUNK)
            }
        }
    }

    fn read(&mut self, chunk: &mut [u8]) {
        let Some(mut stream) = self.stream.as_ref() else { return };
        match stream.read(chunk) {
            Ok(0) => self.finish(End::Clean),
            Ok(count) => {
                self.received.feed(&chunk[..count]);
                if self.is_at_rate {
                    self.read_at_rate += count as u64;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.finish(End::Reset),
        }
    }

    fn finish(&mut self, end: End) {
        self.end = Some(end);
        self.stream = None;
    }
}

/// Clients that are attacking, or are attacked.
pub struct Crowd {
    control: Arc<Control>,
    thread: JoinHandle<Vec<Member>>,
    addresses: Vec<SocketAddr>,
}

#[derive(Default)]
struct Control {
    quiet: AtomicBool,
    eager: AtomicBool,
    half_close: AtomicBool,
    finish: AtomicBool,
    /// Messages that all of them have got.
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Crowd {
    /// Logs in all clients and lets them act.
    pub fn start(server: SocketAddr, plans: impl IntoIterator<Item = Plan>) -> Self {
        Self::of(log_in(server, plans))
    }

    /// Lets clients act that are logged in.
    pub fn of(members: Vec<Member>) -> Self {
        let control = Arc::new(Control::default());
        let shared = Arc::clone(&control);
        let addresses = members.iter().map(|member| member.address).collect();
        let thread = thread::spawn(move || drive(members, &shared));
        Self { control, thread, addresses }
    }

    /// The clients' addresses, in the order of their plans.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Lets all of them send no more than the line that they are in.
    pub fn hush(&self) {
        self.control.quiet.store(true, SeqCst);
    }

    /// Lets all of them read everything.
    pub fn read_everything(&self) {
        self.control.eager.store(true, SeqCst);
    }

    /// Lets all of them close their side when they are quiet.
    pub fn half_close(&self) {
        self.hush();
        self.control.half_close.store(true, SeqCst);
    }

    /// How many messages and bytes they got.
    pub fn received(&self) -> (u64, u64) {
        (self.control.messages.load(SeqCst), self.control.bytes.load(SeqCst))
    }

    /// Reads what is left of each connection, to its end, and returns the clients. Their server has
    /// ended, or is about to.
    pub fn finish(self) -> Vec<Member> {
        self.control.finish.store(true, SeqCst);
        self.thread.join().expect("clients that end with their server")
    }
}

/// Logs in clients in this order; each waits for its answer.
pub fn log_in(server: SocketAddr, plans: impl IntoIterator<Item = Plan>) -> Vec<Member> {
    try_log_in(server, plans).expect("all of them in")
}

/// The same, if each of them is let in.
pub fn try_log_in(
    server: SocketAddr,
    plans: impl IntoIterator<Item = Plan>,
) -> io::Result<Vec<Member>> {
    let mut members: Vec<_> = plans.into_iter().map(|plan| Member::new(plan, server)).collect();
    members.iter_mut().try_for_each(Member::log_in)?;
    Ok(members)
}

/// The thread of a crowd.
fn drive(mut members: Vec<Member>, control: &Control) -> Vec<Member> {
    let mut chunk = vec![0; CHUNK];
    let mut deadline = None;
    loop {
        let quiet = control.quiet.load(SeqCst);
        let finish = control.finish.load(SeqCst);
        let eager = control.eager.load(SeqCst) || finish;
        if finish {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + END_TIMEOUT);
            if members.iter().all(|member| member.end.is_some()) {
                return members;
            }
            assert!(Instant::now() < deadline, "connections that do not end with their server");
        }
        if control.half_close.load(SeqCst) {
            for member in &mut members {
                if !member.cannot_write && !member.has_output(true) {
                    member.cannot_write = true;
                    if let Some(stream) = &member.stream {
                        let _ = stream.shutdown(Shutdown::Write);
                    }
                }
            }
        }
        turn(&mut members, quiet || finish, eager, &mut chunk);
        let sum = |part: fn(&Member) -> u64| members.iter().map(part).sum();
        control.messages.store(sum(|member| member.received.messages), SeqCst);
        control.bytes.store(sum(|member| member.received.bytes), SeqCst);
    }
}

/// Waits for some of the sockets, or a tick, and lets each ready one read and write once.
fn turn(members: &mut [Member], quiet: bool, eager: bool, chunk: &mut [u8]) {
    let wishes = members.iter_mut().map(|member| {
        let mut events = PollFlags::empty();
        let allowance = member.allowance(eager);
        events.set(PollFlags::IN, allowance > 0);
        events.set(PollFlags::OUT, member.has_output(quiet));
        (events, allowance)
    });
    let wishes: Vec<_> = wishes.collect();
    let mut fds = Vec::with_capacity(members.len());
    let mut indices = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        if let Some(stream) = member.stream.as_ref().filter(|_| !wishes[index].0.is_empty()) {
            fds.push(PollFd::from_borrowed_fd(stream.as_fd(), wishes[index].0));
            indices.push(index);
        }
    }
    let tick = Timespec::try_from(TICK).expect("a short time");
    let ready = poll(&mut fds, Some(&tick)).unwrap_or(0);
    if ready == 0 {
        return;
    }
    let found: Vec<_> = fds.iter().map(PollFd::revents).collect();
    let found = indices.into_iter().zip(found).filter(|(_, revents)| !revents.is_empty());
    for (index, revents) in found {
        let (wanted, allowance) = wishes[index];
        let member = &mut members[index];
        let failed = revents.intersects(PollFlags::ERR | PollFlags::HUP);
        if wanted.contains(PollFlags::IN) && (revents.contains(PollFlags::IN) || failed) {
            member.read(&mut chunk[..allowance]);
        }
        let writable = revents.contains(PollFlags::OUT) || failed;
        if wanted.contains(PollFlags::OUT) && writable && member.stream.is_some() {
            member.write(quiet);
        }
    }
    let at_rate = members.iter().any(|member| matches!(member.reading, Reading::Rate { .. }));
    if at_rate && !eager {
        // Reading each byte as soon as it is allowed would only keep the machine busy.
        thread::sleep(TICK / 2);
    }
}
