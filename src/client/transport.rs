//! A client's socket, encrypted or not. Its reader and its writer share it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use crate::socket::stream::Stream;
#[cfg(feature = "tls")]
use crate::socket::tls::blocking::Blocking;

/// A connected socket, and its TLS.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Stream,
    #[cfg(feature = "tls")]
    tls: Option<Blocking>,
}

impl From<Stream> for Transport {
    fn from(socket: Stream) -> Self {
        Self {
            socket,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Transport {
    /// Encrypts everything on this socket.
    #[cfg(feature = "tls")]
    pub(crate) fn encrypted(socket: Stream, tls: Blocking) -> Self {
        Self { socket, tls: Some(tls) }
    }

    /// Says that this side sends no more. Only the thread that writes may do so.
    pub(crate) fn finish(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.finish(|bytes| (&self.socket).write_all(bytes))?;
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// Closes the socket in these directions, whatever the other thread is doing.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }
}

impl Read for &Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.read(|to| (&self.socket).read(to), buffer);
        }
        (&self.socket).read(buffer)
    }
}

impl Write for &Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.write(|bytes| (&self.socket).write_all(bytes), parts);
        }
        (&self.socket).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
