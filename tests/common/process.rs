//! The real executable as a child process, server or client: its output is read line by line, it is
//! signalled, waited for with a deadline, and killed and reaped if a test fails.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::common::{Client, TEST_TIMEOUT, wait_until};

pub const EXECUTABLE: &str = env!("CARGO_BIN_EXE_a-chat");

/// The log line of the first shutdown signal.
pub const SIGNALLED: &str = "shutdown signal received, draining";

/// A running server or client; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The process itself, which differs from the child if a launcher stays in between.
    pub pid: Pid,
    /// A client's standard input; dropped to end it.
    pub stdin: Option<ChildStdin>,
    pub stdout: Lines,
    pub log: Lines,
}

impl Process {
    /// Starts a command from [`serve`], [`connect`] or the like.
    pub fn start(mut command: Command) -> Self {
        let mut process = Self::start_without_reading_stderr(&mut command);
        process.read_stderr();
        process
    }

    /// The same, but reads its standard output only a few lines ahead of the test; beyond that the
    /// process has to wait.
    pub fn start_with_bounded_stdout(mut command: Command) -> Self {
        let mut process = Self::start_with(&mut command, Some(16));
        process.read_stderr();
        process
    }

    /// Starts it without reading its standard error for now.
    pub fn start_without_reading_stderr(command: &mut Command) -> Self {
        Self::start_with(command, None)
    }

    fn start_with(command: &mut Command, ahead: Option<usize>) -> Self {
        let mut child = command.spawn().expect("an executable");
        let pid = Pid::from_child(&child);
        let stdin = child.stdin.take();
        let stdout = Lines::of(child.stdout.take(), ahead);
        Self { child, pid, stdin, stdout, log: Lines::of(None::<ChildStderr>, None) }
    }

    /// Starts reading its standard error.
    pub fn read_stderr(&mut self) {
        self.log = Lines::of(self.child.stderr.take(), None);
    }

