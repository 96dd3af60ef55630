//! Clients to clients: whatever some clients send, in whatever pieces, each of them gets what it
//! has to get, and the report agrees.
//!
//! An input says in its first byte how it is run: in step, where the server has taken each step
//! before the next one comes, so that a model knows all that each client gets; or at large, where
//! nothing is waited for and the stop comes while the server works.

mod concurrent;
mod lockstep;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Config, Error, Report, Server, ShutdownHandle, Stats, StatsHandle};

/// From here on this one of the clients speaks.
const SPEAKERS: [u8; 4] = [0xF8, 0xF9, 0xFA, 0xFB];

/// The client half-closes.
const LEAVE: u8 = 0xFC;

/// The server is stopped.
const STOP: u8 = 0xFD;

/// How much of an input is used, in bytes. All that it can lead to fits into the sockets' buffers,
/// so that clients can write first and read at the end.
const INPUT: usize = 4096;

/// How long is waited for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Checks a whole server: the first byte of the input is how it is run, the others are the steps.
///
/// # Panics
///
/// If a client gets anything else than it has to get, or if the report does not agree with that.
pub fn relay(input: &[u8]) {
    let Some((&mode, input)) = input.split_first() else { return };
    let input = &input[..input.len().min(INPUT)];
    let config = Config {
        // A line needs more than the smallest window, and passes it alone.
        window: [1, 1000, 5000, 256 * 1024][usize::from((mode >> 1) & 3)],
        max_line: [40, 100, 1000, 64 * 1024][usize::from((mode >> 3) & 3)],
        // None of these is ever reached by a client that does what it has to do.
        login_timeout: PATIENCE,
        stall_timeout: PATIENCE,
        drain_timeout: PATIENCE,
        linger: PATIENCE,
        ..Config::default()
    };
    if mode & 1 == 0 {
        lockstep::run(config, input);
    } else {
        concurrent::run(config, input);
    }
}

/// A server that runs in this process; dropped, it is forced to end.
struct Running {
    address: SocketAddr,
    handle: ShutdownHandle,
    stats: StatsHandle,
    thread: Option<JoinHandle<Result<Report, Error>>>,
}

impl Running {
    fn start(config: Config) -> Self {
        let server = Server::bind("127.0.0.1:0", config).expect("a free port");
        let (address, handle) = (server.local_addr(), server.shutdown_handle());
        let (stats, thread) = (server.stats_handle(), thread::spawn(|| server.run()));
        Self { address, handle, stats, thread: Some(thread) }
    }

    fn wait_until(&self, condition: impl Fn(&Stats) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.stats.read()) {
            assert!(Instant::now() < deadline, "waited too long: {:?}", self.stats.read());
            thread::yield_now();
        }
    }

    /// The report of a server that was stopped and whose clients have read everything.
    fn report(mut self) -> Report {
        let thread = self.thread.take().expect("joined once");
        let report = thread.join().expect("no panic").expect("no error");
        assert_eq!((report.lost(), report.forced), (0, false), "{report}");
        assert_eq!(report.owed, report.delivered, "{report}");
        report
    }
}

impl Drop for Running {
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
    fn connect(server: &Running) -> Self {
        let stream = TcpStream::connect(server.address).expect("a listening server");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self(stream)
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all(data)
    }

    fn leave(&self) -> std::io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    /// All lines up to a clean end, none of them torn; `None` if the connection was reset.
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
