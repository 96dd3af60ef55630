//! Hostile surroundings: a log that takes nothing, system calls that are refused, threads and
//! memory that run out, and clocks that start late. The drain still ends in time, and the account
//! is exact or the server says why it cannot run.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::{skipped, try_login};
use crate::crowd::{Crowd, Plan, Reading, Sending, try_log_in};
use crate::drain::MOMENT;
use crate::floods::{Kind, block, names};
use crate::innocents::Innocents;
use crate::memory::{MAX_LINE, Terms, WINDOW};
use crate::process::{Process, serve_copy_through};
use crate::target::{Target, alone, beside_others, by_form, executable, figure};

/// How long the end of the program may wait for its log, in addition to the drain.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a launcher works here; a word on why, if not.
fn is_possible(launcher: &[&str]) -> bool {
    let mut command = Command::new(launcher[0]);
    command.args(&launcher[1..]).arg("true").stdin(Stdio::null());
    let output = command.output();
    let error = match output {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    skipped(&format!("{launcher:?} is not possible here: {error}"));
    false
}

#[test]
fn a_log_that_takes_nothing_delays_the_drain_of_a_flood_by_its_own_timeout_at_most() {
    let _machine = alone();
    let (clients, seconds) = by_form((60, 4), (500, 1));
    let flags = ["--drain-timeout", &format!("{seconds}s")];
    let mut command = serve_copy_through(&[], &executable(), &flags);
    let mut process = Process::start_without_reading_stderr(&mut command);
    let address = process.address();
    // More log than a pipe holds.
    for number in 0..400 {
        drop(try_login(address, &format!("guest-{number}-with-a-long-name")));
    }
    let innocents = Innocents::start(address);
    let crowd = Crowd::start(address, Kind::WhoLists.plans(clients));
    thread::sleep(Duration::from_secs(1));
    let signalled = Instant::now();
    process.signal(Signal::TERM);
    while process.state() != 'Z' && signalled.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(1));
    }
    let took = signalled.elapsed();
    figure(&format!("a blocked log beside {clients} floods: over in {took:?}"));
    crowd.finish();
    let (from, to) = innocents.accepted_and_arrived();
    assert_eq!(from, to, "accepted, and not delivered");
    let deadline = Duration::from_secs(seconds) + FLUSH_TIMEOUT + MOMENT;
    assert!(took <= deadline, "{took:?}");
}

#[test]
fn refused_system_calls_leave_an_exact_account_or_an_error_at_the_start() {
    let _machine = beside_others();
    let calls = [
        "prctl:error=EPERM",
        "prlimit64:error=EPERM",
        "setsockopt:error=EPERM",
        "getsockopt:error=EPERM",
        "sched_getaffinity:error=EPERM",
        "sched_yield:error=EPERM",
        "getrandom:error=EPERM",
        "madvise:error=EPERM",
        "mprotect:error=EPERM:when=40+",
        "eventfd2:error=EPERM",
        "shutdown:error=EPERM",
        "ioctl:error=EPERM",
        "getpeername:error=EPERM",
    ];
    for call in calls {
        let inject = format!("inject={call}");
        let (name, _) = call.split_once(':').expect("a call and an error");
        let trace = format!("trace={name}");
        let launcher =
            ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        if !is_possible(&launcher[..8]) {
            return;
        }
        let mut command = serve_copy_through(&launcher, &executable(), &["--drain-timeout", "2s"]);
        command.stderr(Stdio::piped());
        let mut process = Process::start(command);
        process.stdout.expect_or_end("a-chat listens on ");
        process.log.expect_or_end("listening");
        let listens = process.log.last().is_some_and(|line| line.contains("listening"));
        if process.state() == 'Z' || !listens {
            let (status, log) = process.wait_for_any_end();
            figure(&format!("{call}: {status}, {log:?}"));
            assert_eq!(status.code(), Some(1), "{call}: {log:#?}");
            continue;
        }
        let address = process.address();
        let target = Target { process, address };
        let plans = Kind::SelfSendsRead.plans(3).into_iter().chain([Plan::new(
            "reader",
            Sending::Once(block("reader: hello\n")),
            Reading::Everything,
        )]);
        let members = match try_log_in(address, plans) {
            Ok(members) => members,
            Err(error) => {
                let account = target.terminate();
                figure(&format!("{call}: {error}; {}", account.summary()));
                continue;
            }
        };
        let crowd = Crowd::of(members);
        thread::sleep(Duration::from_millis(300));
        let account = target.terminate();
        let members = crowd.finish();
        figure(&format!("{call}: {}", account.summary()));
        account.check_members(&members);
    }
}

