//! A server on a free port, and clients that wait for events, never for time to pass. Every wait has
//! a deadline, which only a failure reaches.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

pub mod bystanders;
pub mod link;
pub mod population;
pub mod rounds;
pub mod script;
pub mod stream;
pub mod wire;
#[cfg(feature = "tls")]
pub mod tls;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use a_chat::{Config, Error, Report, ShutdownHandle, Stats, StatsHandle};

use self::wire::{Transport, Wire, transport};

/// How long a test waits for an event that must happen.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A server that runs in this process; dropping it forces it to shut down.
pub struct TestServer {
    pub address: SocketAddr,
    pub handle: ShutdownHandle,
    stats: StatsHandle,
    thread: Option<JoinHandle<Result<Report, Error>>>,
}

impl TestServer {
    /// A server with the default config, except for a short linger time: in most tests the clients
    /// close only after the report.
    pub fn start() -> Self {
        Self::with(Config::default().linger(Duration::from_millis(100)))
    }

    pub fn with(config: Config) -> Self {
        Self::of(wire::bind(config))
    }

    /// Runs a server that a test has bound by itself.
    pub fn of(server: a_chat::Server) -> Self {
        let (address, handle) = (server.local_addr(), server.shutdown_handle());
        let stats = server.stats_handle();
        let thread = std::thread::Builder::new()
            .name("server".to_owned())
            .spawn(|| server.run())
            .expect("a thread");
        Self { address, handle, stats, thread: Some(thread) }
    }

    pub fn stats(&self) -> Stats {
        self.stats.read()
    }

    pub fn stats_handle(&self) -> StatsHandle {
        self.stats.clone()
    }

    /// Connects, logs in, and returns once the broker knows the name. It counts, so nobody may leave
    /// meanwhile.
    pub fn login(&self, name: &str) -> Client {
        let before = self.stats().connected;
        let mut client = Client::connect(self.address);
        client.send(name);
        wait_until("the login", || self.stats().connected > before);
        client
    }

    /// As [`login`](Self::login), for a client whose kernel buffers next to nothing for it.
    pub fn login_with_small_buffers(&self, name: &str) -> Client {
        let before = self.stats().connected;
        let mut client = Client::connect_with_small_buffers(self.address, None);
        client.send(name);
        wait_until("the login", || self.stats().connected > before);
        client
    }

    /// Sends `line` over and over until the sender's window, of the default size, and every buffer on
    /// the way are full, since its recipient reads nothing. Returns the number of bytes sent.
    pub fn fill_window(&self, sender: &Client, line: &str) -> u64 {
        // A batch may be half a window, and waits until there is room for all of it.
        let is_full = || self.stats().queued_bytes > 100 * 1024;
        send_until_full(&sender.stream, line.as_bytes(), is_full)
    }

    /// Shuts the server down and waits for the report.
    pub fn stop(mut self) -> Report {
        self.handle.shutdown();
        self.join()
    }

    /// Shuts the server down, expects that each client gets only its closing notice, with this
    /// number of accepted lines, and waits for the report.
    ///
    /// It closes the clients on the way, so the server does not wait for the linger time.
    pub fn stop_with(self, clients: impl IntoIterator<Item = (Client, u64)>) -> Report {
        self.handle.shutdown();
        for (mut client, accepted) in clients {
            client.expect_line(&format!(
                "notice: server is shutting down, {accepted} of your lines were accepted"
            ));
            client.expect_eof();
        }
        self.stop()
    }

    /// Waits for the report of a server that is shut down elsewhere.
    pub fn join(&mut self) -> Report {
        self.join_within(TEST_TIMEOUT)
    }

    pub fn join_within(&mut self, timeout: Duration) -> Report {
        let deadline = Instant::now() + timeout;
        self.join_while(|_| Instant::now() < deadline)
    }

    /// Waits for the report as long as `may_wait` allows.
    pub fn join_while(&mut self, mut may_wait: impl FnMut(&Self) -> bool) -> Report {
        const TIME_WAIT: &str = "06";
        let thread = self.thread.take().expect("joined once");
        while !thread.is_finished() {
            let is_open =
                |entry: &TableEntry| entry.local == self.address && entry.state != TIME_WAIT;
            assert!(
                may_wait(self),
                "the server does not end: {:?}, {:#?}",
                self.stats(),
                table().into_iter().filter(is_open).collect::<Vec<_>>()
            );
            std::thread::sleep(LOOK_AGAIN);
        }
        let report = thread.join().expect("no panic").expect("no error");
        let (arrived, elsewhere) = between_nodes(&report);
        assert_eq!(report.owed + arrived, report.delivered + report.lost() + elsewhere, "{report}");
        report
    }
}

/// What came from other nodes, and what went to them.
#[cfg(feature = "cluster")]
fn between_nodes(report: &Report) -> (u64, u64) {
    let node = report.cluster.as_ref();
    node.map_or((0, 0), |it| (it.arrived, it.handed_over + it.in_doubt))
}

