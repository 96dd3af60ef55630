//! A server that has nothing to do does nothing: after traffic, too, no thread wakes up.

#![cfg(feature = "cli")]

mod common;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{TEST_TIMEOUT, try_login};
use process::Process;

/// How long nothing must happen. The longest interval of any thread that still has something to settle
/// is a second.
const QUIET: Duration = Duration::from_millis(1500);

/// The context switches of all threads of a process so far, voluntary or not.
fn switches(server: &Process) -> u64 {
    let tasks = format!("/proc/{}/task", server.pid.as_raw_pid());
    let tasks = fs::read_dir(tasks).expect("procfs").map_while(Result::ok);
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status"));
    let count = |line: &str| {
        let (name, count) = line.split_once(':')?;
        name.ends_with("voluntary_ctxt_switches").then(|| count.trim().parse::<u64>().ok())?
    };
    let in_task = |status: String| status.lines().filter_map(count).sum::<u64>();
    tasks.filter_map(|task| status(task).ok()).map(in_task).sum()
}

#[test]
fn an_idle_server_makes_no_context_switch_after_its_clients_were_busy() {
    let mut server = Process::start(process::serve(&[]));
    let address = server.address();
    let names: Vec<_> = (0..20).map(|place| format!("client{place}")).collect();
    let mut clients: Vec<_> =
        names.iter().map(|name| try_login(address, name).expect("a free name")).collect();
    // Single messages in quick succession, after which broker and writers expect more.
    for round in 0..50 {
        for place in 0..clients.len() {
            let next = (place + 1) % clients.len();
            clients[place].send(&format!("{}: {round}", names[next]));
            clients[next].expect_line(&format!("from {}: {round}", names[place]));
        }
    }
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let before = switches(&server);
        // It measures an interval in which nothing happens; nothing could announce its end.
        thread::sleep(QUIET);
        if switches(&server) == before {
            break;
        }
        assert!(Instant::now() < deadline, "threads of an idle server keep waking up");
    }
}
