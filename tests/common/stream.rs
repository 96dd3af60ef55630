//! A client that sends numbered lines to another as fast as possible, until the test ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use super::{Client, wait_until};

/// How many lines each write sends.
const PACKET: u64 = 100;

/// The text that follows the numbered lines.
const LAST: &str = "that is all";

/// A running stream.
pub struct Stream {
    finish: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Client>,
}

impl Stream {
    /// Starts a stream between two clients logged in under these names, each line padded by
    /// `padding` bytes.
    pub fn start([mut from, mut to]: [Client; 2], names: [&str; 2], padding: usize) -> Self {
        let (finish, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (finishing, count) = (Arc::clone(&finish), Arc::clone(&received));
        let [sender, recipient] = names.map(str::to_owned);
        let padding = "x".repeat(padding);
        let expected = padding.clone();
        let receiver = thread::spawn(move || {
            loop {
                let line = to.line().expect("the stream to go on");
                if line == format!("from {sender}: {LAST}") {
                    return to;
                }
                let number = count.load(SeqCst);
                assert_eq!(line, format!("from {sender}: {number} {expected}"));
                count.store(number + 1, SeqCst);
            }
        });
        let sender = thread::spawn(move || {
            let mut next = 0;
            while !finishing.load(SeqCst) {
                let numbers = next..next + PACKET;
                let lines = numbers.map(|number| format!("{recipient}: {number} {padding}\n"));
                from.send_bytes(lines.collect::<Vec<_>>().concat().as_bytes());
                next += PACKET;
            }
            from.send(&format!("{recipient}: {LAST}"));
            from.half_close();
            from.expect_eof();
            next
        });
        Self { finish, received, sender, receiver }
    }

    /// How many numbered lines have arrived.
    pub fn received(&self) -> u64 {
        self.received.load(SeqCst)
    }

    /// Waits until `count` more have arrived.
    pub fn flows(&self, count: u64) {
        let target = self.received() + count;
        wait_until("the stream", || self.received() >= target || self.receiver.is_finished());
        assert!(self.received() >= target, "the stream has ended");
    }

    /// Ends the stream; returns the number of messages, all of which arrived in order, and the
    /// client that received them.
    pub fn finish(self) -> (u64, Client) {
        self.finish.store(true, SeqCst);
        let sent = self.sender.join().expect("a server that reads it all");
        let client = self.receiver.join().expect("every line in order");
        assert_eq!(self.received.load(SeqCst), sent);
        (sent + 1, client)
    }
}