#[cfg(not(feature = "cluster"))]
fn between_nodes(_: &Report) -> (u64, u64) {
    (0, 0)
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.force();
            let _ = thread.join();
        }
    }
}

/// A client that reads line by line and times out after [`TEST_TIMEOUT`].
pub struct Client {
    pub stream: Wire,
    input: BufReader<Wire>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::from_stream(Wire::connect(address).expect("a listening server"))
    }

    /// Connects a client whose small buffers make the server queue soon if it does not read. With a
    /// small `segment`, in bytes, its data also arrives in portions, as over a network.
    ///
    /// A Unix socket has no such buffers: it is the server's that hold what was written.
    pub fn connect_with_small_buffers(address: SocketAddr, segment: Option<u32>) -> Self {
        if transport() == Transport::Unix {
            return Self::connect(address);
        }
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a descriptor");
        socket.set_recv_buffer_size(4096).expect("an option");
        socket.set_send_buffer_size(4096).expect("an option");
        if let Some(segment) = segment {
            socket.set_tcp_mss(segment).expect("an option");
        }
        socket.connect(&address.into()).expect("a listening server");
        Self::from_stream(std::net::TcpStream::from(socket))
    }

    pub fn from_stream(stream: impl Into<Wire>) -> Self {
        let stream = stream.into();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
        stream.set_write_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
        if !matches!(stream, Wire::Unix(_)) {
            stream.tcp().set_nodelay(true).expect("an option");
        }
        let input = BufReader::new(stream.try_clone().expect("a descriptor"));
        Self { stream, input }
    }

    /// Sends a line.
    pub fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("a server that reads");
    }

    /// Sends this recipient numbered messages of 1,000 bytes: 200 are more than the kernels hold for one
    /// with small buffers, and less than the sender's window.
    ///
    /// In one piece, since the time until the recipient is evicted begins with the first of them.
    pub fn fill(&mut self, recipient: &str, lines: u64) {
        let line = |line| format!("{recipient}: {line} {}\n", "x".repeat(1000));
        self.send_bytes((1..=lines).map(line).collect::<String>().as_bytes());
    }

    /// The next line without its line end; `None` at the end of the stream.
    pub fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line).expect("a line or the end in time, no reset");
        let line = String::from_utf8(line).expect("the server writes UTF-8");
        assert!(line.is_empty() || line.ends_with('\n'), "unterminated line: {line:?}");
        (!line.is_empty()).then(|| line.trim_end_matches('\n').to_owned())
    }

    pub fn expect_line(&mut self, expected: &str) {
        assert_eq!(self.line().as_deref(), Some(expected));
    }

    /// Expects a reply. What the server says of lost lines, which comes at any time, is skipped.
    pub fn expect_reply(&mut self, expected: &str) {
        assert_eq!(self.reply().as_deref(), Some(expected));
    }

    /// The next line that tells of no lost lines.
    pub fn reply(&mut self) -> Option<String> {
        loop {
            let line = self.line();
            if !line.as_ref().is_some_and(|line| line.contains(" lost on the way to ")) {
                return line;
            }
        }
    }

    pub fn expect_lines(&mut self, expected: &[&str]) {
        for line in expected {
            self.expect_line(line);
        }
    }

    /// Expects a clean end of file, with nothing before it.
    pub fn expect_eof(&mut self) {
        assert_eq!(self.line(), None);
    }

    /// All lines up to a clean end of file.
    pub fn lines_to_eof(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line()).collect()
    }

    /// Waits for the connection's end, clean or not, and returns the bytes before it.
    pub fn drain(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.input.read_to_end(&mut bytes) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => bytes,
        }
    }

    /// The bytes that have arrived so far on a connection that is still open.
    pub fn arrived(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream.set_nonblocking(true).expect("an option");
        let end = self.input.read_to_end(&mut bytes).expect_err("an open connection");
        assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).expect("an option");
        bytes
    }

    /// Half-closes: the client leaves, but can still read.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("an open connection");
    }

    /// Leaves for good, before what follows. Dropping the client may not: a process that another test
    /// spawns has a copy of its descriptor until it runs its own program. What the server writes
    /// meanwhile would then be reset, and with it a message that was read here, but not acknowledged yet.
    pub fn leave(self) {
        // The server may have ended the connection.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Resets the connection. Over a Unix socket it is merely closed, with its input unread.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
    }
}

/// The error that a client gets when the server is full.
pub const SERVER_FULL: &str = "error: server is full";

/// Connects, logs in, and waits for the reply. Returns `None` if the server is full; it must then
/// say so and close the connection.
pub fn try_login(address: SocketAddr, name: &str) -> Option<Client> {
    let mut client = Client::connect(address);
    client.send(&format!("{name}\n/who {name}"));
    let reply = client.line().expect("a reply");
    if reply == SERVER_FULL {
        client.expect_eof();
        return None;
    }
    assert_eq!(reply, format!("notice: line 1: here: {name}"));
    Some(client)
}

