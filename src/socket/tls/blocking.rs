//! A client's side of TLS, over a socket whose calls block. One thread receives and another sends;
//! they share the session, and neither waits while it holds it.

use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::session::{Fed, Session};

/// How much ciphertext one system call receives, in bytes.
const CHUNK: usize = 16 * 1024;

/// How much plaintext is encrypted at a time, in bytes.
const MAX_PIECE: usize = 64 * 1024;

/// Both directions of a client's connection.
#[derive(Debug)]
pub(crate) struct Blocking {
    session: Mutex<Session>,
    /// Ciphertext that is not decrypted. Used by the thread that receives.
    received: Mutex<Vec<u8>>,
}

impl Blocking {
    /// Completes the handshake. `recv` and `send` are the socket's calls.
    pub(crate) fn connect(
        mut session: Session,
        mut recv: impl FnMut(&mut [u8]) -> io::Result<usize>,
        mut send: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut received = Vec::new();
        loop {
            let handshaken = session.handshake(&received);
            let mut output = Vec::new();
            session.take_output(&mut output);
            // Also if it failed: the alert says why. Should the server have closed already, receiving
            // finds out why.
            if !output.is_empty() {
                let _ = send(&output);
            }
            received.drain(..handshaken?);
            if !session.is_handshaking() {
                return Ok(Self { session: Mutex::new(session), received: Mutex::new(received) });
            }
            receive(&mut received, &mut recv)?;
        }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(|poisoned| {
            let mut session = poisoned.into_inner();
            session.break_off();
            session
        })
    }

    /// Decrypts into `buffer`, waiting for something to decrypt; 0 once the server has said that it
    /// ends. The end of the socket's stream before that is an error: anyone can cause it.
    pub(crate) fn read(
        &self,
        mut recv: impl FnMut(&mut [u8]) -> io::Result<usize>,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Fed { consumed, produced, ended } = self.session().feed(&received, buffer)?;
            received.drain(..consumed);
            if produced > 0 || ended || buffer.is_empty() {
                return Ok(produced);
            }
            receive(&mut received, &mut recv)?;
        }
    }

    /// Encrypts and sends the beginning of `parts`. Returns how much plaintext that is.
    pub(crate) fn write(
        &self,
        mut send: impl FnMut(&[u8]) -> io::Result<()>,
        parts: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).copied().collect();
        let (mut parts, mut total, mut output) = (parts.as_mut_slice(), 0, Vec::new());
        while !parts.is_empty() && total < MAX_PIECE {
            let count = self.session().encrypt(parts, &mut output)?;
            IoSlice::advance_slices(&mut parts, count);
            total += count;
        }
        send(&output).map(|()| total)
    }

    /// Says that this side sends no more.
    pub(crate) fn finish(&self, send: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut output = Vec::new();
        self.session().end_sending(&mut output);
        send(&output)
    }
}

/// Appends what one call receives.
fn receive(
    received: &mut Vec<u8>,
    recv: &mut impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let before = received.len();
    received.resize(before + CHUNK, 0);
    let result = recv(&mut received[before..]);
    received.truncate(before + result.as_ref().map_or(0, |count| *count));
    match result? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
