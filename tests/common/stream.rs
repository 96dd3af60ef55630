//! One client that sends numbered lines to another as fast as they go, for as long as a test likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use super::{Client, wait_until};

/// How many lines are sent with one write.
const PACKET: u64 = 100;

/// What comes after the numbered lines.
const LAST: &str = "that is all";

/// A stream that is on its way.
pub struct Stream {
    finish: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Client>,
}

impl Stream {
    /// Between clients that are logged in under these names, each line filled up by so many bytes.
    pub fn start([mut from, mut to]: [Client; 2], names: [&str; 2], padding: usize) -> Self {
        let (finish, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&finish), Arc::clone(&received));
        let [sender, recipient] = names.map(str::to_owned);
        let padding = "x".repeat(padding);
        let expected = padding.clone();
        let receiver = thread::spawn(move || {
            loop {
                let said = to.line().expect("the stream goes on");
                if said == format!("from {sender}: {LAST}") {
                    return to;
                }
                let number = count.load(SeqCst);
                assert_eq!(said, format!("from {sender}: {number} {expected}").trim_end());
                count.store(number + 1, SeqCst);
            }
        });
        let sender = thread::spawn(move || {
            let mut next = 0;
            while !told.load(SeqCst) {
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

    /// Waits until so many more have arrived.
    pub fn flows(&self, count: u64) {
        let enough = self.received() + count;
        wait_until("the stream", || self.received() >= enough || self.receiver.is_finished());
        assert!(self.received() >= enough, "the stream has ended");
    }

    /// Comes to an end; returns the number of messages, all of which have arrived in order, and who
    /// has received them.
    pub fn finish(self) -> (u64, Client) {
        self.finish.store(true, SeqCst);
        let sent = self.sender.join().expect("all was taken");
        let client = self.receiver.join().expect("all has arrived, in order");
        assert_eq!(self.received.load(SeqCst), sent);
        (sent + 1, client)
    }
}
