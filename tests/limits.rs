//! A client over a limit gets an error, no other client notices, and the next one is served as soon
//! as there is room; a server that runs for long holds no more than its clients need.
//!
//! The configured limit is tested in this process. The system's limits (descriptors, threads, memory)
//! are tested with the executable, in a process with low limits, and observed from outside: through
//! its clients, its log, and its entries in procfs.
#![allow(clippy::print_stdout, reason = "a test that cannot run here prints why")]

mod common;

use std::io::Write;
use std::time::Duration;

use a_chat::{Capacity, Config};
use common::{
    Client, SERVER_FULL, TEST_TIMEOUT, TestServer, login_when_there_is_room, try_login, wait_until,
};
use rustix::process::{Resource, getrlimit};

/// A server with room for this many clients. A refused client is held for the linger time, which is
/// longer here than any pause of a client between two steps.
fn server_with_room_for(clients: usize) -> TestServer {
    let max_connections = Some(clients);
    TestServer::with(Config::default().max_connections(max_connections).linger(TEST_TIMEOUT))
}

/// Two clients talk to each other.
fn chat(one: &mut Client, other: &mut Client, names: [&str; 2]) {
    one.send(&format!("{}: are you there?", names[1]));
    other.expect_line(&format!("from {}: are you there?", names[0]));
    other.send(&format!("{}: yes", names[0]));
    one.expect_line(&format!("from {}: yes", names[1]));
}

#[test]
fn a_client_over_the_limit_gets_an_error_and_none_of_its_lines_are_routed() {
    let server = server_with_room_for(2);
    let (mut alice, mut bob) = (server.login("alice"), server.login("bob"));
    let mut carol = Client::connect(server.address);
    carol.send("carol\nbob: hi from carol\nalice, bob: and again");
    carol.expect_line(SERVER_FULL);
    carol.expect_eof();
    chat(&mut alice, &mut bob, ["alice", "bob"]);
    [alice, bob, carol].into_iter().for_each(Client::leave);
    let report = server.stop();
    assert_eq!((report.connections, report.refused), (2, 1), "{report}");
    assert_eq!((report.accepted, report.delivered), (2, 2), "{report}");
}

#[test]
fn the_next_client_is_served_once_a_place_is_free() {
    let server = server_with_room_for(2);
    let mut alice = server.login("alice");
    let mut refused = 0;
    for _ in 0..20 {
        let (mut bob, refusals) = login_when_there_is_room(server.address, "bob");
        refused += refusals;
        assert!(try_login(server.address, "carol").is_none(), "both places are taken");
        refused += 1;
        chat(&mut alice, &mut bob, ["alice", "bob"]);
    }
    drop(alice);
    let report = server.stop();
    assert_eq!((report.connections, report.refused), (21, refused), "{report}");
}

#[test]
fn a_client_that_has_not_logged_in_takes_a_place() {
    let server = server_with_room_for(1);
    let silent = Client::connect(server.address);
    assert!(try_login(server.address, "alice").is_none(), "the place is taken");
    drop(silent);
    let (alice, refused) = login_when_there_is_room(server.address, "alice");
    drop(alice);
    let report = server.stop();
    assert_eq!((report.connections, report.refused), (2, refused + 1), "{report}");
}

/// More clients than the server holds for the linger time.
const CROWD: usize = 300;

#[test]
fn every_client_of_a_refused_crowd_gets_its_line_and_a_clean_close() {
    let server = server_with_room_for(1);
    let alice = server.login("alice");
    let crowd: Vec<_> = (0..CROWD).map(|_| Client::connect(server.address)).collect();
    for mut client in crowd {
        client.expect_line(SERVER_FULL);
        client.expect_eof();
    }
    drop(alice);
    assert_eq!(server.stop().refused, CROWD as u64);
}

