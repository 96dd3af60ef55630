//! The server keeps serving whatever the system refuses it: connected clients are not disturbed,
//! a client that cannot be served gets an error or waits, and once the fault is over new clients
//! are served again.
//!
//! Each case runs the executable as its own process, while two bystanders exchange messages.
//! Resources that can run out for one process alone really do: memory mappings, and the threads of
//! a cgroup. Those that would run out for the whole machine, such as its table of open files, are
//! simulated by strace(1), which fails single system calls. Clock jumps come from libfaketime.
//!
//! Covered elsewhere: the limits on descriptors and on a user's threads (`RLIMIT_NOFILE`,
//! `RLIMIT_NPROC`) in `limits.rs`; blocked standard output in `executable.rs` and a blocked log in
//! `log.rs`; signals in `signals.rs`; panics in `src/server/panics.rs`; failing links in
//! `network.rs`.
#![cfg(feature = "cli")]

mod common;
#[path = "common/injection.rs"]
mod injection;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::bystanders::Bystanders;
use common::{Client, login_when_there_is_room, skipped, try_login, wait_until};
use injection::Injection;
use process::{Process, SIGNALLED, run, serve, serve_through};
use rustix::process::{Resource, Signal, getrlimit};
use tempfile::TempDir;

/// A server and two bystanders, who must not notice what happens to it.
struct Scene {
    process: Process,
    address: SocketAddr,
    bystanders: Bystanders,
}

impl Scene {
    /// Starts a server behind a launcher, and the bystanders.
    fn start(launcher: &[String], flags: &[&str]) -> Self {
        let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
        let mut process = Process::start(serve_through(&launcher, flags));
        let address = process.address();
        let bystanders = Bystanders::between(["left", "right"].map(|name| process.login(name)));
        Self { process, address, bystanders }
    }

    /// Expects that connected clients are not delayed and that a new one is served.
    fn expect_normal_service(&self) {
        self.bystanders.exchange(500);
        drop(try_login(self.address, "late").expect("room"));
    }

    /// Shuts the server down, which must have lost no message; returns its log.
    fn end(self) -> Vec<String> {
        let (clients, messages) = self.bystanders.end();
        self.process.signal(Signal::TERM);
        for mut client in clients {
            let accepted = messages / 2 + 1;
            client.expect_line(&format!(
                "notice: server is shutting down, {accepted} of your lines were accepted"
            ));
            client.expect_eof();
        }
        let (status, log) = self.process.wait();
        assert_eq!(status, 0, "{log:#?}");
        let report = log.last().expect("a report");
        assert!(report.contains(&format!(" {messages} delivered, 0 lost before")), "{log:#?}");
        log
    }
}

/// How many lines of a log contain this text.
fn count(log: &[String], text: &str) -> usize {
    log.iter().filter(|line| line.contains(text)).count()
}

const CANNOT_ACCEPT: &str = "cannot accept connections";

/// Lets accept(2) fail with this error for a while: clients wait and are served afterwards. Returns
/// the log.
fn recover_from_accept_error(error: &str) -> Option<Vec<String>> {
    let injection = Injection::of(&format!("accept4:error={error}:when=4..9"))?;
    let scene = Scene::start(&injection.launcher, &[]);
    for number in 0..10 {
        drop(try_login(scene.address, &format!("client-{number}")).expect("room"));
    }
    scene.expect_normal_service();
    assert_eq!(injection.injected(), 6, "{:#?}", injection.calls());
    Some(scene.end())
}

#[test]
fn clients_wait_while_accept_lacks_resources_and_are_served_afterwards() {
    for error in ["ENFILE", "ENOBUFS", "ENOMEM"] {
        let Some(log) = recover_from_accept_error(error) else { return };
        // All backoffs together take a third of a second, so only the first one is logged, unless
        // the machine is slow.
        assert_eq!(count(&log, "retrying in 5ms"), 1, "{log:#?}");
        assert!(count(&log, CANNOT_ACCEPT) < 6, "{log:#?}");
    }
}

