//! Two clients that talk to each other all the while, so that a test can tell whether whatever it
//! does to the server concerns anybody else; and a look at the server's memory all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use a_chat::Report;
use crossbeam_channel::{RecvTimeoutError, Sender};

use super::{Client, TestServer, wait_until};

/// How many messages each of the two sends before the other one answers.
const BURST: u64 = 16;

/// `left` and `right`, who exchange numbered messages until they are told to finish.
pub struct Bystanders {
    finish: Arc<AtomicBool>,
    messages: Arc<AtomicU64>,
    thread: JoinHandle<[Client; 2]>,
}

impl Bystanders {
    pub fn start(server: &TestServer) -> Self {
        Self::between(["left", "right"].map(|name| server.login(name)))
    }

    /// The same with clients that are logged in already, as `left` and `right`.
    pub fn between([mut left, mut right]: [Client; 2]) -> Self {
        let (finish, messages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, said) = (Arc::clone(&finish), Arc::clone(&messages));
        let thread = thread::spawn(move || {
            let mut first = 0;
            while !told.load(SeqCst) {
                say(&mut left, &mut right, ["left", "right"], first);
                say(&mut right, &mut left, ["right", "left"], first);
                first += BURST;
                said.fetch_add(2 * BURST, SeqCst);
            }
            [left, right]
        });
        Self { finish, messages, thread }
    }

    /// Waits until the two have exchanged `count` messages more: nothing holds them up now.
    pub fn exchange(&self, count: u64) {
        // The round that is under way may have begun earlier.
        let enough = self.messages.load(SeqCst) + count + 2 * BURST;
        wait_until("the bystanders", || {
            self.messages.load(SeqCst) >= enough || self.thread.is_finished()
        });
        assert!(!self.thread.is_finished(), "a bystander was harmed");
    }

    /// Lets the two finish and waits until nothing is queued for anybody, then stops the server.
    /// Returns the report without the bystanders' share, which is checked here.
    pub fn finish(self, server: TestServer) -> Report {
        let (clients, messages) = self.end();
        wait_until("all windows to be empty", || server.stats().queued_bytes == 0);
        let mut report = server.stop_with(clients.map(|client| (client, messages / 2)));
        report.connections -= 2;
        report.accepted -= messages;
        report.owed -= messages;
        report.delivered -= messages;
        report
    }

    /// Lets the two finish; returns them, and how many messages they have exchanged.
    pub fn end(self) -> ([Client; 2], u64) {
        self.finish.store(true, SeqCst);
        wait_until("the bystanders' end", || self.thread.is_finished());
        let clients = self.thread.join().expect("the bystanders are unharmed");
        (clients, self.messages.load(SeqCst))
    }
}

/// A burst of numbered messages, all of which must arrive in order, with nothing in between.
fn say(from: &mut Client, to: &mut Client, [sender, recipient]: [&str; 2], first: u64) {
    let numbers = first..first + BURST;
    let lines = numbers.clone().map(|number| format!("{recipient}: {number}\n"));
    from.send_bytes(lines.collect::<Vec<_>>().concat().as_bytes());
    for number in numbers {
        to.expect_line(&format!("from {sender}: {number}"));
    }
}

/// Watches how many bytes are charged to the senders of a server.
pub struct Peak {
    end: Sender<()>,
    thread: JoinHandle<u64>,
}

impl Peak {
    pub fn watch(server: &TestServer) -> Self {
        let (end, ended) = crossbeam_channel::bounded(0);
        let stats = server.stats_handle();
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while ended.recv_timeout(Duration::from_micros(200)) == Err(RecvTimeoutError::Timeout) {
                peak = peak.max(stats.read().queued_bytes);
            }
            peak
        });
        Self { end, thread }
    }

    /// The most bytes that were seen.
    pub fn end(self) -> u64 {
        drop(self.end);
        self.thread.join().expect("no panic")
    }
}