/// Retries until there is room; returns the client and how often it was refused.
pub fn login_when_there_is_room(address: SocketAddr, name: &str) -> (Client, u64) {
    let (mut client, mut refused) = (None, 0);
    wait_until("room", || {
        client = try_login(address, name);
        refused += u64::from(client.is_none());
        client.is_some()
    });
    (client.expect("waited for"), refused)
}

/// How long to wait before something is looked at again: all the CPU time there is belongs to what is
/// waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Waits until `condition` holds, where no descriptor or channel signals it.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Prints why a test, or part of one, cannot run here. It bypasses the test harness, which would
/// capture the message.
pub fn skipped(why: &str) {
    let _ = writeln!(io::stderr(), "skipped: {why}");
}

/// How many threads this process has.
pub fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").expect("procfs").count()
}

/// How many descriptors this process has open.
pub fn descriptor_count() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// Sends `lines` over and over until no more is accepted for a while, because the server has stopped
/// reading and every buffer in between is full. Returns the number of bytes sent.
pub fn send_until_blocked(stream: &Wire, lines: &[u8]) -> u64 {
    send_until_full(stream, lines, || true)
}

/// As [`send_until_blocked`], and until `is_full` holds: a server that has not run for a while accepts
/// no more either, and goes on later.
pub fn send_until_full(stream: &Wire, lines: &[u8], is_full: impl Fn() -> bool) -> u64 {
    let deadline = Instant::now() + TEST_TIMEOUT;
    let timeout = stream.write_timeout().expect("an option");
    // The timeout need not be exact: if the server resumes later, the caller has only sent less.
    stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let mut sent = 0;
    loop {
        let skip = usize::try_from(sent).expect("memory is smaller") % lines.len();
        let mut stream = stream;
        match stream.write(&lines[skip..]) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if is_full() {
                    break;
                }
                assert!(Instant::now() < deadline, "waited too long for full buffers");
            }
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_write_timeout(timeout).expect("a timeout");
    sent
}

/// How many sent bytes the other side's kernel has not acknowledged.
///
/// Over a Unix socket, none: a write puts them into the other side's receive queue.
pub fn unacknowledged(stream: &Wire) -> u64 {
    if matches!(stream, Wire::Unix(_)) {
        return 0;
    }
    let local = stream.local_addr().expect("an address");
    unacknowledged_between(local, stream.peer_addr().expect("a connection"))
}

/// The same for two endpoints, the first of which is on the calling thread's host.
pub fn unacknowledged_between(local: SocketAddr, remote: SocketAddr) -> u64 {
    // Reading the table may miss an entry while others come and go.
    let entry = (0..100).find_map(|_| table_entry(local, remote));
    entry.expect("the connection is in the table").unacknowledged
}

/// Whether the other side has sent a FIN that this side's kernel has not yet acknowledged.
/// Over a Unix socket, whether it has closed its sending side.
pub fn fin_in_flight(stream: &Wire) -> bool {
    const FIN_WAIT1: &str = "04";
    if matches!(stream, Wire::Unix(_)) {
        let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
        return poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    }
    let local = stream.local_addr().expect("an address");
    let remote = stream.peer_addr().expect("a connection");
    table_entry(remote, local).is_some_and(|entry| entry.state == FIN_WAIT1)
}

/// One endpoint of a connection, as listed in the kernel's table.
#[derive(Debug)]
pub struct TableEntry {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: String,
    /// How many of its sent bytes are not acknowledged.
    pub unacknowledged: u64,
}

/// An endpoint is found by both addresses, since one alone may belong to several connections.
fn table_entry(local: SocketAddr, remote: SocketAddr) -> Option<TableEntry> {
    table().into_iter().find(|entry| (entry.local, entry.remote) == (local, remote))
}

/// The table of IPv4 connections of the calling thread's host, from proc(5).
pub fn table() -> Vec<TableEntry> {
    let address = |text: &str| {
        let (host, port) = text.split_once(':')?;
        let host = Ipv4Addr::from(u32::from_str_radix(host, 16).ok()?.to_ne_bytes());
        Some(SocketAddr::from((host, u16::from_str_radix(port, 16).ok()?)))
    };
    let entry = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, state, queues, ..] = fields[..] else { return None };
        let (unacknowledged, _) = queues.split_once(':')?;
        Some(TableEntry {
            local: address(local)?,
            remote: address(remote)?,
            state: state.to_owned(),
            unacknowledged: u64::from_str_radix(unacknowledged, 16).ok()?,
        })
    };
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("procfs");
    table.lines().filter_map(entry).collect()
}

/// Reads the rest of a stream.
pub fn read_to_end(mut stream: &Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    // The bytes received before a clean end or a reset are kept either way.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
