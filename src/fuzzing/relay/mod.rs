//! Clients to clients: whatever clients send, in whatever pieces, each receives exactly what it
//! must, and the report agrees.
//!
//! The first byte of an input selects the mode: in lockstep, where the server has handled each step
//! before the next one and a model predicts everything; or concurrently, where shutdown comes while
//! the server works.

mod concurrent;
mod lockstep;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Config, Error, Report, Server, ShutdownHandle, Stats, StatsHandle};

/// From here on this client speaks.
const SPEAKERS: [u8; 4] = [0xF8, 0xF9, 0xFA, 0xFB];

/// The client half-closes.
const LEAVE: u8 = 0xFC;

/// The server is shut down.
const STOP: u8 = 0xFD;

/// The used part of an input, in bytes. Everything it can cause fits into the sockets' buffers, so
/// clients can write first and read at the end.
const INPUT: usize = 4096;

/// How long to wait for anything that must happen.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Checks a whole server: the first byte of the input selects the mode, the others are the steps.
///
/// # Panics
///
/// If a client receives anything but what it must, or the report disagrees.
pub fn relay(input: &[u8]) {
    let Some((&mode, input)) = input.split_first() else { return };
    let input = &input[..input.len().min(INPUT)];
    let config = Config {
        // A line larger than the smallest window passes it alone.
        window: [1, 1000, 5000, 256 * 1024][usize::from((mode >> 1) & 3)],
        max_line: [40, 100, 1000, 64 * 1024][usize::from((mode >> 3) & 3)],
        // A well-behaved client never reaches any of these.
        login_timeout: TIMEOUT,
        stall_timeout: TIMEOUT,
        drain_timeout: TIMEOUT,
        linger: TIMEOUT,
        ..Config::default()
    };
    if mode & 1 == 0 {
        lockstep::run(config, input);
    } else {
        concurrent::run(config, input);
    }
}

/// A server in this process; dropping it forces its end.
struct TestServer {
    address: SocketAddr,
    handle: ShutdownHandle,
    stats: StatsHandle,
    thread: Option<JoinHandle<Result<Report, Error>>>,
}

impl TestServer {
    fn start(config: Config) -> Self {
        let server = Server::bind("127.0.0.1:0", config).expect("a free port");
        let (address, handle) = (server.local_addr(), server.shutdown_handle());
        let (stats, thread) = (server.stats_handle(), thread::spawn(|| server.run()));
        Self { address, handle, stats, thread: Some(thread) }
    }

    fn wait_until(&self, condition: impl Fn(&Stats) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !condition(&self.stats.read()) {
            assert!(Instant::now() < deadline, "waited too long: {:?}", self.stats.read());
            thread::yield_now();
        }
    }

    /// The report of a server that was shut down and whose clients have read everything.
    fn report(mut self) -> Report {
        let thread = self.thread.take().expect("joined once");
        let report = thread.join().expect("no panic").expect("no error");
        assert_eq!((report.lost(), report.forced), (0, false), "{report}");
        assert_eq!(report.owed, report.delivered, "{report}");
        report
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.force();
            // The check has failed already.
            let _ = thread.join();
        }
    }
}

/// A client's socket.
struct Client(TcpStream);

impl Client {
    fn connect(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.address).expect("a listening server");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        stream.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self(stream)
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all(data)
    }

    fn leave(&self) -> std::io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// All lines up to a clean end, all of them complete; `None` if the connection was reset.
    fn read_to_end(mut self) -> Option<Vec<String>> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            read => read.expect("an end in time"),
        };
        let text = String::from_utf8(bytes).expect("the server writes UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "unterminated line: {text:?}");
        Some(text.split_terminator('\n').map(str::to_owned).collect())
    }
}
