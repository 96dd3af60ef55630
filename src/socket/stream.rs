//! A connected stream socket, over TCP or in the Unix domain. What differs between the two is asked
//! here; reading, writing and shutting down are the same system calls. Plain value.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::wire::endpoint::Endpoint;

/// A connected socket. Both variants hold nothing but a descriptor, so a call that does not depend
/// on the kind costs no comparison.
#[derive(Debug)]
#[doc(hidden)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// In the Unix domain, which ends at this host's kernel.
    Unix(UnixStream),
}

/// The result of a read that does not block.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadResult {
    Bytes(usize),
    /// No input is available at the moment.
    WouldBlock,
    /// The client closed its sending side.
    Eof,
}

impl Stream {
    /// Connects, with the options that a client's connection has. A Unix socket answers at once, or
    /// waits as long as its server's backlog is full.
    ///
    /// # Errors
    ///
    /// As connect(2), and if a TCP address does not answer within the timeout.
    pub fn connect(endpoint: &Endpoint, timeout: Duration) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let socket = TcpStream::connect_timeout(address, timeout)?;
                // The connection works without this, only less well.
                let _ = socket.set_nodelay(true);
                Ok(Self::Tcp(socket))
            }
            Endpoint::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    /// True if the socket is a TCP socket.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Closes one direction, or both.
    ///
    /// # Errors
    ///
    /// If the connection no longer exists.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(how),
            Self::Unix(socket) => socket.shutdown(how),
        }
    }

    /// Sets how long a read may wait; `None` waits indefinitely.
    ///
    /// # Errors
    ///
    /// If the timeout is zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_read_timeout(timeout),
            Self::Unix(socket) => socket.set_read_timeout(timeout),
        }
    }

    /// Sets how long a write may wait; `None` waits indefinitely.
    ///
    /// # Errors
    ///
    /// If the timeout is zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_write_timeout(timeout),
            Self::Unix(socket) => socket.set_write_timeout(timeout),
        }
    }

    /// Makes reads and writes return at once.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(nonblocking),
            Self::Unix(socket) => socket.set_nonblocking(nonblocking),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Tcp(socket) => socket.into(),
            Stream::Unix(socket) => socket.into(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => (&mut &*socket).read(buffer),
            Stream::Unix(socket) => (&mut &*socket).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => (&mut &*socket).write(bytes),
            Stream::Unix(socket) => (&mut &*socket).write(bytes),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => (&mut &*socket).write_vectored(parts),
            Stream::Unix(socket) => (&mut &*socket).write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&mut &*self).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&mut &*self).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
