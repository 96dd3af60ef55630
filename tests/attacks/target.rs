//! The server under attack, a child process, and what is measured of it from outside.

use std::fmt::Debug;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::account::Account;
use crate::process::{EXECUTABLE, Process, serve_copy_through};

/// How long a server may take to end before a test gives it up, whatever bound is asserted.
const END_TIMEOUT: Duration = Duration::from_secs(360);

/// How often the server's memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// Whether the attacks run with the long form's parameters.
pub fn is_long() -> bool {
    std::env::var("ATTACKS").is_ok_and(|form| form == "long")
}

/// The short form's parameter or the long one's.
pub fn by_form<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Tries all cases, those after a failure too; fails if one of them did.
pub fn for_each<T: Copy + Debug>(cases: &[T], attack: impl Fn(T)) {
    let fails = |case: &&T| catch_unwind(AssertUnwindSafe(|| attack(**case))).is_err();
    let failed: Vec<_> = cases.iter().filter(fails).collect();
    assert!(failed.is_empty(), "failed, as reported above: {failed:?}");
}

/// Prints a figure, not through the test harness, which would keep it to itself.
pub fn figure(text: &str) {
    if is_long() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// The executable to attack.
pub fn executable() -> String {
    std::env::var("ATTACKS_EXECUTABLE").unwrap_or_else(|_| EXECUTABLE.to_owned())
}

/// Held by the attacks of this process: for writing, by one whose times are measured.
static MACHINE: RwLock<()> = RwLock::new(());

/// Has the machine to itself, as far as other attacks are concerned, until it is dropped.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Shares the machine with another attack.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// A running server.
pub struct Target {
    pub process: Process,
    pub address: SocketAddr,
}

impl Target {
    pub fn start(flags: &[&str]) -> Self {
        Self::start_through(&[], flags)
    }

    /// The same behind a launcher that takes the command as its last arguments.
    pub fn start_through(launcher: &[&str], flags: &[&str]) -> Self {
        Self::run(serve_copy_through(launcher, &executable(), flags))
    }

    pub fn run(command: Command) -> Self {
        raise_open_files();
        let mut process = Process::start(command);
        let address = process.address();
        Self { process, address }
    }

    /// The memory of the server that is resident now, in bytes.
    pub fn resident(&self) -> u64 {
        resident(self.process.pid.as_raw_pid())
    }

    /// Watches the server's memory from now on.
    pub fn watch_memory(&self) -> MemoryWatch {
        let pid = self.process.pid.as_raw_pid();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while !ended.load(SeqCst) {
                peak = peak.max(resident(pid));
                thread::sleep(SAMPLE_INTERVAL);
            }
            peak
        });
        MemoryWatch { end, thread }
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(self) -> Account {
        self.process.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the end of a server that was signalled just now.
    pub fn wait(self) -> Account {
        let signalled = Instant::now();
        while self.process.state() != 'Z' {
            let time = signalled.elapsed();
            assert!(time < END_TIMEOUT, "no end of the server in {time:?}");
            thread::sleep(Duration::from_millis(1));
        }
        let took = signalled.elapsed();
        let (status, log) = self.process.wait();
        Account::read(status, log, took)
    }
}

/// A thread that looks at the memory of a server again and again.
pub struct MemoryWatch {
    end: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl MemoryWatch {
    /// The most that was resident, in bytes.
    pub fn end(self) -> u64 {
        self.end.store(true, SeqCst);
        self.thread.join().expect("no panic")
    }
}

/// Cheaper than counting page by page, and off by some dozens of pages; 0 once the process is gone.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    // Pages of the executable are no client's cost, and a debug build has megabytes of them.
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let resident = resident.and_then(|size| size.trim().trim_end_matches(" kB").parse().ok());
    resident.unwrap_or(0) * 1024
}

/// Lets this process have a descriptor for each of thousands of clients.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum");
}
