//! A `redis-server` of a unit test's own, on a Unix socket; killed when dropped.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cluster::engine::redis::RedisEngine;

/// An engine that keeps nothing.
pub(crate) struct TestEngine {
    directory: TempDir,
    process: Child,
}

impl TestEngine {
    /// `None`, with a word about it, where there is no such program.
    pub(crate) fn start() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let process = spawn(&directory)?;
        Some(Self { directory, process })
    }

    /// Has it write down everything, kills it, and starts another one from that.
    pub(crate) fn restart_from_a_copy(&mut self) {
        let saved = redis::Client::open(self.url()).and_then(|client| {
            let mut connection = client.get_connection()?;
            redis::cmd("SAVE").exec(&mut connection)
        });
        saved.expect("a copy");
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(self.directory.path().join("engine.sock"));
        self.process = spawn(&self.directory).expect("it was there before");
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.directory.path().join("engine.sock").display())
    }

    /// The engine, for the cluster of this name.
    pub(crate) fn dialled(&self, cluster: &str) -> RedisEngine {
        RedisEngine::new(&self.url(), None, cluster).expect("an address")
    }

    /// It stands still, as a machine that is suspended does.
    pub(crate) fn suspend(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it is ours");
    }
}

impl Drop for TestEngine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(directory: &TempDir) -> Option<Child> {
    let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let socket = directory.path().join("engine.sock");
    let mut command = Command::new(&program);
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
    command.arg(&socket).arg("--dir").arg(directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(process) = command.spawn() else {
        skipped(&program);
        return None;
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "{program} does not start");
        std::thread::yield_now();
    }
    Some(process)
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn skipped(program: &str) {
    eprintln!("skipped: there is no {program}");
}
