//! The conversation with a service manager, and a restart on sockets that it keeps: its clients are
//! never refused, and no line is lost.
//!
//! The test is the manager: it speaks the protocol of notifications over a real socket, and passes a
//! real listener, as systemd does.
#![cfg(all(feature = "cli", feature = "systemd"))]
#![allow(clippy::print_stdout, reason = "a test that cannot run here prints why")]

mod common;
#[path = "common/http.rs"]
mod http;
#[path = "common/process.rs"]
mod process;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, TEST_TIMEOUT, skipped, try_login, wait_until};
use http::{get, status_address};
use process::{EXECUTABLE, Process, connect, run, serve, through};
use rustix::process::Signal;
use tempfile::TempDir;

/// A manager's end of the conversation.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(TEST_TIMEOUT)).expect("a socket");
        Self { socket, folder }
    }

    fn start(&self, mut command: Command) -> Process {
        Process::start({
            command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
            command
        })
    }

    /// The lines of the next message.
    fn next(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message in time");
        let text = String::from_utf8_lossy(&message[..length]).into_owned();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for a message with this line; returns all of its lines.
    fn expect(&self, line: &str) -> Vec<String> {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while Instant::now() < deadline {
            let message = self.next();
            if message.iter().any(|it| it == line) {
                return message;
            }
        }
        panic!("no {line}");
    }
}

#[test]
fn a_manager_is_told_of_the_start_and_the_stop() {
    let manager = Manager::new();
    let mut process = manager.start(serve(&["--drain-timeout", "7s"]));
    let ready = manager.next();
    assert_eq!(ready, ["READY=1", "STATUS=0 clients, 0 B queued"]);
    // By then it serves.
    drop(process.login("alice"));
    process.signal(Signal::TERM);
    let stopping = manager.expect("STOPPING=1");
    let status = stopping[1].strip_prefix("STATUS=draining: 0 deliveries to go, ").expect("one");
    let left: f64 = status.strip_suffix(" s left").expect("a time").parse().expect("a number");
    assert!(left > 0.0 && left <= 7.0, "{status}");
    assert_eq!(process.wait().0, 0);
}

#[test]
fn the_watchdog_is_fed_and_the_status_goes_on_with_it() {
    let manager = Manager::new();
    let mut command = serve(&[]);
    command.env("WATCHDOG_USEC", "100000");
    let mut process = manager.start(command);
    manager.expect("READY=1");
    for _ in 0..5 {
        manager.expect("WATCHDOG=1");
    }
    let _alice = process.login("alice");
    manager.expect("STATUS=1 clients, 0 B queued");
    process.signal(Signal::TERM);
    manager.expect("STOPPING=1");
    process.wait();
}

/// strace(1), which makes one thread of a process wait in each of its calls to futex(2); and what it
/// says, since it ends when nobody listens.
struct Delay(Child, BufReader<ChildStderr>);

impl Delay {
    /// `None`, and prints why, if processes cannot be traced here.
    fn of(thread: u32) -> Option<Self> {
        let mut command = Command::new("strace");
        // The first call is the one in which the thread waits already.
        command.args(["-e", "trace=futex", "-e", "inject=futex:delay_enter=60000000:when=2+"]);
        command.args(["-p", &thread.to_string()]).stderr(Stdio::piped());
        let mut strace = command.spawn().ok()?;
        let said = BufReader::new(strace.stderr.take().expect("a pipe"));
        let mut strace = Self(strace, said);
        let said = strace.1.by_ref().lines().map_while(Result::ok);
        let is_attached = { said }.any(|it| it.contains("attached"));
        if !is_attached {
            skipped("strace is not permitted to trace");
        }
        is_attached.then_some(strace)
    }
}

