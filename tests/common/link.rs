//! A client's connection, over TLS or without, behind the calls of a [`TcpStream`]: the suites do not
//! know which. Where they differ, [`Transport::current`] tells.

#![cfg_attr(
    not(feature = "tls"),
    allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as with TLS")
)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};

/// How the clients of a test reach its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Tls,
}

impl Transport {
    /// That of this test: `over_tls.rs` includes the suites a second time, and there everything is
    /// encrypted. `TEST_TRANSPORT=tls` does so to any test in a build with TLS.
    pub fn current() -> Self {
        let is_tls = module_path!().starts_with("over_tls")
            || std::env::var("TEST_TRANSPORT").is_ok_and(|name| name == "tls");
        assert!(!is_tls || cfg!(feature = "tls"), "not in this build: --features tls");
        if is_tls { Self::Tls } else { Self::Plain }
    }

    pub fn is_tls(self) -> bool {
        self == Self::Tls
    }
}

/// A connection. Threads may share it, one of them to read and one to write.
#[derive(Debug)]
pub struct Link {
    socket: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<std::sync::Arc<super::tls::Session>>,
}

impl Link {
    /// A connection without TLS.
    pub fn plain(socket: TcpStream) -> Self {
        Self {
            socket,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// The connection of a socket that has just connected, which must be in blocking mode.
    ///
    /// # Errors
    ///
    /// If the handshake fails. A server that refuses a client says so without TLS, which is no error.
    pub fn new(socket: TcpStream, transport: Transport) -> io::Result<Self> {
        #[cfg(feature = "tls")]
        if transport.is_tls() {
            let tls = super::tls::Session::connect(&socket)?.map(std::sync::Arc::new);
            return Ok(Self { socket, tls });
        }
        let _ = transport;
        Ok(Self::plain(socket))
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
        })
    }

    /// Ends a direction, or both; with TLS, by saying so first.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let (Some(tls), Shutdown::Write) = (&self.tls, how) {
            tls.finish(&self.socket)?;
        }
        self.socket.shutdown(how)
    }

    /// How many of the bytes that were written are in a record that waits, whole or in part, for room
    /// in the socket.
    pub fn unsent(&self) -> u64 {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().map_or(0, |tls| tls.unsent());
        #[cfg(not(feature = "tls"))]
        0
    }

    /// Whether something that was written waits for room in the socket.
    pub fn has_pending(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().is_some_and(|tls| tls.has_pending());
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Passes it to the socket.
    pub fn flush_pending(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().map_or(Ok(()), |tls| tls.flush(&self.socket));
        #[cfg(not(feature = "tls"))]
        Ok(())
    }

    /// Whether something that has arrived may be read without asking the socket.
    pub fn has_buffered(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().is_some_and(|tls| tls.has_buffered());
        #[cfg(not(feature = "tls"))]
        false
    }

    /// The TLS of this connection.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&super::tls::Session> {
        self.tls.as_deref()
    }

    /// How many of the bytes that were written, beyond those that the other side's kernel has not
    /// acknowledged, it may lack nevertheless: a record that waits, and one of which it has a part.
    pub fn uncertain(&self) -> u64 {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return 2 * 16 * 1024;
        }
        0
    }
}

/// The connection of a socket that has just connected, over the transport of this test.
impl From<TcpStream> for Link {
    fn from(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(super::TEST_TIMEOUT)).expect("a timeout");
        Self::new(socket, Transport::current()).expect("a handshake")
    }
}

impl Deref for Link {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.socket
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for &Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.read(&self.socket, buffer);
        }
        (&self.socket).read(buffer)
    }
}

impl Write for &Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.write(&self.socket, bytes);
        }
        (&self.socket).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_pending()
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_pending()
    }
}