#[test]
fn every_client_of_a_refused_crowd_that_sends_gets_its_line() {
    let server = server_with_room_for(1);
    let alice = server.login("alice");
    let crowd: Vec<_> = (0..CROWD)
        .map(|number| {
            let mut client = Client::connect(server.address);
            client.send(&format!("client-{number}\nalice: hi"));
            client
        })
        .collect();
    for mut client in crowd {
        // The server cannot hold all of them: some may see a reset behind their line.
        assert_eq!(client.drain(), format!("{SERVER_FULL}\n").into_bytes());
    }
    drop(alice);
    let report = server.stop();
    assert_eq!((report.refused, report.owed), (CROWD as u64, 0), "{report}");
}

#[test]
fn a_refused_client_is_closed_after_the_linger_time() {
    let linger = Duration::from_millis(1);
    let server = TestServer::with(Config::default().max_connections(1).linger(linger));
    let alice = server.login("alice");
    let mut refused = Client::connect(server.address);
    refused.expect_line(SERVER_FULL);
    // A closed socket answers input with a reset.
    let mut told = refused.stream.try_clone().expect("a descriptor");
    wait_until("the end of the connection", || told.write_all(b"still here\n").is_err());
    drop(alice);
    server.stop();
}

#[test]
fn the_default_stays_below_the_limit_of_open_files() {
    let capacity = Capacity::detect();
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(capacity.connections >= 1);
    assert!(capacity.connections as u64 <= files, "{capacity}, but {files} open files");
}

#[cfg(feature = "cli")]
#[path = "common/process.rs"]
mod process;

/// With the executable, whose limits and counts are its own.
#[cfg(feature = "cli")]
mod of_the_system {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    use std::time::Instant;

    use rustix::process::{Signal, geteuid};
    use tempfile::TempDir;

    use super::*;
    use crate::process::{EXECUTABLE, Process, serve, serve_copy_through, serve_through};

    /// Maximum open files of the server in the tests that exhaust them.
    const FILES: usize = 40;

    /// Starts a server under these limits of `ulimit`.
    fn start_under(limits: &str, flags: &[&str]) -> Process {
        let script = format!("{limits} && exec \"$0\" \"$@\"");
        Process::start(serve_through(&["sh", "-c", &script], flags))
    }

    /// A server with no descriptor left, the clients that hold them, and one client that waits.
    fn out_of_files() -> (Process, Vec<Client>, Client) {
        let limits = format!("ulimit -n {FILES}");
        let flags = ["--max-connections", "1000", "--linger", "100ms"];
        let mut process = start_under(&limits, &flags);
        // Before exec, the process still holds copies of all of this one's descriptors.
        process.address();
        let mut clients = Vec::new();
        while process.count("fd") < FILES {
            clients.push(process.login(&format!("client-{}", clients.len())));
        }
        assert!(clients.len() > FILES / 2, "only {} got in", clients.len());
        let mut waiting = Client::connect(process.address());
        waiting.send("waiting\n/who client-0, waiting");
        process.log.expect("cannot accept connections");
        (process, clients, waiting)
    }

    #[test]
    fn without_descriptors_new_clients_wait_and_the_others_go_on() {
        let (mut process, mut clients, mut waiting) = out_of_files();

        // The server backs off with ever longer pauses; it must not spin.
        let (start, before) = (Instant::now(), process.cpu_time());
        process.log.expect_next("retrying in 1s");
        process.log.expect_next("retrying in 1s");
        let (elapsed, used) = (start.elapsed(), process.cpu_time().saturating_sub(before));
        assert!(used < elapsed / 5, "ran for {used:?} of {elapsed:?}");

        let [one, other, ..] = clients.as_mut_slice() else {
            unreachable!("there are more than half as many as files");
        };
        chat(one, other, ["client-0", "client-1"]);
        drop(clients.pop());
        waiting.expect_line("notice: line 1: here: client-0, waiting");
        waiting.leave();
        clients.into_iter().for_each(Client::leave);
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
        assert!(log.last().is_some_and(|report| report.contains(" 0 refused, ")), "{log:#?}");
    }

