//! One client's socket, shared by its reader and its writer; the last of them to end closes it.
//!
//! No thread runs here and nothing here blocks: waiting is [`ShutdownHandle::wait`]'s.
//!
//! [`ShutdownHandle::wait`]: crate::ShutdownHandle

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::socket::sys;

/// How much input is thrown away at a time, in bytes.
const DISCARD_CHUNK: usize = 4 * 1024;

/// How much input one call of [`Connection::discard_input`] throws away at most, in chunks, so
/// that a client that sends without end can not keep its thread from looking at the clock.
const DISCARD_CHUNKS: usize = 64;

/// What a socket's send buffer grows to for a last line, in bytes.
const FINAL_SEND_BUFFER: usize = 1024 * 1024;

/// A client's socket. Every call asks not to block; the socket itself is not in that mode.
#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    socket: TcpStream,
    peer: SocketAddr,
    /// A FIN is behind the last byte, and counts as one where the kernel counts bytes.
    fin_sent: AtomicBool,
}

/// Tells connections apart over the whole life of a server, in the order in which they came; names
/// may come again, these do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client's side of the stream has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadResult {
    Bytes(usize),
    /// Nothing just now.
    WouldBlock,
    /// The client has sent its last byte.
    Eof,
}

impl Connection {
    /// Takes over an accepted socket.
    pub(crate) fn new(id: ConnectionId, socket: TcpStream, peer: SocketAddr) -> Self {
        Self { id, socket, peer, fin_sent: AtomicBool::new(false) }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Reads what is there, up to `buffer`'s length, which must not be 0.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<ReadResult> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(ReadResult::Eof),
                Ok((count, _)) => return Ok(ReadResult::Bytes(count)),
                Err(rustix::io::Errno::AGAIN) => return Ok(ReadResult::WouldBlock),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How many bytes of input the kernel holds just now.
    pub(crate) fn readable_bytes(&self) -> usize {
        let bytes = rustix::io::ioctl_fionread(&self.socket).unwrap_or(0);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Throws away input that is there, a bounded amount of it.
    ///
    /// Never inlined: its chunk would be part of every caller's stack frame, a page per thread.
    #[inline(never)]
    pub(crate) fn discard_input(&self) -> io::Result<ReadResult> {
        let mut chunk = [0; DISCARD_CHUNK];
        for _ in 0..DISCARD_CHUNKS {
            match self.read(&mut chunk)? {
                ReadResult::Bytes(count) if count == chunk.len() => {}
                other => return Ok(other),
            }
        }
        Ok(ReadResult::Bytes(DISCARD_CHUNK * DISCARD_CHUNKS))
    }

    /// Writes what the socket takes of `parts`, in order; `Ok(0)` if it takes nothing just now.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends FIN behind all that was written; a second time it does nothing.
    pub(crate) fn shutdown_write(&self) {
        // Fails only if the connection is gone, which whoever waits for its end will notice.
        if self.socket.shutdown(Shutdown::Write).is_ok() {
            self.fin_sent.store(true, Relaxed);
        }
    }

    /// How many of the written bytes the peer's kernel has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        // A socket that can not be asked is gone; what it owed is settled by its error.
        let unacknowledged = sys::unacknowledged(&self.socket).unwrap_or(0);
        unacknowledged.saturating_sub(u64::from(self.fin_sent.load(Relaxed)))
    }

    /// True if there is no connection any more: it was reset, timed out, or both sides closed it
    /// and know of each other.
    pub(crate) fn is_disconnected(&self) -> bool {
        self.socket.peer_addr().is_err()
    }

    /// Takes away the bounds on unsent bytes, so that a last line fits behind a full queue.
    pub(crate) fn lift_send_limits(&self) {
        let socket = socket2::SockRef::from(&self.socket);
        // What the system refuses only makes the last line wait for the client.
        let _ = socket.set_tcp_notsent_lowat(u32::MAX);
        let _ = socket.set_send_buffer_size(FINAL_SEND_BUFFER);
    }

    /// Ends a connection that has nothing on its way any more; wakes whoever waits for it.
    pub(crate) fn close(&self) {
        // Fails only if the peer has ended it first.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Ends the connection with a reset: what is not acknowledged now will not arrive later, when
    /// it has been reported as lost. Wakes whoever waits for it.
    pub(crate) fn abort(&self) {
        // Dissolving the association (connect(2), `AF_UNSPEC`) resets at once, where a close with
        // a linger time of 0 would wait until both threads have dropped the socket.
        if rustix::net::connect_unspec(&self.socket).is_err() {
            self.close();
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