#[test]
fn an_accept_error_of_one_connection_does_not_delay_other_clients() {
    for error in ["ECONNABORTED", "EPROTO", "EPERM", "ENETDOWN"] {
        let Some(log) = recover_from_accept_error(error) else { return };
        assert_eq!(count(&log, CANNOT_ACCEPT), 0, "{log:#?}");
    }
}

/// Lets accept(2) fail with this error permanently: the server neither spins nor floods its log,
/// connected clients are not disturbed, and shutdown is not delayed.
fn endure_permanent_accept_error(error: &str) {
    /// A little more than the number of consecutive failures after which the server backs off.
    const MAX_CALLS_PER_BACKOFF: usize = 70;
    let fault = format!("accept4:error={error}:when=12+");
    let Some(injection) = Injection::of(&fault) else { return };
    let began = Instant::now();
    let mut scene = Scene::start(&injection.launcher, &[]);
    // Enough that one of them meets the twelfth call, however the earlier calls were distributed.
    let waiting: Vec<_> = (0..12).map(|_| Client::connect(scene.address)).collect();
    scene.process.log.expect("retrying in 1s");
    let (start, before) = (Instant::now(), injection.injected());
    scene.process.log.expect_next("retrying in 1s");
    scene.process.log.expect_next("retrying in 1s");
    let calls = injection.injected() - before;
    let backoffs = 1 + usize::try_from(start.elapsed().as_secs()).expect("not that long");
    let max_calls = (1 + backoffs) * MAX_CALLS_PER_BACKOFF;
    assert!(calls <= max_calls, "{error}: {calls} calls in {backoffs} backoffs");
    scene.bystanders.exchange(500);
    drop(waiting);
    let log = scene.end();
    let lines = count(&log, CANNOT_ACCEPT) as u64;
    assert!(lines <= began.elapsed().as_secs() + 2, "{error}: {log:#?}");
}

#[test]
fn a_server_permanently_out_of_resources_neither_spins_nor_floods_its_log() {
    endure_permanent_accept_error("ENFILE");
}

#[test]
fn a_server_whose_every_accept_fails_neither_spins_nor_floods_its_log() {
    endure_permanent_accept_error("EPERM");
}

#[test]
fn a_client_is_refused_with_an_error_when_no_thread_can_be_spawned() {
    // Each thread's calls are counted separately: the main thread makes only five, and the
    // acceptor's first five are for the first five clients.
    let Some(injection) = Injection::of("clone3:error=EAGAIN:when=6..9") else { return };
    let scene = Scene::start(&injection.launcher, &["--linger", "10ms"]);
    let first =
        ["third", "fourth", "fifth"].map(|name| try_login(scene.address, name).expect("room"));
    for number in 6..10 {
        assert!(try_login(scene.address, &format!("client-{number}")).is_none(), "no thread");
    }
    scene.expect_normal_service();
    drop(first);
    // A failed spawn leaves nothing behind for the acceptor to poll for.
    wait_until("the acceptor to go idle", || {
        let before = scene.process.switches("acceptor");
        thread::sleep(Duration::from_millis(1500));
        scene.process.switches("acceptor") == before
    });
    let log = scene.end();
    assert!(count(&log, "cannot spawn a thread") > 0, "{log:#?}");
}

/// A cgroup that limits the number of its processes and threads; removed once it is empty.
struct PidsGroup(PathBuf);

impl PidsGroup {
    /// Returns `None`, and prints why, if this machine does not permit it.
    fn new(max: usize) -> Option<Self> {
        // Version 1: under version 2, a cgroup that holds processes cannot have limited children,
        // so every process above it would have to be moved.
        let name = format!("a-chat-{}-{max}", std::process::id());
        let group = Self(Path::new("/sys/fs/cgroup/pids").join(name));
        let limited = fs::create_dir(&group.0)
            .and_then(|()| fs::write(group.0.join("pids.max"), max.to_string()));
        if let Err(error) = limited {
            skipped(&format!("a pids cgroup cannot be created here: {error}"));
            return None;
        }
        Some(group)
    }