    #[test]
    fn a_shutdown_does_not_wait_for_a_backoff_to_end() {
        // Shorter than the pause of 1 s that has just begun, and much longer than a shutdown takes.
        // One slow shutdown may be the machine's fault; three are the server's.
        let prompt = Duration::from_millis(500);
        let stops = (0..3).map(|_| {
            let (mut process, clients, waiting) = out_of_files();
            process.log.expect_next("retrying in 1s");
            process.signal(Signal::TERM);
            let start = Instant::now();
            drop((clients, waiting));
            let (status, log) = process.wait();
            assert_eq!(status, 0, "{log:#?}");
            start.elapsed()
        });
        let slow: Vec<_> = stops.take_while(|stop| *stop >= prompt).collect();
        assert!(slow.len() < 3, "stops took {slow:?}");
    }

    #[test]
    fn the_default_capacity_is_real_and_the_limit_of_open_files_is_raised() {
        let mut process = start_under("ulimit -S -n 50 && ulimit -H -n 100", &[]);
        let line = process.log.expect("capacity ");
        let (_, rest) = line.split_once("capacity ").expect("as it was found");
        let (room, limited_by) = rest.split_once(" connections, ").expect("a number");
        let room: usize = room.parse().expect("a number");
        assert!((51..100).contains(&room), "{line}");
        assert_eq!(limited_by, "limited by open files (RLIMIT_NOFILE)");
        let clients: Vec<_> =
            (0..room).map(|number| process.login(&format!("client-{number}"))).collect();
        for name in ["one-more", "another"] {
            assert!(try_login(process.address(), name).is_none(), "there is room for {room} only");
        }
        clients.into_iter().for_each(Client::leave);
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
        assert!(!log.iter().any(|line| line.contains("cannot accept")), "{log:#?}");
    }

