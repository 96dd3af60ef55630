//! The client's writer thread: it owns the sending side of the socket, and half-closes it when the
//! outbox is disconnected and everything is written.
//!
//! It writes all that is at hand with one call. Each piece goes to the reader first, who has to
//! know what the server answers to. Now and then, and at the end, it asks a question of its own,
//! so that the server's answer shows what was accepted.

use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::ledger::{Probe, Sent};
use super::outbox::{MAX_UNCONFIRMED_BYTES, News};

/// After so much, in bytes of charge, the server is asked for an answer. Room for eight times as
/// much means that the sender hardly ever waits for one.
const CHECKPOINT: usize = MAX_UNCONFIRMED_BYTES / 8;

/// After so long without a new line the server is asked for an answer, too.
const QUIET: Duration = Duration::from_secs(1);

/// How many pieces one call writes at most.
const PARTS: usize = 64;

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    socket: Arc<TcpStream>,
    queue: Receiver<Sent>,
    /// Gets each piece before it is written.
    ledger: Sender<Sent>,
    news: Sender<News>,
    /// The question to ask: one line, its line end included.
    who_query: Arc<[u8]>,
    /// The charge of what no question was asked after.
    unasked: usize,
    /// How many bytes of lines the system has taken.
    written: u64,
    /// The connection takes no more.
    broken: bool,
}

impl Writer {
    pub(crate) fn new(
        socket: Arc<TcpStream>,
        queue: Receiver<Sent>,
        ledger: Sender<Sent>,
        news: Sender<News>,
        who_query: Arc<[u8]>,
    ) -> Self {
        Self { socket, queue, ledger, news, who_query, unasked: 0, written: 0, broken: false }
    }

    /// The thread: writes until the queue is disconnected. Returns how many bytes the system took.
    pub(crate) fn run(mut self) -> u64 {
        while let Some(first) = self.next() {
            let mut parts = vec![self.take(first)];
            while parts.len() < PARTS - 1 {
                let Ok(next) = self.queue.try_recv() else { break };
                parts.push(self.take(next));
            }
            if self.unasked >= CHECKPOINT {
                parts.push(self.ask());
            }
            self.write(&parts);
        }
        if self.unasked > 0 {
            let who_query = self.ask();
            self.write(&[who_query]);
        }
        // Fails only if the connection is gone, which the reader will find too.
        let _ = self.socket.shutdown(Shutdown::Write);
        self.written
    }

    /// Waits for something to write; `None` when nothing will come any more.
    fn next(&mut self) -> Option<Sent> {
        while self.unasked > 0 {
            match self.queue.recv_timeout(QUIET) {
                Ok(sent) => return Some(sent),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    let who_query = self.ask();
                    self.write(&[who_query]);
                }
            }
        }
        self.queue.recv().ok()
    }

    /// Lets the reader know what comes next.
    fn take(&mut self, sent: Sent) -> Arc<[u8]> {
        self.unasked = if sent.own.is_some() { 0 } else { self.unasked + sent.charge };
        let bytes = Arc::clone(&sent.bytes);
        // The reader's end of this is kept until both threads have ended.
        let _ = self.ledger.send(sent);
        bytes
    }

    fn ask(&mut self) -> Arc<[u8]> {
        let bytes = Arc::clone(&self.who_query);
        self.take(Sent { bytes, lines: 1, own: Some(Probe::Checkpoint), charge: 0 })
    }

    /// Writes all of it, as long as the connection takes anything.
    fn write(&mut self, parts: &[Arc<[u8]>]) {
        if self.broken {
            return;
        }
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut unwritten = slices.as_mut_slice();
        while !unwritten.is_empty() {
            match (&*self.socket).write_vectored(unwritten) {
                Ok(count) if count > 0 => {
                    self.written += count as u64;
                    IoSlice::advance_slices(&mut unwritten, count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    // What the reader still finds tells why.
                    self.broken = true;
                    let _ = self.news.send(News::Broken);
                    return;
                }
            }
        }
    }
}