    /// A launcher that moves itself into the cgroup and executes the server there.
    fn launcher(&self) -> [String; 3] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display());
        ["sh".to_owned(), "-c".to_owned(), script]
    }
}

impl Drop for PidsGroup {
    fn drop(&mut self) {
        // The cgroup cannot be removed until a killed server is completely gone.
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && self.0.exists() && Instant::now() < deadline {
            thread::yield_now();
        }
    }
}

/// The capacity that the server logs, and what limits it.
fn capacity(process: &mut Process) -> (usize, String) {
    let line = process.log.expect("capacity ");
    let (_, rest) = line.split_once("capacity ").expect("as it was found");
    let (capacity, limited_by) = rest.split_once(" connections, limited by ").expect("both");
    (capacity.parse().expect("a number"), limited_by.to_owned())
}

#[test]
fn the_default_capacity_in_a_pids_cgroup_can_be_filled() {
    let Some(group) = PidsGroup::new(60) else { return };
    let mut scene = Scene::start(&group.launcher(), &[]);
    let (capacity, limited_by) = capacity(&mut scene.process);
    assert_eq!(limited_by, "threads (pids cgroup)");
    assert!((15..30).contains(&capacity), "a capacity of {capacity}");
    let login = |number| try_login(scene.address, &format!("client-{number}"));
    let clients: Vec<_> = (2..capacity).map(|number| login(number).expect("room")).collect();
    assert!(login(0).is_none() && login(1).is_none(), "there is room for only {capacity}");
    drop(clients);
    let (late, _) = login_when_there_is_room(scene.address, "late");
    drop(late);
    let log = scene.end();
    assert_eq!(count(&log, "cannot spawn"), 0, "{log:#?}");
}

/// Runs the server in a cgroup with room for its own threads, those of the bystanders and of three
/// clients, and `spare` more.
fn serve_with_spare_threads(spare: usize) {
    const OWN_THREADS: usize = 6;
    let Some(group) = PidsGroup::new(OWN_THREADS + (2 + 3) * 2 + spare) else { return };
    let scene = Scene::start(&group.launcher(), &["--max-connections", "1000"]);
    let login = |number| try_login(scene.address, &format!("client-{number}"));
    let mut clients: Vec<_> = (0..3).map(|number| login(number).expect("room")).collect();
    for number in 3..100 {
        assert!(login(number).is_none(), "there is no thread left for client {number}");
    }
    scene.bystanders.exchange(500);
    drop(clients.pop());
    let (late, _) = login_when_there_is_room(scene.address, "late");
    drop((late, clients));
    let log = scene.end();
    assert!(count(&log, "cannot spawn a ") > 0, "{log:#?}");
}

#[test]
fn a_server_that_cannot_spawn_readers_in_its_cgroup_keeps_serving() {
    serve_with_spare_threads(0);
}

#[test]
fn a_server_that_cannot_spawn_writers_in_its_cgroup_keeps_serving() {
    serve_with_spare_threads(1);
}

