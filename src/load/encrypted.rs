//! The TLS of one connection of the load. Its calls are those of a socket, and none of them waits for
//! the handshake: what is sent before its end goes out behind it. Owned by its client, and used by the
//! one thread that sends and the one that receives.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::client::Tls;
use crate::socket::stream::Stream;
use crate::socket::tls::session::{Fed, Session};

/// How much ciphertext one system call receives, in bytes.
const CHUNK: usize = 128 * 1024;

/// How much plaintext is encrypted at a time, in bytes.
const MAX_PIECE: usize = 64 * 1024;

thread_local! {
    /// Where this thread receives ciphertext, of whichever connection.
    static RECEIVED: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Both directions.
#[derive(Debug)]
pub(super) struct Encrypted {
    session: Mutex<Session>,
    /// Ciphertext that was received and for whose plaintext there was no room.
    left: Mutex<Vec<u8>>,
    sending: Mutex<Sending>,
    /// To explain a handshake that fails.
    tls: Tls,
    address: SocketAddr,
}

/// What waits to be sent, and what is known of the server.
#[derive(Debug, Default)]
struct Sending {
    /// The server has said something.
    heard: bool,
    /// Plaintext, until the end of the handshake.
    early: Vec<u8>,
    /// Ciphertext, of which the socket has taken the first `taken` bytes.
    ciphertext: Vec<u8>,
    taken: usize,
}

impl Encrypted {
    /// Sends the beginning of a handshake, `after_a_line` from the server if need be.
    pub(super) fn start(
        mut socket: &Stream,
        tls: &Tls,
        address: SocketAddr,
        after_a_line: bool,
    ) -> io::Result<Self> {
        let mut byte = [0];
        while after_a_line && byte != *b"\n" {
            socket.read_exact(&mut byte)?;
        }
        let mut session = tls.session(address).map_err(io::Error::other)?;
        let mut sending = Sending::default();
        session.take_output(&mut sending.ciphertext);
        // If this fails, the server's answer may say why.
        let _ = sending.flush(socket, SendFlags::NOSIGNAL);
        Ok(Self {
            session: Mutex::new(session),
            left: Mutex::default(),
            sending: Mutex::new(sending),
            tls: tls.clone(),
            address,
        })
    }

    /// Receives at most once, and decrypts; 0 is the end of the stream.
    pub(super) fn recv(
        &self,
        socket: &Stream,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> io::Result<usize> {
        let mut left = lock(&self.left);
        if !left.is_empty() {
            let Fed { consumed, produced, ended } = lock(&self.session).feed(&left, buffer)?;
            left.drain(..consumed);
            if produced > 0 || ended {
                return Ok(produced);
            }
        }
        RECEIVED.with_borrow_mut(|chunk| {
            let (count, _) = recv(socket, &mut chunk[..], flags)?;
            let received = &chunk[..count];
            let handshaken = self.shake_hands(socket, received)?;
            if received.is_empty() {
                return Ok(0);
            }
            let rest = &received[handshaken..];
            let fed = lock(&self.session).feed(rest, buffer)?;
            left.extend_from_slice(&rest[fed.consumed..]);
            match fed.produced {
                // A part of a record.
                0 if !fed.ended => Err(io::ErrorKind::WouldBlock.into()),
                produced => Ok(produced),
            }
        })
    }

    /// Goes on with the handshake, if it is not over. Returns how much of `received` that took.
    fn shake_hands(&self, socket: &Stream, received: &[u8]) -> io::Result<usize> {
        if !lock(&self.session).is_handshaking() {
            return Ok(0);
        }
        let mut sending = lock(&self.sending);
        let mut session = lock(&self.session);
        let taken = match received {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => session.handshake(received),
        };
        // Also if it failed: the alert says why.
        session.take_output(&mut sending.ciphertext);
        drop(session);
        if !lock(&self.session).is_handshaking() {
            let early = std::mem::take(&mut sending.early);
            sending.encrypt(&self.session, &early)?;
        }
        // If this fails, receiving finds out why.
        let _ = sending.flush(socket, SendFlags::NOSIGNAL);
        let is_first = !std::mem::replace(&mut sending.heard, true);
        taken.map_err(|error| {
            let answer = Tls::plain_answer(received).filter(|_| is_first);
            io::Error::other(self.tls.error(self.address, error, answer))
        })
    }

    /// Whether there may be more to receive although the socket has nothing.
    pub(super) fn may_hold_more(&self) -> bool {
        !lock(&self.left).is_empty()
    }

    /// Encrypts and sends what the socket takes, with the flags of send(2).
    pub(super) fn send(
        &self,
        socket: &Stream,
        bytes: &[u8],
        flags: SendFlags,
    ) -> io::Result<usize> {
        let mut sending = lock(&self.sending);
        sending.flush(socket, flags)?;
        let piece = &bytes[..bytes.len().min(MAX_PIECE)];
        if lock(&self.session).is_handshaking() {
            sending.early.extend_from_slice(piece);
            return Ok(piece.len());
        }
        sending.encrypt(&self.session, piece)?;
        match sending.flush(socket, flags) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(piece.len()),
        }
    }

    /// Whether ciphertext waits for the socket.
    pub(super) fn has_pending(&self) -> bool {
        let sending = lock(&self.sending);
        sending.taken < sending.ciphertext.len()
    }
}

impl Sending {
    fn encrypt(&mut self, session: &Mutex<Session>, mut plain: &[u8]) -> io::Result<()> {
        while !plain.is_empty() {
            let count = lock(session).encrypt(&[IoSlice::new(plain)], &mut self.ciphertext)?;
            plain = &plain[count..];
        }
        Ok(())
    }

    /// Sends all that waits; fails with `WouldBlock` if the socket has no room for it.
    fn flush(&mut self, socket: &Stream, flags: SendFlags) -> io::Result<()> {
        while self.taken < self.ciphertext.len() {
            self.taken += send(socket, &self.ciphertext[self.taken..], flags)?;
        }
        self.ciphertext.clear();
        self.taken = 0;
        Ok(())
    }
}

/// No thread panics while it holds one of these, unless the load ends with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