impl Drop for Delay {
    /// The thread goes on at once.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_watchdog_is_not_fed_for_a_broker_that_is_stuck() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is missing");
    }
    let manager = Manager::new();
    let mut command = serve(&["--status", "127.0.0.1:0"]);
    command.env("WATCHDOG_USEC", "200000");
    let mut process = manager.start(command);
    let status = status_address(&mut process);
    let [mut alice, mut bob, mut carol] = ["alice", "bob", "carol"].map(|it| process.login(it));
    manager.expect("WATCHDOG=1");
    assert_eq!(get(status, "/livez").status, 200);
    // It is stuck in the middle of a round: as it wakes one of their writers.
    let Some(delay) = Delay::of(process.thread("broker")) else { return };
    alice.send("bob, carol: hello");
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a socket");
    let mut message = [0; 4096];
    let deadline = Instant::now() + TEST_TIMEOUT;
    while manager.socket.recv(&mut message).is_ok() {
        assert!(Instant::now() < deadline, "the watchdog is fed on");
        // Whoever asks for the first time cannot know since when it is busy.
        get(status, "/livez");
    }
    let response = get(status, "/livez");
    assert_eq!((response.status, response.body.as_str()), (503, "stuck\n"));
    assert_eq!(get(status, "/readyz").status, 503);
    // As it gets on, so does the rest, whenever that may be.
    manager.socket.set_read_timeout(Some(TEST_TIMEOUT)).expect("a socket");
    drop(delay);
    manager.expect("WATCHDOG=1");
    bob.expect_line("from alice: hello");
    carol.expect_line("from alice: hello");
    assert_eq!(get(status, "/livez").status, 200);
    process.terminate();
}

#[test]
fn a_reload_is_announced_with_its_time_and_its_end() {
    let manager = Manager::new();
    let process = manager.start(serve(&[]));
    manager.expect("READY=1");
    for _ in 0..3 {
        let requested = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        process.signal(Signal::USR1);
        // In one message, or the manager takes it for one about an earlier request.
        let [reloading, time] = &manager.next()[..] else { panic!("two lines") };
        assert_eq!(reloading, "RELOADING=1");
        let time = time.strip_prefix("MONOTONIC_USEC=").and_then(|it| it.parse::<i64>().ok());
        let requested = requested.tv_sec * 1_000_000 + requested.tv_nsec / 1000;
        assert!(time.is_some_and(|time| time >= requested), "{time:?}, {requested}");
        assert_eq!(manager.next(), ["READY=1", "STATUS=0 clients, 0 B queued"]);
    }
    process.terminate();
}

#[test]
fn a_manager_that_does_not_read_delays_nothing() {
    let manager = Manager::new();
    let mut command = serve(&[]);
    // Its queue is full at once.
    command.env("WATCHDOG_USEC", "200");
    let mut process = manager.start(command);
    let mut alice = process.login("alice");
    wait_until("a thread that is stuck", || {
        let before = process.switches("systemd");
        thread::sleep(Duration::from_millis(100));
        process.switches("systemd") == before
    });
    let start = Instant::now();
    process.signal(Signal::TERM);
    alice.expect_line("notice: server is shutting down, 1 of your lines were accepted");
    drop(alice);
    assert_eq!(process.wait().0, 0);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(manager);
}

#[test]
fn an_idle_service_makes_no_wake_up() {
    let manager = Manager::new();
    let mut process = manager.start(serve(&["--status", "127.0.0.1:0"]));
    manager.expect("READY=1");
    let _clients = ["alice", "bob"].map(|name| process.login(name));
    let threads = ["systemd", "status", "acceptor", "broker", "reader-1", "writer-1", "signals"];
    process.assert_no_wake_up(threads);
    process.terminate();
}

/// The listening socket of an `a-chat.socket`.
struct Kept(TcpListener);

impl Kept {
    fn new() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        (Self(listener), address)
    }

    /// A service that the socket is passed to.
    fn service(&self, flags: &[&str]) -> Command {
        pass(&self.0, "", flags)
    }
}

/// A service that this descriptor is passed to, as the third; `also` is run by the shell before.
fn pass(descriptor: impl AsFd, also: &str, flags: &[&str]) -> Command {
    let script = format!(
        "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; {also} exec \"$0\" \"$@\""
    );
    let mut command = through(&["sh", "-c", &script], EXECUTABLE);
    command.arg("serve").args(flags);
    command.stdin(descriptor.as_fd().try_clone_to_owned().expect("a descriptor"));
    command
}