#[test]
fn clients_beyond_the_memory_mapping_limit_are_refused_even_if_max_connections_allows_them() {
    const THREADS: usize = 4;
    let _ = a_chat::raise_nofile_limit();
    let mut default = Process::start(serve(&[]));
    let (default_capacity, limited_by) = capacity(&mut default);
    assert_eq!(default.terminate().0, 0);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let crowd = default_capacity + 1000;
    if limited_by != "memory mappings (vm.max_map_count)" || files < crowd as u64 + 100 {
        skipped(&format!("{limited_by} run out here before memory mappings do"));
        return;
    }
    let mut scene = Scene::start(&[], &["--max-connections", "100000"]);
    let capacity = capacity(&mut scene.process).0;
    assert_eq!(capacity, default_capacity, "a higher limit does not raise the capacity");

    let address = scene.address;
    // Only the stream is kept, so each client costs one descriptor.
    let login = |number| Some(try_login(address, &format!("client-{number}"))?.stream);
    let part = |first| (first..crowd).step_by(THREADS).map(login).collect::<Vec<_>>();
    let crowd: Vec<_> = thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || part(first))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a reply to everyone")).collect()
    });
    assert_eq!(crowd.iter().flatten().count(), capacity - 2, "besides the bystanders");
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").expect("procfs");
    let limit: usize = limit.trim().parse().expect("a number");
    let mappings = scene.process.mappings();
    // The test would prove nothing if the server were far from its limit.
    assert!((limit * 3 / 4..limit).contains(&mappings), "{mappings} mappings of {limit}");
    scene.bystanders.exchange(500);
    drop(crowd);
    let (late, _) = login_when_there_is_room(address, "late");
    drop(late);
    let log = scene.end();
    assert_eq!(count(&log, "cannot spawn"), 0, "{log:#?}");
}

/// Expects that a start for which the system refuses something ends with one line that says so.
fn expect_failed_start(fault: &str, what: &str) {
    let Some(Injection { launcher, .. }) = Injection::of(fault) else { return };
    let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
    let (status, _, log) = run(serve_through(&launcher, &["--log-level", "off"]));
    assert_eq!((status, log.len()), (1, 1), "{fault}: {log:#?}");
    assert!(log[0].starts_with("a-chat: ") && log[0].contains(what), "{fault}: {log:#?}");
}

#[test]
fn a_start_that_the_system_refuses_is_reported_in_one_clear_line() {
    expect_failed_start("socket:error=EMFILE", "cannot listen on 127.0.0.1:0: Too many open files");
    expect_failed_start("bind:error=EACCES", "cannot listen on 127.0.0.1:0: Permission denied");
    expect_failed_start("listen:error=EADDRINUSE", "cannot listen on 127.0.0.1:0: Address already");
    for latch in 1..=2 {
        let fault = format!("eventfd2:error=EMFILE:when={latch}");
        expect_failed_start(&fault, "cannot create the shutdown descriptors: Too many open files");
    }
    let no_log = "cannot start the log's thread: Resource temporarily unavailable";
    expect_failed_start("clone3:error=EAGAIN:when=1", no_log);
    let no_signals = "cannot wait for signals: Resource temporarily unavailable";
    // One thread for the signals that ask for shutdown, and one for all others.
    for thread in 2..=3 {
        expect_failed_start(&format!("clone3:error=EAGAIN:when={thread}"), no_signals);
    }
    // The broker and the acceptor.
    for thread in 4..=5 {
        let fault = format!("clone3:error=EAGAIN:when={thread}");
        expect_failed_start(&fault, "cannot spawn a thread: Resource temporarily unavailable");
    }
}

/// The time of day as one process sees it; it can be changed while that process runs.
struct TimeOfDay {
    library: PathBuf,
    folder: TempDir,
}

impl TimeOfDay {
    /// Returns `None`, and prints why, if libfaketime is not installed.
    fn new() -> Option<Self> {
        let folders = fs::read_dir("/usr/lib").expect("a folder").map_while(Result::ok);
        let library = |folder: fs::DirEntry| folder.path().join("faketime/libfaketimeMT.so.1");
        let Some(library) = folders.map(library).find(|library| library.exists()) else {
            skipped("the time of day cannot be changed: libfaketime is missing");
            return None;
        };
        let time = Self { library, folder: tempfile::tempdir().expect("a folder") };
        time.jump("+0");
        Some(time)
    }

    /// Sets the offset from the real time.
    fn jump(&self, offset: &str) {
        let (new, file) = (self.folder.path().join("new"), self.folder.path().join("offset"));
        fs::write(&new, offset).and_then(|()| fs::rename(new, file)).expect("a file");
    }

    fn start(&self, flags: &[&str]) -> Process {
        let mut command = serve(flags);
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_TIMESTAMP_FILE", self.folder.path().join("offset"));
        // The monotonic clock never jumps, by definition.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        Process::start(command)
    }
}