    /// Its standard error, if it is not being read yet.
    pub fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("a stream that is taken once")
    }

    /// The address on which the server says it listens.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.stdout.expect("a-chat listens on ");
        let address = line.rsplit(' ').next().expect("a last word");
        address.parse().expect("an address")
    }

    /// Connects, logs in, and waits for the reply.
    pub fn login(&mut self, name: &str) -> Client {
        let mut client = Client::connect(self.address());
        client.send(&format!("{name}\n/who {name}"));
        client.expect_line(&format!("notice: line 1: here: {name}"));
        client
    }

    /// Writes to standard input.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("an open input");
        stdin.write_all(text.as_bytes()).expect("a process that reads");
    }

    /// Writes to standard input and closes it.
    pub fn write_and_end(&mut self, text: &str) {
        self.write(text);
        self.stdin = None;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("a process to signal");
    }

    /// Suspends the process, as `kill -STOP` does.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
        wait_until("the suspension", || self.state() == 'T');
    }

    /// Resumes a suspended process.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Suspends the process for this long, then resumes it.
    pub fn suspend_for(&self, time: Duration) {
        self.suspend();
        thread::sleep(time);
        self.resume();
    }

    /// Waits for the process to exit; returns its status and the complete log.
    pub fn wait(self) -> (i32, Vec<String>) {
        let (status, log) = self.wait_for_any_end();
        assert_eq!(status.signal(), None, "{log:#?}");
        (status.code().expect("no signal, so a status"), log)
    }

    /// The same, for a process that a signal may end.
    pub fn wait_for_any_end(mut self) -> (ExitStatus, Vec<String>) {
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty());
        let process = process.expect("a descriptor of the child");
        let timeout = Timespec::try_from(TEST_TIMEOUT).expect("not that long");
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout));
        assert_eq!(ended, Ok(1), "no exit in time; the log: {:#?}", self.log.seen);
        let status = self.child.wait().expect("a child that has exited");
        (status, self.log.take_to_end())
    }

    /// The same, with the lines of its standard output.
    pub fn outcome(mut self) -> (i32, Vec<String>, Vec<String>) {
        let stdout = self.stdout.take_to_end();
        let (status, stderr) = self.wait();
        (status, stdout, stderr)
    }

    /// The same, for a process that may go on for this long.
    pub fn outcome_within(mut self, time: Duration) -> (i32, Vec<String>, Vec<String>) {
        let deadline = Instant::now() + time;
        while let Ok(line) = self.stdout.source.recv_deadline(deadline) {
            self.stdout.seen.push(line);
        }
        self.outcome()
    }

    /// SIGTERM, then [`wait`](Self::wait).
    pub fn terminate(self) -> (i32, Vec<String>) {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// How many entries a directory of the process in procfs has, such as `fd` or `task`.
    pub fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.procfs(folder)).expect("procfs").count()
    }

    /// How many memory mappings the process has.
    pub fn mappings(&self) -> usize {
        fs::read_to_string(self.procfs("maps")).expect("procfs").lines().count()
    }

    /// The resident memory of the process, in bytes. Unlike `VmRSS`, which can be off by dozens of
    /// pages per CPU, this is counted page by page; see proc(5).
    pub fn resident(&self) -> u64 {
        let rollup = fs::read_to_string(self.procfs("smaps_rollup")).expect("procfs");
        let resident = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
        let resident = resident.expect("a field").trim().trim_end_matches(" kB");
        resident.parse::<u64>().expect("a number") * 1024
    }

    /// The state of the process: `R` if it runs, `T` if it is suspended; see proc(5).
    pub fn state(&self) -> char {
        self.stat()[0].chars().next().expect("a letter")
    }

    /// The CPU time of all threads of the process; see proc(5).
    pub fn cpu_time(&self) -> Duration {
        let fields = self.stat();
        let ticks = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number"));
        let ticks: u64 = ticks.sum();
        // Whatever its internal tick rate, Linux reports hundredths of a second to user space.
        Duration::from_millis(ticks * 10)
    }

    /// The fields of proc(5)'s `stat`, from the third one.
    fn stat(&self) -> Vec<String> {
        let stat = fs::read_to_string(self.procfs("stat")).expect("procfs");
        // The second one, the name in parentheses, may contain blanks.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        fields.split_whitespace().map(str::to_owned).collect()
    }

    /// The id of the thread with this name, once it has given itself that name: a new thread runs only
    /// some time after it was spawned.
    pub fn thread(&self, name: &str) -> u32 {
        let find = || {
            let tasks = fs::read_dir(self.procfs("task")).expect("procfs").filter_map(Result::ok);
            let mut named = tasks.filter(|task| {
                fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it.trim() == name)
            });
            named.next()
        };
        let mut task = None;
        wait_until(&format!("the thread {name}"), || {
            task = find();
            task.is_some()
        });
        let task = task.expect("it was found").file_name();
        task.to_string_lossy().parse().expect("a number")
    }

    /// Waits until these threads have come to rest, and checks that nothing wakes them for 2 s.
    pub fn assert_no_wake_up<const N: usize>(&self, threads: [&str; N]) {
        let all = || threads.map(|thread| self.switches(thread));
        // What the logins have started comes to rest: a writer looks for acknowledgements half a
        // second later, and a reader returns memory after a second.
        let mut before = all();
        wait_until("rest", || {
            thread::sleep(Duration::from_millis(1300));
            let now = all();
            std::mem::replace(&mut before, now) == now
        });
        // The time in which nothing may happen is what is tested.
        thread::sleep(Duration::from_secs(2));
        assert_eq!(all(), before, "{threads:?}");
    }

    /// How often the thread with this name has gone to sleep; see proc(5).
    pub fn switches(&self, thread: &str) -> u64 {
        let status = self.procfs(&format!("task/{}/status", self.thread(thread)));
        let status = fs::read_to_string(status).expect("procfs");
        let switches =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches.expect("a field").trim().parse().expect("a number")
    }

    fn procfs(&self, entry: &str) -> String {
        format!("/proc/{}/{entry}", self.pid.as_raw_pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After `wait`, both fail because the child is already reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines that a process writes, collected by a thread that exits at their end.
#[derive(Debug)]
pub struct Lines {
    source: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    fn of(pipe: Option<impl Read + Send + 'static>, ahead: Option<usize>) -> Self {
        let (sender, source) = ahead.map_or_else(unbounded, bounded);
        if let Some(pipe) = pipe {
            thread::spawn(move || {
                let lines = BufReader::new(pipe).lines().map_while(Result::ok);
                lines.map(|line| sender.send(line)).take_while(Result::is_ok).count()
            });
        }
        Self { source, seen: Vec::new() }
    }

    /// Waits for a line that contains `text`, or for the end of the lines.
    pub fn expect_or_end(&mut self, text: &str) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !self.seen.last().is_some_and(|line| line.contains(text)) {
            match self.source.recv_deadline(deadline) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(error) => panic!("{error}: expected {text:?} after {:#?}", self.seen),
            }
        }
    }

    /// Waits for the first line that contains `text`, including lines already seen.
    pub fn expect(&mut self, text: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        self.expect_next(text)
    }

    /// Waits for the next new line that contains `text`.
    pub fn expect_next(&mut self, text: &str) -> String {
        match self.next_within(TEST_TIMEOUT, text) {
            Ok(line) => line,
            Err(error) => panic!("{error}: expected {text:?} after {:#?}", self.seen),
        }
    }

    /// Whether a new line that contains `text` arrives within this time.
    pub fn has_within(&mut self, time: Duration, text: &str) -> bool {
        self.next_within(time, text).is_ok()
    }

    fn next_within(&mut self, time: Duration, text: &str) -> Result<String, RecvTimeoutError> {
        let deadline = Instant::now() + time;
        loop {
            let line = self.source.recv_deadline(deadline)?;
            self.seen.push(line.clone());
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Waits for the next line.
    pub fn next(&mut self) -> String {
        let line = self.source.recv_timeout(TEST_TIMEOUT);
        line.unwrap_or_else(|error| panic!("{error} after {:#?}", self.seen))
    }

    /// Waits for the next line, which must be this one.
    pub fn expect_line(&mut self, expected: &str) {
        assert_eq!(self.next(), expected);
    }

    /// The last line that was seen.
    pub fn last(&self) -> Option<&str> {
        self.seen.last().map(String::as_str)
    }

    /// All lines, once the process has closed its end.
    pub fn take_to_end(&mut self) -> Vec<String> {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while let Ok(line) = self.source.recv_deadline(deadline) {
            self.seen.push(line);
        }
        std::mem::take(&mut self.seen)
    }
}

/// The executable without arguments.
pub fn executable() -> Command {
    through(&[], EXECUTABLE)
}

/// `a-chat serve` on a free port.
pub fn serve(flags: &[&str]) -> Command {
    serve_through(&[], flags)
}

/// `a-chat connect`, with a standard input to write to.
pub fn connect(address: SocketAddr, flags: &[&str]) -> Command {
    let mut command = executable();
    command.arg("connect").arg(address.to_string()).args(flags).stdin(Stdio::piped());
    command
}

/// A standard input that holds this text and its end before the process starts: one that exits on
/// its own may be gone before it could be written to. The text must fit into a pipe.
pub fn filled(text: &str) -> Stdio {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    File::from(writer).write_all(text.as_bytes()).expect("an open pipe");
    reader.into()
}

/// The same as [`serve`], started by a launcher that takes the command as its last arguments.
pub fn serve_through(launcher: &[&str], flags: &[&str]) -> Command {
    serve_copy_through(launcher, EXECUTABLE, flags)
}

/// The same with a copy of the executable.
pub fn serve_copy_through(launcher: &[&str], copy: &str, flags: &[&str]) -> Command {
    let mut command = through(launcher, copy);
    command.args(["serve", "--listen", "127.0.0.1:0"]).args(flags);
    command
}

/// The executable behind a launcher, without a terminal and without the environment variables that
/// it reads.
pub fn through(launcher: &[&str], executable: &str) -> Command {
    let mut words = launcher.iter().copied().chain([executable]);
    let mut command = Command::new(words.next().expect("the executable at least"));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("A_CHAT_") {
            command.env_remove(name);
        }
    }
    // A failure must be one clear line even for a user who has enabled backtraces.
    command.env_remove("COLUMNS").env("RUST_BACKTRACE", "1");
    command
}

/// Runs a command that exits on its own; returns its exit status and the lines of its standard
/// output and standard error.
pub fn run(command: Command) -> (i32, Vec<String>, Vec<String>) {
    Process::start(command).outcome()
}
