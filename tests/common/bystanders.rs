//! Two clients that exchange messages in the background, so a test can tell whether its attack on
//! the server affects other clients; and a watcher of the server's queued bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use a_chat::Report;
use crossbeam_channel::{RecvTimeoutError, Sender};

use super::{Client, TestServer, wait_until};

/// How many messages each of the two sends before the other one replies.
const BURST: u64 = 16;

/// `left` and `right`, who exchange numbered messages until [`end`](Self::end).
pub struct Bystanders {
    finish: Arc<AtomicBool>,
    messages: Arc<AtomicU64>,
    thread: JoinHandle<[Client; 2]>,
}

impl Bystanders {
    pub fn start(server: &TestServer) -> Self {
        Self::between(["left", "right"].map(|name| server.login(name)))
    }

    /// The same with clients that are already logged in as `left` and `right`.
    pub fn between([mut left, mut right]: [Client; 2]) -> Self {
        let (finish, messages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (finishing, exchanged) = (Arc::clone(&finish), Arc::clone(&messages));
        let thread = thread::spawn(move || {
            let mut first = 0;
            while !finishing.load(SeqCst) {
                send_burst(&mut left, &mut right, ["left", "right"], first);
                send_burst(&mut right, &mut left, ["right", "left"], first);
                first += BURST;
                exchanged.fetch_add(2 * BURST, SeqCst);
            }
            [left, right]
        });
        Self { finish, messages, thread }
    }

    /// Waits until the two have exchanged `count` more messages, which proves them undisturbed.
    pub fn exchange(&self, count: u64) {
        // The current round may have begun earlier.
        let target = self.messages.load(SeqCst) + count + 2 * BURST;
        wait_until("the bystanders", || {
            self.messages.load(SeqCst) >= target || self.thread.is_finished()
        });
        assert!(!self.thread.is_finished(), "a bystander was harmed");
    }

    /// Lets the two finish, waits until the server has no bytes queued, and shuts it down. Checks
    /// the bystanders' share of the report and returns the rest.
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

    /// Lets the two finish and leave.
    pub fn leave(self) {
        self.end().0.into_iter().for_each(Client::leave);
    }

    /// Lets the two finish; returns them, and how many messages they exchanged.
    pub fn end(self) -> ([Client; 2], u64) {
        self.finish.store(true, SeqCst);
        wait_until("the bystanders' end", || self.thread.is_finished());
        let clients = self.thread.join().expect("the bystanders are unharmed");
        (clients, self.messages.load(SeqCst))
    }
}

/// Sends a burst of numbered messages, all of which must arrive in order with no line in between.
fn send_burst(from: &mut Client, to: &mut Client, [sender, recipient]: [&str; 2], first: u64) {
    let numbers = first..first + BURST;
    let lines = numbers.clone().map(|number| format!("{recipient}: {number}\n"));
    from.send_bytes(lines.collect::<Vec<_>>().concat().as_bytes());
    for number in numbers {
        to.expect_line(&format!("from {sender}: {number}"));
    }
}

/// Watches how many queued bytes are charged to a server's senders.
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

    /// Ends the watch; returns the maximum seen.
    pub fn end(self) -> u64 {
        drop(self.end);
        self.thread.join().expect("no panic")
    }
}
