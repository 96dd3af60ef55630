//! A real `redis-server` of the test's own: on a Unix socket in a directory of its own, without a
//! file unless asked for. Killed when dropped.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::{skipped, wait_until};

/// The engine's program; `REDIS_SERVER` names another one, such as `valkey-server`.
fn program() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

#[allow(dead_code)]
pub struct Engine {
    directory: TempDir,
    arguments: Vec<String>,
    process: Option<Child>,
}

#[allow(dead_code)]
impl Engine {
    /// An engine that keeps nothing; `None`, with a word about it, where there is no such program.
    pub fn start() -> Option<Self> {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    pub fn with(arguments: &[&str]) -> Option<Self> {
        let mut engine = Self::not_started(arguments)?;
        engine.restart();
        Some(engine)
    }

    /// The same; `None` even if the program exists, but was built without what this asks for.
    pub fn if_built_for(arguments: &[&str]) -> Option<Self> {
        let mut engine = Self::not_started(arguments)?;
        engine.spawn();
        let socket = engine.socket();
        let mut has_ended = false;
        wait_until("the engine, or its end", || {
            let ended = engine.process.as_mut().map(|process| process.try_wait());
            has_ended = !matches!(ended, Some(Ok(None)));
            has_ended || UnixStream::connect(&socket).is_ok()
        });
        if has_ended {
            skipped(&format!("{} does not start with {arguments:?}", program()));
        }
        (!has_ended).then_some(engine)
    }

    fn not_started(arguments: &[&str]) -> Option<Self> {
        let probe = Command::new(program()).arg("--version").stdout(Stdio::null()).status();
        if probe.is_err() {
            skipped(&format!("there is no {}", program()));
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Some(Self { directory, arguments, process: None })
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Kills the process and starts another one.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        let socket = self.socket();
        wait_until("the engine", || UnixStream::connect(&socket).is_ok());
    }

    fn spawn(&mut self) {
        let mut command = Command::new(program());
        command.args(["--port", "0", "--unixsocket"]).arg(self.socket());
        command.arg("--dir").arg(self.directory.path()).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("a redis-server"));
    }

    /// The same, without what it has in its file.
    pub fn restart_empty(&mut self) {
        self.kill();
        let entries = std::fs::read_dir(self.directory.path()).expect("a directory").flatten();
        for entry in entries {
            let path = entry.path();
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
        self.restart();
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_file(self.socket());
    }

    /// Stops the process for this long, as a machine that is suspended would.
    pub fn freeze(&self, time: Duration) {
        self.suspend();
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        self.resume();
    }

    /// Stops the process until it is resumed or killed.
    pub fn suspend(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.process.as_ref().expect("it runs"));
        rustix::process::kill_process(pid, signal).expect("it is ours");
    }

    /// Sends a command to the engine, and returns the reply unparsed.
    pub fn say(&self, words: &[&str]) -> String {
        use std::io::{Read, Write};
        let mut socket = UnixStream::connect(self.socket()).expect("the engine");
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        text.push_str("*1\r\n$4\r\nQUIT\r\n");
        socket.write_all(text.as_bytes()).expect("an engine that reads");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("an engine that answers");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}