/// The date at the beginning of a line of the log.
fn date(line: &str) -> &str {
    line.split('T').next().expect("a date")
}

/// A client that reads nothing, and `alice`, who has sent it more than its kernel holds.
fn overloaded(process: &mut Process, name: &str) -> (Client, Client) {
    let mut slow = Client::connect_with_small_buffers(process.address(), None);
    slow.send(&format!("{name}\n/who {name}"));
    slow.expect_line(&format!("notice: line 1: here: {name}"));
    let mut alice = process.login("alice");
    let lines = format!("{name}: {}\n", "x".repeat(1000)).repeat(MESSAGES);
    alice.send(&format!("{lines}alice: that is all"));
    alice.expect_line("from alice: that is all");
    (slow, alice)
}

/// More messages than the slow client's kernel holds, and fewer than the window.
const MESSAGES: usize = 400;

const WINDOW: [&str; 2] = ["--window", "1MiB"];

#[test]
fn a_clock_that_jumps_ahead_shortens_no_timeout() {
    let Some(time) = TimeOfDay::new() else { return };
    let mut flags = WINDOW.to_vec();
    flags.extend(["--login-timeout", "10s", "--stall-timeout", "10s", "--drain-timeout", "1h"]);
    // Long enough for every waiting thread to have checked its clock, which it does after a quarter
    // of its timeout, and shorter than every timeout.
    let wait = || thread::sleep(Duration::from_secs(3));
    let mut process = time.start(&flags);
    let mut silent = Client::connect(process.address());
    silent.send_bytes(b"sil");
    let (mut slow, mut alice) = overloaded(&mut process, "slow");
    let before = process.log.expect("alice connected");

    time.jump("+30d");
    let bob = process.login("bob");
    assert_ne!(date(&before), date(&process.log.expect("bob connected")), "the clock has jumped");
    wait();
    silent.send("ent\nsilent: I am in time");
    silent.expect_line("from silent: I am in time");
    bob.leave();
    silent.leave();

    process.signal(Signal::TERM);
    process.log.expect(SIGNALLED);
    time.jump("+60d");
    wait();
    let notice =
        |lines| format!("notice: server is shutting down, {lines} of your lines were accepted");
    alice.expect_line(&notice(MESSAGES + 2));
    alice.half_close();
    for _ in 0..MESSAGES {
        assert!(slow.line().is_some_and(|line| line.starts_with("from alice: xxx")));
    }
    slow.expect_line(&notice(1));
    slow.expect_eof();
    drop(slow);
    let (status, log) = process.wait();
    assert_eq!(status, 0, "{log:#?}");
    assert!(log.last().is_some_and(|report| date(report) != date(&before)), "{log:#?}");
}

#[test]
fn a_clock_that_jumps_back_extends_no_timeout() {
    let Some(time) = TimeOfDay::new() else { return };
    let mut flags = WINDOW.to_vec();
    flags.extend(["--login-timeout", "2s", "--stall-timeout", "2s", "--drain-timeout", "2s"]);
    let mut process = time.start(&flags);
    let mut silent = Client::connect(process.address());
    let (slow, alice) = overloaded(&mut process, "slow");
    let before = process.log.expect("alice connected");

    time.jump("-30d");
    silent.expect_line("error: login not in time");
    assert_ne!(
        date(&before),
        date(&process.log.expect("slow disconnected")),
        "the clock has jumped"
    );
    drop((silent, slow, alice));
    process.log.expect("alice disconnected");

    let (slower, alice) = overloaded(&mut process, "slower");
    process.signal(Signal::TERM);
    process.log.expect(SIGNALLED);
    time.jump("-60d");
    let (status, log) = process.wait();
    assert_eq!(status, 1, "{log:#?}");
    assert!(count(&log, "drain deadline") > 0 || count(&log, "evicted") > 1, "{log:#?}");
    drop((slower, alice));
}
