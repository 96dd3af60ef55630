//! The sending side of an encrypted connection: what was encrypted, what of it the socket has taken,
//! and what the other side's kernel has acknowledged. Plain state, owned by the thread that sends.
//!
//! Wiretext that the socket has no room for waits here. It is written, as far as its senders'
//! windows are concerned, but neither in flight nor acknowledged.

use std::io::{self, IoSlice};

use super::ends::RecordEnds;
use super::session::{MAX_RECORD, Session};
use crate::socket::position::{Acknowledged, Wire};

/// How much plaintext is encrypted at a time, in bytes. It bounds what waits in user space.
const MAX_PIECE: usize = 64 * 1024;

/// Room for what a few records take beside their plaintext, in bytes.
const RECORD_OVERHEAD: usize = 256;

/// Everything sent, and about to be.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Wiretext, of which the socket has taken the first `taken` bytes.
    ciphertext: Vec<u8>,
    taken: usize,
    /// Up to where the socket has taken it.
    handed_over: Wire,
    ends: RecordEnds,
    fin: Fin,
}

/// The end of our side, behind everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fin {
    #[default]
    None,
    /// Once no ciphertext waits any more.
    Wanted,
    Sent,
}

impl Outgoing {
    /// Whether ciphertext, or the end of our side, waits for the socket.
    pub(crate) fn has_pending(&self) -> bool {
        self.taken < self.ciphertext.len()
    }

    /// How much ciphertext waits for the socket, in bytes.
    pub(crate) fn pending(&self) -> u64 {
        (self.ciphertext.len() - self.taken) as u64
    }

    /// Where the ciphertext ends, whether the socket has taken it or not.
    pub(crate) fn end(&self) -> Wire {
        self.ends.end().0
    }

    /// Encrypts the beginning of `parts`, a record at a time. Returns how much plaintext that was.
    ///
    /// Call it only when nothing is pending. If it fails, nothing of this piece is ever sent.
    pub(crate) fn encrypt(
        &mut self,
        parts: &[IoSlice<'_>],
        mut encrypt_record: impl FnMut(&[IoSlice<'_>], &mut Vec<u8>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        // Empty parts at the end would look as if there were something left.
        let mut parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).copied().collect();
        let (mut parts, mut total) = (parts.as_mut_slice(), 0);
        let (start, ends) = (self.ciphertext.len(), self.ends.mark());
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.ciphertext.reserve(length.min(MAX_PIECE + MAX_RECORD) + RECORD_OVERHEAD);
        while !parts.is_empty() && total < MAX_PIECE {
            let before = self.ciphertext.len();
            let encrypted = encrypt_record(parts, &mut self.ciphertext);
            let plain = encrypted.inspect_err(|_| {
                self.ciphertext.truncate(start);
                self.ends.roll_back(ends);
            })?;
            // What came out, not what is expected to: an answer to a KeyUpdate may go first.
            self.ends.push(plain, self.ciphertext.len() - before);
            IoSlice::advance_slices(&mut parts, plain);
            total += plain;
        }
        Ok(total)
    }

    /// Adds ciphertext that carries no plaintext of ours.
    pub(crate) fn push_other(&mut self, make: impl FnOnce(&mut Vec<u8>)) {
        let before = self.ciphertext.len();
        make(&mut self.ciphertext);
        if self.ciphertext.len() > before {
            self.ends.push(0, self.ciphertext.len() - before);
        }
    }

    /// Notes that our side ends. False if that was noted before.
    pub(crate) fn finish(&mut self, session: &mut Session) -> bool {
        if self.fin != Fin::None {
            return false;
        }
        self.fin = Fin::Wanted;
        self.push_other(|ciphertext| session.close(ciphertext));
        true
    }

    /// Passes to the socket what it has room for, then the end of our side if that is wanted.
    ///
    /// `send` returns how much it took, and 0 if the socket has no room.
    pub(crate) fn flush(
        &mut self,
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
        send_fin: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        while self.has_pending() {
            let count = send(&self.ciphertext[self.taken..])?;
            if count == 0 {
                return Ok(());
            }
            self.taken += count;
            self.handed_over.0 += count as u64;
        }
        // An idle client holds no memory for it.
        (self.ciphertext, self.taken) = (Vec::new(), 0);
        if self.fin == Fin::Wanted && send_fin() {
            self.fin = Fin::Sent;
        }
        Ok(())
    }

    /// How much ciphertext the other side's kernel has not acknowledged, what waits here included,
    /// if `in_socket` bytes in the socket are not.
    pub(crate) fn unacknowledged(&self, in_socket: u64) -> u64 {
        self.pending() + in_socket
    }

    /// Up to where the other side's kernel has acknowledged both streams, if `in_socket` bytes in the
    /// socket are not. Ask the socket after the last [`flush`](Self::flush), never before.
    pub(crate) fn acknowledge(&mut self, in_socket: u64) -> Acknowledged {
        let wire = Wire(self.handed_over.0.saturating_sub(in_socket));
        Acknowledged { plain: self.ends.acknowledge(wire), wire }
    }
}