    /// A copy of the executable that every user can run, wherever the original is.
    fn copy_for_everyone() -> (TempDir, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("a-chat");
        // Made by another process: a process that another test starts now would inherit a file that
        // this one has open for writing, and such a file cannot be executed.
        let copied = Command::new("cp").arg(EXECUTABLE).arg(&copy).status();
        assert!(copied.is_ok_and(|status| status.success()), "no copy");
        let everyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), everyone).expect("a folder of our own");
        let copy = copy.to_str().expect("a path in UTF-8").to_owned();
        (folder, copy)
    }

    /// A launcher that limits the number of threads, if that is possible here.
    ///
    /// The system counts threads by user, and root's not at all. So the server runs as a user of its
    /// own, or in its own user namespace, where the count begins anew. No two tests have the same number.
    fn with_threads(threads: u64) -> Option<Vec<String>> {
        let user_id = 20_000 + u64::from(std::process::id()) % 2_500 * 16 + threads;
        let user = if geteuid().is_root() {
            format!("setpriv --reuid={user_id} --regid={user_id} --clear-groups")
        } else {
            "unshare --user".to_owned()
        };
        // The limit comes last: the one outside applies to a new namespace too.
        let launcher = format!("{user} prlimit --nproc={threads}:{threads}");
        let launcher: Vec<_> = launcher.split(' ').map(str::to_owned).collect();
        let mut attempt = Command::new(&launcher[0]);
        attempt.args(&launcher[1..]).arg("true");
        let possible = attempt.output().is_ok_and(|output| output.status.success());
        possible.then_some(launcher)
    }

    /// Allows the threads of the server at rest, of three clients, and `spare`.
    fn goes_on_without_threads(spare: u64) {
        const AT_REST: u64 = 6;
        let Some(launcher) = with_threads(AT_REST + 3 * 2 + spare) else {
            println!("skipped: the number of threads cannot be limited here");
            return;
        };
        let (_folder, copy) = copy_for_everyone();
        let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
        let flags = ["--max-connections", "1000"];
        let mut process = Process::start(serve_copy_through(&launcher, &copy, &flags));
        let address = process.address();
        let mut clients = Vec::new();
        while let Some(client) = try_login(address, &format!("client-{}", clients.len())) {
            clients.push(client);
            if clients.len() > 3 {
                println!("skipped: the limit of threads does not hold here");
                return;
            }
        }
        let [one, other, _] = clients.as_mut_slice() else {
            panic!("{} clients got in where there was room for 3", clients.len());
        };
        for _ in 0..100 {
            assert!(try_login(address, "late").is_none(), "there is no thread left");
        }
        chat(one, other, ["client-0", "client-1"]);
        drop(clients.pop());
        let (late, _) = login_when_there_is_room(address, "late");
        late.leave();
        clients.into_iter().for_each(Client::leave);
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
        assert!(log.iter().any(|line| line.contains("cannot spawn a ")), "{log:#?}");
    }

    #[test]
    fn without_a_thread_for_its_reader_a_client_gets_an_error_and_the_others_go_on() {
        goes_on_without_threads(0);
    }

    #[test]
    fn without_a_thread_for_its_writer_a_client_gets_an_error_and_the_others_go_on() {
        goes_on_without_threads(1);
    }

    #[test]
    fn a_server_whose_threads_cannot_be_spawned_does_not_say_that_it_listens() {
        // With room for the log's and the signals' threads, and for one of the server's.
        let Some(launcher) = with_threads(5) else {
            println!("skipped: the number of threads cannot be limited here");
            return;
        };
        let (_folder, copy) = copy_for_everyone();
        let launcher: Vec<_> = launcher.iter().map(String::as_str).collect();
        let process = Process::start(serve_copy_through(&launcher, &copy, &[]));
        let (status, stdout, stderr) = process.outcome();
        assert_eq!((status, stdout), (1, Vec::new()), "{stderr:#?}");
        assert!(stderr.iter().any(|line| line.contains("cannot spawn a thread")), "{stderr:#?}");
    }

    #[test]
    fn a_log_file_beyond_the_limit_of_file_sizes_costs_lines_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let path = path.to_str().expect("a path in UTF-8");
        // The unit is 512 or 1024 bytes.
        let mut process = start_under("ulimit -f 1", &["--log-file", path]);
        let address = process.address();
        for number in 0..50 {
            let mut client = try_login(address, &format!("passer-by-{number}")).expect("room");
            client.half_close();
            client.lines_to_eof();
        }
        let (mut alice, mut bob) = (process.login("alice"), process.login("bob"));
        chat(&mut alice, &mut bob, ["alice", "bob"]);
        alice.leave();
        bob.leave();
        assert_eq!(process.terminate(), (0, Vec::new()));
        let log = fs::read(path).expect("a log file");
        assert!((512..=1024).contains(&log.len()), "{} bytes", log.len());
    }

    /// Starts a server under these limits, fills it with clients, and checks that it refuses further
    /// ones, works, and shuts down in order.
    fn holds_its_capacity(limits: &str, flags: &[&str], limited_by: &str) -> usize {
        let mut process = start_under(limits, flags);
        let line = process.log.expect(", capacity ");
        let (_, rest) = line.split_once(", capacity ").expect("the text it was found by");
        let (capacity, limit) = rest.split_once(", limited by ").expect("a number");
        let (capacity, noun) = capacity.split_once(' ').expect("a number");
        assert_eq!(noun, if capacity == "1" { "connection" } else { "connections" }, "{line}");
        assert_eq!(limit, limited_by, "{line}");
        let capacity: usize = capacity.parse().expect("a number");
        let address = process.address();
        let mut clients = Vec::new();
        for number in 0..capacity {
            let client = try_login(address, &format!("client-{number}"));
            clients.push(client.unwrap_or_else(|| panic!("{number} clients, but {line}")));
        }
        for name in ["one-more", "another"] {
            assert!(try_login(address, name).is_none(), "{line}");
        }
        if let [one, other, ..] = clients.as_mut_slice() {
            chat(one, other, ["client-0", "client-1"]);
        }
        clients.into_iter().for_each(Client::leave);
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
        assert!(!log.iter().any(|line| line.contains("cannot ")), "{log:#?}");
        capacity
    }

    #[test]
    fn the_capacity_respects_the_limits_of_memory() {
        let address_space = "address space (RLIMIT_AS)";
        let capacity = holds_its_capacity("ulimit -v 131072", &[], address_space);
        assert!((20..200).contains(&capacity), "{capacity}");
        // A larger window leaves room for fewer clients, and a configured number is capped too.
        let wide = holds_its_capacity("ulimit -v 131072", &["--window", "1MiB"], address_space);
        assert!(wide < capacity, "{wide} and {capacity}");
        let flags = ["--max-connections", "1000"];
        assert_eq!(holds_its_capacity("ulimit -v 131072", &flags, address_space), capacity);
        let data = holds_its_capacity("ulimit -d 65536", &[], "data segment (RLIMIT_DATA)");
        assert!((10..100).contains(&data), "{data}");
    }

    #[test]
    fn a_server_full_of_busy_clients_stays_within_the_limit_of_address_space() {
        let mut process = start_under("ulimit -v 131072", &["--stall-timeout", "1min"]);
        let address = process.address();
        // Each fills its own window with lines that its recipient does not read.
        let mut clients: Vec<_> = std::iter::from_fn({
            let mut number = 0;
            move || {
                number += 1;
                try_login(address, &format!("client-{number}"))
            }
        })
        .collect();
        let mut bystander = clients.pop().expect("room");
        let name = format!("client-{}", clients.len() + 1);
        let text = "x".repeat(1000);
        for (number, client) in clients.iter_mut().enumerate() {
            let lines = format!("client-{}: {text}\n", number + 1).repeat(2000);
            client.stream.set_nonblocking(true).expect("a socket");
            // Takes what fits into the window and the kernel's buffers.
            let _ = client.stream.write(lines.as_bytes());
            bystander.send(&format!("{name}: still here"));
            bystander.expect_line(&format!("from {name}: still here"));
        }
        drop((clients, bystander));
        let (status, log) = process.terminate();
        assert!(status <= 1 && log.last().is_some_and(|line| line.contains("stopped")), "{log:#?}");
    }

    #[test]
    fn a_tiny_limit_of_open_files_is_not_overestimated() {
        for files in [14, 16, 20, 30] {
            let limits = format!("ulimit -n {files}");
            holds_its_capacity(&limits, &[], "open files (RLIMIT_NOFILE)");
        }
    }

    #[test]
    fn disconnected_clients_leave_no_thread_descriptor_or_mapping_behind() {
        const ROUND: usize = 500;
        /// Finished threads are joined in groups, so some exist at any moment.
        const SLACK: usize = 100;
        let mut process = Process::start(serve(&["--log-level", "warn"]));
        let address = process.address();
        let mut held = Vec::new();
        for _ in 0..6 {
            for number in 0..ROUND {
                let mut client = Client::connect(address);
                // Some log in and leave, some are rejected, and some never send a name.
                match number % 3 {
                    0 => client.send("passer-by"),
                    1 => client.send("not a name"),
                    _ => {}
                }
                client.half_close();
                client.lines_to_eof();
            }
            held.push((process.count("task"), process.count("fd"), process.mappings()));
        }
        let (threads, files, mappings) = held[0];
        for later in &held {
            assert!(later.0 < threads + SLACK && later.1 < files + SLACK, "{held:?}");
            assert!(later.2 < mappings + 4 * SLACK, "{held:?}");
        }
        // Fewer than one for each client from the start.
        assert!(threads < SLACK && files < SLACK, "{held:?}");
        let (status, log) = process.terminate();
        assert_eq!(status, 0, "{log:#?}");
    }
}