#[test]
fn clients_that_connected_before_the_start_are_served() {
    let (kept, address) = Kept::new();
    let mut early: Vec<_> = (0..10).map(|_| Client::connect(address)).collect();
    for (number, client) in early.iter_mut().enumerate() {
        client.send(&format!("early-{number}\n/who early-{number}"));
    }
    let mut process = Process::start(kept.service(&[]));
    assert_eq!(process.address(), address);
    for (number, client) in early.iter_mut().enumerate() {
        client.expect_line(&format!("notice: line 1: here: early-{number}"));
    }
    process.signal(Signal::TERM);
    for client in &mut early {
        client.expect_line("notice: server is shutting down, 1 of your lines were accepted");
    }
    drop(early);
    assert_eq!(process.wait().0, 0);
    // The socket outlives the service.
    TcpStream::connect(address).expect("a socket that is kept");
}

#[test]
fn a_passed_socket_and_an_address_are_a_contradiction() {
    let (kept, _) = Kept::new();
    let assert_refused = |command: Command, origin: &str| {
        let (status, stdout, stderr) = run(command);
        assert_eq!((status, stdout.len()), (1, 0), "{stderr:#?}");
        let named = format!("'listen' is set by {origin}");
        assert!(stderr.iter().any(|line| line.contains(&named)), "{stderr:#?}");
    };
    assert_refused(kept.service(&["--listen", "127.0.0.1:0"]), "the command line");
    let mut command = kept.service(&[]);
    command.env("A_CHAT_LISTEN", "127.0.0.1:0");
    assert_refused(command, "A_CHAT_LISTEN");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("conf");
    std::fs::write(&file, "listen = 127.0.0.1:0\n").expect("room");
    let file = file.to_str().expect("UTF-8");
    assert_refused(kept.service(&["--config", file]), &format!("{file}, line 1"));
}

