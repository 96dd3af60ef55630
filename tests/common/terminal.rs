//! A client at a pseudo-terminal, and the screen as its user sees it: the client's output goes
//! through a model of a terminal.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::common::{TEST_TIMEOUT, wait_until};
use crate::process::{EXECUTABLE, Process, through};

pub const ROWS: u16 = 24;
pub const COLUMNS: u16 = 80;

/// The status that is shown when leaving takes more than a second.
pub const WAITING: &str = "a-chat: waiting for what is still on its way; Ctrl-C ends that";

/// How the status begins that is shown when connecting takes half a second.
const CONNECTING: &str = "a-chat: connecting to ";

/// How many rows are kept after they scrolled off the top of the screen.
const SCROLLBACK: usize = 100_000;

pub struct Terminal {
    /// The user's side of the terminal.
    master: File,
    /// The client's side, kept open so that the modes can be checked after the client exits.
    slave: Option<File>,
    /// The modes before the client started.
    before: Termios,
    screen: vt100::Parser,
    pub process: Process,
}

impl Terminal {
    /// Runs `a-chat connect` at a terminal that can show colours.
    pub fn start(address: SocketAddr, flags: &[&str]) -> Self {
        Self::start_with(address, flags, |_| {})
    }

    /// The same, after a change to the command, such as its environment.
    pub fn start_with(
        address: SocketAddr,
        flags: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        // As a shell does: this terminal is the one that sends it signals.
        let mut command = through(&["setsid", "--ctty"], EXECUTABLE);
        command.arg("connect").arg(address.to_string()).args(flags);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        change(&mut command);
        Self::run(command, ROWS, COLUMNS)
    }

    /// Runs any command that exits with the client, in a window of this size.
    pub fn run(mut command: Command, rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("an unlocked one");
        let slave = File::from(ioctl_tiocgptpeer(&master, flags).expect("its other end"));
        let end = || slave.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end());
        let before = tcgetattr(&slave).expect("modes");
        set_size(&master, rows, columns);
        let [rows, columns] = [rows, columns].map(|size| NonZeroU16::new(size).expect("a size"));
        Self {
            master: File::from(master),
            slave: Some(slave),
            before,
            screen: vt100::Parser::new(rows, columns, SCROLLBACK),
            process: Process::start(command),
        }
    }

    /// Presses keys, or sends anything else that a terminal may send.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Sets `O_NONBLOCK` on the terminal, which the client shares.
    pub fn set_non_blocking(&self) {
        ioctl_fionbio(self.slave.as_ref().expect("not ended"), true).expect("a terminal");
    }

    /// Resizes the window; the client is notified.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
        let [rows, columns] = [rows, columns].map(|size| NonZeroU16::new(size).expect("a size"));
        self.screen.screen_mut().set_size(rows, columns);
    }

    /// The visible rows, without trailing blanks, empty rows below, and the status that connecting
    /// takes a while, which depends on the load.
    pub fn rows(&self) -> Vec<String> {
        let screen = self.screen.screen();
        let (_, columns) = screen.size();
        let mut rows: Vec<_> =
            screen.rows(0, columns.get()).map(|row| row.trim_end().to_owned()).collect();
        rows.retain(|row| !row.starts_with(CONNECTING));
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    /// True if the lowest rows are these.
    pub fn ends_with(&self, lowest: &[&str]) -> bool {
        let rows = self.rows();
        rows.iter().map(String::as_str).collect::<Vec<_>>().ends_with(lowest)
    }

    /// Waits until the lowest rows are these.
    pub fn expect(&mut self, lowest: &[&str]) {
        self.wait_until(&format!("{lowest:#?} below"), |terminal| terminal.ends_with(lowest));
    }

    /// Waits until a row begins with this.
    pub fn expect_row(&mut self, start: &str) {
        self.wait_until(start, |terminal| terminal.rows().iter().any(|row| row.starts_with(start)));
    }

    /// The rows that scrolled off the top of the screen.
    pub fn scrolled_off(&self) -> Vec<String> {
        let mut screen = self.screen.screen().clone();
        let (_, columns) = screen.size();
        let row = |offset| {
            screen.set_scrollback(offset);
            screen.rows(0, columns.get()).next().expect("a row").trim_end().to_owned()
        };
        (1..=self.screen.screen().scrollback_len()).rev().map(row).collect()
    }

    /// The column of the cursor.
    pub fn column(&self) -> u16 {
        self.screen.screen().cursor_position().1
    }

    /// The colour of a word.
    pub fn colour(&self, word: &str) -> vt100::Color {
        let rows = self.rows();
        let found = rows.iter().enumerate().find_map(|(row, text)| Some((row, text.find(word)?)));
        let (row, column) = found.unwrap_or_else(|| panic!("no {word} in {rows:#?}"));
        let [row, column] = [row, column].map(|at| u16::try_from(at).expect("a small screen"));
        self.screen.screen().cell(row, column).expect("a cell").fgcolor()
    }

    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("not that long");
            let ready = poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&timeout));
            assert_eq!(ready, Ok(1), "expected {what}, got {:#?}", self.rows());
            assert!(self.update(), "expected {what}, got {:#?} and the end", self.rows());
        }
    }

    /// Reads what the client wrote; false if the client is gone.
    fn update(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // When the last client exits, this side gets an error.
        let count = self.master.read(&mut buffer).unwrap_or(0);
        self.screen.process(&buffer[..count]);
        count > 0
    }

    /// Closes the window.
    pub fn hang_up(self) -> Process {
        self.process
    }

    /// True if the modes are the original ones.
    pub fn is_restored(&self) -> bool {
        let modes = tcgetattr(self.slave.as_ref().expect("not ended")).expect("modes");
        format!("{modes:?}") == format!("{:?}", self.before)
    }

    /// Waits for the client to exit, and checks that it restored the terminal. Returns the exit
    /// status and the rows then, except for the status that leaving takes a while.
    pub fn wait(mut self) -> (i32, Vec<String>) {
        // It may have more to write than the terminal buffers.
        let deadline = Instant::now() + TEST_TIMEOUT;
        let short = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        while self.process.state() != 'Z' && Instant::now() < deadline {
            if poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&short)) == Ok(1) {
                self.update();
            }
        }
        assert_eq!(self.process.state(), 'Z', "no end in time: {:#?}", self.rows());
        let restored = self.is_restored();
        self.slave = None;
        while self.update() {}
        let mut rows = self.rows();
        rows.retain(|row| row != WAITING);
        let screen = self.screen.screen();
        assert!(restored && !screen.bracketed_paste(), "the modes are others: {rows:#?}");
        // The terminal itself echoes a Ctrl-C that it turns into a signal.
        let last = rows.last().map_or("", String::as_str);
        let at_start = screen.cursor_position().1 == 0 || last == "^C";
        assert!(at_start, "a row is left: {rows:#?}");
        (self.process.wait().0, rows)
    }

    /// The same for a client whose output is not read; returns the exit status.
    pub fn wait_unseen(self) -> i32 {
        wait_until("the end", || self.process.state() == 'Z');
        assert!(self.is_restored(), "the modes are others");
        self.process.wait().0
    }
}

fn set_size(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal");
}
