//! The receiving side of an encrypted connection: ciphertext that was received and not yet
//! decrypted. Plain state, owned by the thread that receives.

use std::io;

use super::session::{Fed, Session};
use crate::socket::stream::ReadResult;

/// How much ciphertext one system call receives, in bytes.
const CHUNK: usize = 16 * 1024;

/// After discarding this many chunks in a row, the caller looks at its deadlines.
const DISCARD_CHUNKS: usize = 64;

/// What was received.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// Ciphertext, of which the first `fed` bytes are decrypted.
    ciphertext: Vec<u8>,
    fed: usize,
    /// rustls may hold plaintext, or the socket ciphertext.
    maybe_more: bool,
}

impl Incoming {
    /// Whether another read may return something without waiting for the socket.
    pub(crate) fn maybe_more(&self) -> bool {
        self.maybe_more
    }

    /// Decrypts into `buffer`, which must not be empty, receiving at most `budget` bytes of
    /// ciphertext, which are subtracted from it. `recv` does not block.
    ///
    /// Without a budget it decrypts only what was received before.
    pub(crate) fn read(
        &mut self,
        mut feed: impl FnMut(&[u8], &mut [u8]) -> io::Result<Fed>,
        mut recv: impl FnMut(&mut [u8]) -> io::Result<ReadResult>,
        buffer: &mut [u8],
        budget: &mut usize,
    ) -> io::Result<ReadResult> {
        loop {
            let Fed { consumed, produced, ended } =
                feed(&self.ciphertext[self.fed..], &mut *buffer)?;
            self.fed += consumed;
            if produced > 0 {
                self.maybe_more |= produced == buffer.len() || self.fed < self.ciphertext.len();
                if !self.maybe_more {
                    // The next read may be long in coming, and an idle client holds no memory for it.
                    *self = Self::default();
                }
                return Ok(ReadResult::Bytes(produced));
            }
            if ended {
                return Ok(ReadResult::Eof);
            }
            match self.receive(&mut recv, budget)? {
                ReadResult::Bytes(_) => {}
                other => {
                    // Nothing is left, and an idle client holds no memory for it.
                    *self = Self::default();
                    return Ok(other);
                }
            }
        }
    }

    /// Decrypts nothing, and continues the handshake until it is over or the socket is empty.
    pub(crate) fn handshake(
        &mut self,
        session: &mut Session,
        mut recv: impl FnMut(&mut [u8]) -> io::Result<ReadResult>,
    ) -> io::Result<ReadResult> {
        loop {
            self.fed += session.handshake(&self.ciphertext[self.fed..])?;
            if !session.is_handshaking() {
                self.maybe_more = true;
                return Ok(ReadResult::Bytes(self.fed));
            }
            match self.receive(&mut recv, &mut usize::MAX.clone())? {
                ReadResult::Bytes(_) => {}
                other => return Ok(other),
            }
        }
    }

    /// Adds what another reader has received already.
    pub(crate) fn push(&mut self, ciphertext: &[u8]) {
        self.ciphertext.extend_from_slice(ciphertext);
        self.maybe_more = true;
    }

    /// Receives once, when everything before is decrypted.
    fn receive(
        &mut self,
        recv: &mut impl FnMut(&mut [u8]) -> io::Result<ReadResult>,
        budget: &mut usize,
    ) -> io::Result<ReadResult> {
        self.ciphertext.resize(CHUNK.min(*budget), 0);
        self.fed = self.ciphertext.len();
        if self.ciphertext.is_empty() {
            return Ok(ReadResult::WouldBlock);
        }
        let received = recv(&mut self.ciphertext)?;
        if let ReadResult::Bytes(count) = received {
            self.maybe_more = count == self.ciphertext.len();
            self.ciphertext.truncate(count);
            self.fed = 0;
            *budget -= count;
        }
        Ok(received)
    }
}

/// Receives and forgets a bounded amount.
pub(crate) fn discard(
    mut recv: impl FnMut(&mut [u8]) -> io::Result<ReadResult>,
    chunk: &mut [u8],
) -> io::Result<ReadResult> {
    for _ in 0..DISCARD_CHUNKS {
        match recv(chunk)? {
            ReadResult::Bytes(_) => {}
            other => return Ok(other),
        }
    }
    Ok(ReadResult::WouldBlock)
}