#[test]
fn what_is_no_listener_is_refused_and_what_is_for_others_ignored() {
    let stored = {
        let (kept, _) = Kept::new();
        let (status, _, stderr) = run(pass(&kept.0, "export LISTEN_FDNAMES=stored;", &[]));
        (status, stderr)
    };
    assert!(stored.0 == 1 && stored.1[0].contains("`stored`"), "{stored:?}");
    let datagrams = UnixDatagram::unbound().expect("a socket");
    let (status, _, stderr) = run(pass(&datagrams, "", &[]));
    assert!(status == 1 && stderr.len() == 1, "{stderr:#?}");
    // Variables that another process was started with.
    let mut command = serve(&[]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let mut process = Process::start(command);
    drop(process.login("alice"));
    assert_eq!(process.terminate().0, 0);
}

/// How many lines go through the restarts, at least.
const LINES: usize = 20_000;

/// How many restarts there are, at least.
const RESTARTS: usize = 3;

/// Lets others end, also after a failure.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_restart_under_load_refuses_nobody_and_loses_nothing() {
    let (kept, address) = Kept::new();
    let mut service = Some(Process::start(kept.service(&["--log-level", "warn"])));
    let bob = ["--reconnect", "--name", "bob", "--receive"];
    let mut bob = Process::start(connect(address, &bob));
    // What is sent before he is there has nobody to go to.
    let mut carol = try_login(address, "carol").expect("room");
    wait_until("bob's login", || {
        carol.send("/who bob");
        carol.line().is_some_and(|line| line.ends_with(": here: bob"))
    });
    drop(carol);
    let alice = ["--reconnect", "--name", "alice"];
    let mut alice = Process::start_without_reading_stderr(&mut connect(address, &alice));
    let (is_over, attempts) = (AtomicBool::new(false), AtomicUsize::new(0));
    let restarts = AtomicUsize::new(0);
    let lines = thread::scope(|scope| {
        // Somebody new all the time, who must never be refused.
        let prober = scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let refused = TcpStream::connect(address).err();
                assert!(refused.is_none(), "{refused:?}");
                attempts.fetch_add(1, Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let over = SetOnDrop(&is_over);
        let sender = scope.spawn(|| {
            let mut lines = 0;
            // A restart takes as long as it takes.
            while lines < LINES || restarts.load(Relaxed) < RESTARTS && !is_over.load(Relaxed) {
                let mut text = String::new();
                for line in lines..lines + 100 {
                    let _ = writeln!(text, "bob: {line}");
                }
                alice.write(&text);
                lines += 100;
                thread::sleep(Duration::from_millis(10));
            }
            alice.stdin = None;
            lines
        });
        while !sender.is_finished() {
            thread::sleep(Duration::from_millis(300));
            let (status, log) = service.take().expect("one that runs").terminate();
            assert_eq!(status, 0, "{log:#?}");
            let mut next = Process::start(kept.service(&["--log-level", "warn"]));
            // As systemd does: it stops no service that is still about to start.
            next.address();
            service = Some(next);
            restarts.fetch_add(1, Relaxed);
        }
        let lines = sender.join().expect("a client that reads");
        let mut next = 0;
        while next < lines {
            // Between them are the closing notices.
            let line = bob.stdout.next();
            if line.starts_with("from ") {
                assert_eq!(line, format!("from alice: {next}"));
                next += 1;
            }
        }
        drop(over);
        prober.join().expect("nobody was refused");
        lines
    });
    assert_eq!(alice.wait().0, 0, "every line was accepted");
    bob.signal(Signal::TERM);
    assert_eq!(bob.wait().0, 0);
    let (status, log) = service.take().expect("one that runs").terminate();
    assert_eq!(status, 0, "{log:#?}");
    let (restarts, attempts) = (restarts.into_inner(), attempts.into_inner());
    println!("{restarts} restarts, {attempts} connections, refused 0, {lines} lines, lost 0");
}

#[test]
fn the_units_are_valid_and_keep_the_service_in() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/systemd");
    let units = ["a-chat.service", "a-chat.socket"].map(|unit| Path::new(folder).join(unit));
    let texts = units.each_ref().map(|unit| std::fs::read_to_string(unit).expect("a unit"));
    // What would blind the server to the limit of memory mappings.
    let has = |line: &str| texts[0].lines().any(|it| it == line);
    assert!(!texts[0].lines().any(|line| line.starts_with("ProcSubset=")), "{}", texts[0]);
    assert!(has("Type=notify") && has("ExecReload=/bin/kill -USR1 $MAINPID"), "{}", texts[0]);
    assert!(has("TasksMax=infinity") && has("LimitCORE=0") && has("User=a-chat"), "{}", texts[0]);
    // The drain's five seconds and five for the log, the report and the page.
    assert!(has("TimeoutStopSec=10"), "{}", texts[0]);

    // They name the executable where a package puts it.
    let copy = tempfile::tempdir().expect("a folder");
    for (unit, text) in units.iter().zip(&texts) {
        let text = text.replace("/usr/bin/a-chat", EXECUTABLE);
        std::fs::write(copy.path().join(unit.file_name().expect("a name")), text).expect("room");
    }
    let mut command = Command::new("systemd-analyze");
    command
        .args(["verify", "--man=no"])
        .args(units.iter().map(|unit| copy.path().join(unit.file_name().expect("a name"))));
    let Ok(output) = command.output() else {
        return skipped("systemd-analyze is missing");
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Other units of the machine are not ours to judge.
    let ours: Vec<_> = said.lines().filter(|line| line.contains("a-chat")).collect();
    assert!(output.status.success() || ours.is_empty(), "{said}");
    assert_eq!(ours, [""; 0], "{said}");
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--threshold=30"]);
    let output = command.arg(copy.path().join("a-chat.service")).output().expect("it is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !said.contains("Overall exposure level") {
        return skipped("systemd-analyze cannot judge the security of a unit here");
    }
    assert!(output.status.success(), "{said}");
}
