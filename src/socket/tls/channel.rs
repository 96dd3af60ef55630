//! The TLS of a server's connection, shared by its reader and its writer. The socket's calls come
//! from outside.

use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::incoming::{Incoming, discard};
use super::outgoing::Outgoing;
use super::session::Session;
use crate::socket::position::{Acknowledged, Wire};
use crate::socket::stream::ReadResult;

/// Both directions of a connection, and what they share.
#[derive(Debug)]
pub(crate) struct Channel {
    session: Mutex<Session>,
    /// Used by the thread that receives.
    incoming: Mutex<Incoming>,
    /// Used by the thread that sends. It outlives the session's errors, so the report stays exact.
    outgoing: Mutex<Outgoing>,
}

impl Channel {
    /// The channel of a client that has already sent `first`.
    pub(crate) fn new(session: Session, first: &[u8]) -> Self {
        let mut incoming = Incoming::default();
        incoming.push(first);
        Self {
            session: Mutex::new(session),
            incoming: Mutex::new(incoming),
            outgoing: Mutex::default(),
        }
    }

    /// After a panic in the middle of a record nothing is encrypted or decrypted any more.
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(|poisoned| {
            let mut session = poisoned.into_inner();
            session.break_off();
            session
        })
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Continues the handshake as far as the socket allows; true once it is over.
    pub(crate) fn handshake(
        &self,
        recv: impl FnMut(&mut [u8]) -> io::Result<ReadResult>,
        send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        let (mut incoming, mut outgoing) = (self.incoming(), self.outgoing());
        let mut session = self.session();
        let received = incoming.handshake(&mut session, recv);
        // Also if it failed: the alert says why.
        outgoing.push_other(|ciphertext| session.take_output(ciphertext));
        outgoing.flush(send, || false)?;
        match received? {
            ReadResult::Eof => Err(io::ErrorKind::UnexpectedEof.into()),
            ReadResult::Bytes(_) | ReadResult::WouldBlock => Ok(!session.is_handshaking()),
        }
    }

    /// Decrypts into `buffer`, receiving at most `budget` bytes of ciphertext, which are subtracted
    /// from it.
    pub(crate) fn read(
        &self,
        mut recv: impl FnMut(&mut [u8]) -> io::Result<ReadResult>,
        buffer: &mut [u8],
        budget: &mut usize,
    ) -> io::Result<ReadResult> {
        if self.session().is_closed() {
            return discard(recv, buffer);
        }
        let feed = |input: &[u8], output: &mut [u8]| self.session().feed(input, output);
        self.incoming().read(feed, &mut recv, buffer, budget)
    }

    /// Whether another read may return something without waiting for the socket.
    pub(crate) fn maybe_readable(&self) -> bool {
        self.incoming().maybe_more()
    }

    /// Encrypts and sends the beginning of `parts`. Returns how much plaintext that is; 0 if the
    /// socket has no room yet for what was encrypted before.
    pub(crate) fn write(
        &self,
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
        send_fin: impl Fn() -> bool,
        parts: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut outgoing = self.outgoing();
        outgoing.flush(&mut send, &send_fin)?;
        if outgoing.has_pending() {
            return Ok(0);
        }
        let encrypt = |parts: &[IoSlice<'_>], out: &mut Vec<u8>| self.session().encrypt(parts, out);
        let count = outgoing.encrypt(parts, encrypt)?;
        let before = outgoing.pending();
        let flushed = outgoing.flush(send, send_fin);
        // Once the socket has taken some of it, it may arrive, so it is written; the next call fails
        // as well.
        flushed.or_else(|error| if outgoing.pending() < before { Ok(()) } else { Err(error) })?;
        Ok(count)
    }

    /// Passes to the socket what waits for it.
    pub(crate) fn flush(
        &self,
        send: impl FnMut(&[u8]) -> io::Result<usize>,
        send_fin: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        self.outgoing().flush(send, send_fin)
    }

    /// Ends our side behind everything written: `close_notify`, then FIN. Calling it again only
    /// flushes.
    pub(crate) fn finish(
        &self,
        send: impl FnMut(&[u8]) -> io::Result<usize>,
        send_fin: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        let mut outgoing = self.outgoing();
        outgoing.finish(&mut self.session());
        outgoing.flush(send, send_fin)
    }

    /// Whether ciphertext waits for the socket.
    pub(crate) fn has_pending(&self) -> bool {
        self.outgoing().has_pending()
    }

    /// How much ciphertext is not acknowledged, if `in_socket` bytes in the socket are not.
    pub(crate) fn unacknowledged(&self, in_socket: impl FnOnce() -> u64) -> u64 {
        // Locked before the socket is asked, so nothing is handed over in between.
        let outgoing = self.outgoing();
        outgoing.unacknowledged(in_socket())
    }

    /// Up to where both streams are acknowledged, if `in_socket` bytes in the socket are not.
    pub(crate) fn acknowledged(&self, in_socket: impl FnOnce() -> u64) -> Acknowledged {
        let mut outgoing = self.outgoing();
        outgoing.acknowledge(in_socket())
    }

    /// Where the ciphertext ends, whether the socket has taken it or not.
    pub(crate) fn end(&self) -> Wire {
        self.outgoing().end()
    }
}
