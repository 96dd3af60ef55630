//! A client at a pseudo-terminal, and the screen as somebody sees it who sits there: what the
//! client writes goes through a model of a terminal.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::process::Command;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::common::{PATIENCE, wait_until};
use crate::process::{EXECUTABLE, Process, through};

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// What is said when the end takes more than a second.
pub const WAITING: &str = "a-chat: waiting for what is still on its way; Ctrl-C ends that";

/// How many rows are kept that have left the screen at its top.
const SCROLLBACK: usize = 100_000;

pub struct Terminal {
    /// The end of the terminal at which somebody sits.
    master: File,
    /// The other one, kept open so that the modes can be looked at when the client has ended.
    slave: Option<File>,
    /// How the terminal was before the client came.
    before: Termios,
    screen: vt100::Parser,
    pub process: Process,
}

impl Terminal {
    /// `a-chat connect`, at a terminal that can show colours.
    pub fn start(address: SocketAddr, flags: &[&str]) -> Self {
        Self::start_with(address, flags, |_| {})
    }

    /// The same with a change, to the environment that is.
    pub fn start_with(
        address: SocketAddr,
        flags: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        // As a shell does it: its terminal is the one from which it gets its signals.
        let mut command = through(&["setsid", "--ctty"], EXECUTABLE);
        command.arg("connect").arg(address.to_string()).args(flags);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        change(&mut command);
        Self::run(command)
    }

    /// Any command that ends with the client.
    pub fn run(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("one to be used");
        let slave = File::from(ioctl_tiocgptpeer(&master, flags).expect("its other end"));
        let end = || slave.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end());
        let before = tcgetattr(&slave).expect("modes");
        let [rows, columns] = [ROWS, COLUMNS].map(|size| NonZeroU16::new(size).expect("a size"));
        let mut terminal = Self {
            master: File::from(master),
            slave: Some(slave),
            before,
            screen: vt100::Parser::new(rows, columns, SCROLLBACK),
            process: Process::start(command),
        };
        terminal.resize(ROWS, COLUMNS);
        terminal
    }

    /// Presses keys, or says what else a terminal may say.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Gives the window another size; the client is told.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("a terminal");
        let [rows, columns] = [rows, columns].map(|size| NonZeroU16::new(size).expect("a size"));
        self.screen.screen_mut().set_size(rows, columns);
    }

    /// The rows that are seen, without blanks at their ends and empty ones below.
    pub fn rows(&self) -> Vec<String> {
        let screen = self.screen.screen();
        let (_, columns) = screen.size();
        let mut rows: Vec<_> =
            screen.rows(0, columns.get()).map(|row| row.trim_end().to_owned()).collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }

    /// Whether the lowest rows are these.
    pub fn ends_with(&self, lowest: &[&str]) -> bool {
        let rows = self.rows();
        rows.iter().map(String::as_str).collect::<Vec<_>>().ends_with(lowest)
    }

    /// Waits until the lowest rows are these.
    pub fn expect(&mut self, lowest: &[&str]) {
        self.wait_until(&format!("{lowest:#?} below"), |terminal| terminal.ends_with(lowest));
    }

    /// Waits until some row begins with this.
    pub fn expect_row(&mut self, start: &str) {
        self.wait_until(start, |terminal| terminal.rows().iter().any(|row| row.starts_with(start)));
    }

    /// The rows that have left the screen at its top.
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

    /// The colour in which a word is seen.
    pub fn colour(&self, word: &str) -> vt100::Color {
        let rows = self.rows();
        let found = rows.iter().enumerate().find_map(|(row, text)| Some((row, text.find(word)?)));
        let (row, column) = found.unwrap_or_else(|| panic!("no {word} in {rows:#?}"));
        let [row, column] = [row, column].map(|at| u16::try_from(at).expect("a small screen"));
        self.screen.screen().cell(row, column).expect("a cell").fgcolor()
    }

    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("not that long");
            let ready = poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&timeout));
            assert_eq!(ready, Ok(1), "expected {what}, got {:#?}", self.rows());
            assert!(self.update(), "expected {what}, got {:#?} and the end", self.rows());
        }
    }

    /// Takes what the client has written; false if there is no client any more.
    fn update(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // The end of all clients is an error on this side.
        let count = self.master.read(&mut buffer).unwrap_or(0);
        self.screen.process(&buffer[..count]);
        count > 0
    }

    /// Closes the window. Nothing is left to be seen.
    pub fn hang_up(self) -> Process {
        self.process
    }

    /// The modes are those from before.
    pub fn is_given_back(&self) -> bool {
        let modes = tcgetattr(self.slave.as_ref().expect("not ended")).expect("modes");
        format!("{modes:?}") == format!("{:?}", self.before)
    }

    /// Waits for the client's end: it has to give the terminal back as it was. Returns the exit
    /// status and what is seen then, but for the word that it takes its time.
    pub fn wait(mut self) -> (i32, Vec<String>) {
        // It may have more to write than the terminal takes.
        let deadline = Instant::now() + PATIENCE;
        let short = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        while self.process.state() != 'Z' && Instant::now() < deadline {
            if poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&short)) == Ok(1) {
                self.update();
            }
        }
        assert_eq!(self.process.state(), 'Z', "no end in time: {:#?}", self.rows());
        let given_back = self.is_given_back();
        self.slave = None;
        while self.update() {}
        let mut rows = self.rows();
        rows.retain(|row| row != WAITING);
        let screen = self.screen.screen();
        assert!(given_back && !screen.bracketed_paste(), "the modes are others: {rows:#?}");
        // The terminal itself shows a Ctrl-C of which it makes a signal.
        let last = rows.last().map_or("", String::as_str);
        let at_start = screen.cursor_position().1 == 0 || last == "^C";
        assert!(at_start, "a row is left: {rows:#?}");
        (self.process.wait().0, rows)
    }

    /// The same for a client that has more to write than anybody takes; returns the exit status.
    pub fn wait_unseen(self) -> i32 {
        wait_until("the end", || self.process.state() == 'Z');
        assert!(self.is_given_back(), "the modes are others");
        self.process.wait().0
    }
}
