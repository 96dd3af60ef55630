//! The client's writer thread. It owns the sending side of the socket, and half-closes it when the
//! outbox is disconnected and everything is written.
//!
//! It writes everything queued with one call. Each piece goes to the reader first, which has to know
//! what the server replies to. Now and then, and at the end, it asks a question of its own, so that
//! the server's reply shows what was accepted.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::ledger::{Probe, Sent};
use super::transport::Transport;
use super::update::Update;

/// The server is asked for a reply after this long without a new line.
const QUIET_INTERVAL: Duration = Duration::from_secs(1);

/// How many pieces one call writes at most.
const MAX_IOVECS: usize = 64;

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    socket: Arc<Transport>,
    queue: Receiver<Sent>,
    /// Gets each piece before it is written.
    ledger: Sender<Sent>,
    updates: Sender<Update>,
    /// The question to ask: one line with its line end.
    who_query: Arc<[u8]>,
    /// The server is asked for a reply after lines of this charge, in bytes.
    checkpoint: usize,
    /// The charge of the lines that were written since the last question.
    unasked: usize,
    /// How many bytes were written to the socket.
    written: u64,
    /// The connection accepts no more bytes.
    broken: bool,
}

impl Writer {
    pub(crate) fn new(
        socket: Arc<Transport>,
        queue: Receiver<Sent>,
        ledger: Sender<Sent>,
        updates: Sender<Update>,
        who_query: Arc<[u8]>,
        checkpoint: usize,
    ) -> Self {
        let (unasked, written, broken) = (0, 0, false);
        Self { socket, queue, ledger, updates, who_query, checkpoint, unasked, written, broken }
    }

    /// The thread: writes until the queue is disconnected. Returns how many bytes were written.
    pub(crate) fn run(mut self) -> u64 {
        while let Some(first) = self.next() {
            let mut parts = vec![self.take(first)];
            while parts.len() < MAX_IOVECS - 1 {
                let Ok(next) = self.queue.try_recv() else { break };
                parts.push(self.take(next));
            }
            if self.unasked >= self.checkpoint {
                parts.push(self.ask());
            }
            self.write(&parts);
        }
        if self.unasked > 0 {
            let who_query = self.ask();
            self.write(&[who_query]);
        }
        // It fails only if the connection is gone, as the reader will find.
        let _ = self.socket.finish();
        self.written
    }

    /// Waits for something to write; `None` when the queue is disconnected and empty.
    fn next(&mut self) -> Option<Sent> {
        while self.unasked > 0 {
            match self.queue.recv_timeout(QUIET_INTERVAL) {
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

    /// Passes the next piece to the reader before it is written.
    fn take(&mut self, sent: Sent) -> Arc<[u8]> {
        self.unasked = if sent.own.is_some() { 0 } else { self.unasked + sent.charge };
        let bytes = Arc::clone(&sent.bytes);
        // The reader keeps its end of this channel until both threads have exited.
        let _ = self.ledger.send(sent);
        bytes
    }

    fn ask(&mut self) -> Arc<[u8]> {
        let bytes = Arc::clone(&self.who_query);
        self.take(Sent { bytes, lines: 1, own: Some(Probe::Checkpoint), charge: 0 })
    }

    /// Writes all of it, unless the connection breaks.
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
                    // The reader will find out why.
                    self.broken = true;
                    let _ = self.updates.send(Update::Broken);
                    return;
                }
            }
        }
    }
}