#[test]
fn clients_beyond_the_limit_of_threads_are_refused_and_the_account_is_exact() {
    let _machine = beside_others();
    let launcher = ["setpriv", "--reuid=65533", "--clear-groups", "prlimit", "--nproc=50"];
    if !is_possible(&launcher) {
        return;
    }
    // The executable must be readable for that user.
    let copy = tempfile::tempdir().expect("a folder");
    let path = copy.path().join("a-chat");
    fs::copy(executable(), &path).expect("a copy");
    open_to_all(copy.path().to_path_buf());
    let path = path.to_str().expect("UTF-8");
    // As if the limit were noticed only when it is met.
    for limit in [None, Some("1000")] {
        let mut flags = vec!["--drain-timeout", "2s", "--linger", "100ms"];
        flags.extend(limit.map(|_| "--max-connections"));
        flags.extend(limit);
        let target = Target::run(serve_copy_through(&launcher, path, &flags));
        let clients: Vec<_> =
            names(100).iter().filter_map(|name| try_login(target.address, name)).collect();
        figure(&format!("{} of 100 clients with 50 threads, limit {limit:?}", clients.len()));
        assert!((5..50).contains(&clients.len()), "{}", clients.len());
        let reading = thread::spawn(move || {
            for mut client in clients {
                client.drain();
            }
        });
        let account = target.terminate();
        reading.join().expect("no panic");
        assert_eq!(account.report.lost_in_drain, 0, "{}", account.summary());
    }
}

fn open_to_all(folder: PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("our own folder");
}

#[test]
fn a_clock_that_starts_late_changes_nothing() {
    let _machine = beside_others();
    let launcher = ["unshare", "--time", "--monotonic", "4000000000"];
    if !is_possible(&launcher) {
        return;
    }
    let flags = ["--stall-timeout", "365days", "--login-timeout", "365days", "--linger", "200ms"];
    let target = Target::start_through(&launcher, &flags);
    let innocents = Innocents::start(target.address);
    let crowd = Crowd::start(target.address, Kind::SelfSendsRead.plans(3));
    thread::sleep(Duration::from_millis(500));
    let account = target.terminate();
    account.check_members(&crowd.finish());
    innocents.expect_no_loss(&account);
}

/// A memory cgroup of its own; dropped, it is gone.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit: u64) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/memory/a-chat-{}", std::process::id()));
        let made = fs::create_dir(&path)
            .and_then(|()| fs::write(path.join("memory.limit_in_bytes"), limit.to_string()));
        if let Err(error) = made {
            skipped(&format!("there can be no memory cgroup here: {error}"));
            return None;
        }
        Some(Self(path))
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_server_with_as_much_memory_as_its_bound_survives_floods() {
    const KIB: u64 = 1024;
    let _machine = beside_others();
    let clients = by_form(30, 300);
    // The kernel's part is its stacks, sockets and what these hold, which is charged too.
    let kernel = clients as u64 * (2 * 24 * KIB + 512 * KIB);
    let limit = Terms::all(WINDOW, MAX_LINE).bound(clients as u64) + kernel;
    let short = &[Kind::WhoLists, Kind::RunsToUnknown][..];
    for &kind in by_form(short, &Kind::ALL) {
        let Some(group) = MemoryGroup::new(limit) else { return };
        let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
        let launcher = ["sh", "-c", &join, "sh"];
        let target = Target::start_through(&launcher, &["--drain-timeout", "1s"]);
        let crowd = Crowd::start(target.address, kind.plans(clients));
        thread::sleep(Duration::from_secs(by_form(2, 10)));
        let peak = group.read("memory.max_usage_in_bytes").parse::<u64>().unwrap_or(0);
        let failures = group.read("memory.failcnt");
        let account = target.terminate();
        account.check_members(&crowd.finish());
        figure(&format!(
            "{kind:?}, {clients} clients in a cgroup of {} MiB: {} MiB at most, {failures} times full; {}",
            limit / KIB / KIB,
            peak / KIB / KIB,
            account.summary()
        ));
    }
}
