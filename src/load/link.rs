//! One connection of the load, encrypted or not, and where it leads. One thread may send on it while
//! another receives.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};

#[cfg(feature = "tls")]
use super::encrypted::Encrypted;
#[cfg(feature = "tls")]
use crate::client::Tls;
use crate::socket::stream::Stream;
use crate::wire::endpoint::Endpoint;

/// Where the load connects to, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server's address.
    pub address: Endpoint,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    /// The server says a line before its TLS begins.
    #[cfg(feature = "tls")]
    after_a_line: bool,
}

impl From<Endpoint> for Target {
    fn from(address: Endpoint) -> Self {
        Self {
            address,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            after_a_line: false,
        }
    }
}

impl Target {
    /// Encrypts the connections. Unless `tls` knows better, the server's certificate must have the
    /// name of `host`, as in `chat.example.org:8080`, or else the address. One over a Unix socket never
    /// is encrypted.
    #[cfg(feature = "tls")]
    pub fn with_tls(self, tls: Tls, host: Option<&str>) -> Self {
        let tls = match host {
            Some(host) => tls.or_server_name_of(host),
            None => tls,
        };
        Self { tls: Some(tls), ..self }
    }

    /// Expects a line without TLS before the handshake, as NATS sends it.
    #[cfg(feature = "tls")]
    pub fn after_a_line(self) -> Self {
        Self { after_a_line: true, ..self }
    }
}

/// A connection. Over TLS the first thing sent may wait for the handshake, which goes on whenever
/// somebody receives.
#[derive(Debug)]
pub struct Link {
    socket: Stream,
    #[cfg(feature = "tls")]
    tls: Option<Box<Encrypted>>,
}

impl Link {
    /// Connects, and begins the handshake.
    pub(super) fn connect(target: &Target, timeout: Duration) -> io::Result<Self> {
        let socket = Stream::connect(&target.address, timeout)?;
        #[cfg(feature = "tls")]
        let tls = match (&target.tls, target.address.tcp_addr()) {
            (Some(tls), Some(address)) => {
                socket.set_read_timeout(Some(timeout))?;
                let tls = Encrypted::start(&socket, tls, address, target.after_a_line)?;
                Some(Box::new(tls))
            }
            _ => None,
        };
        Ok(Self {
            socket,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(timeout)
    }

    /// Receives once; 0 is the end of the stream.
    ///
    /// # Errors
    ///
    /// As recv(2), or if the TLS fails.
    pub fn recv(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.recv(&self.socket, buffer, flags);
        }
        Ok(recv(&self.socket, buffer, flags).map(|(count, _)| count)?)
    }

    /// Whether there may be more to receive although the socket has nothing.
    pub(super) fn may_hold_more(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.may_hold_more();
        }
        false
    }

    /// Sends what the socket has room for now. Over TLS the end of it may wait for that room: see
    /// [`has_pending`](Self::has_pending).
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.send(&self.socket, bytes, flags);
        }
        Ok(send(&self.socket, bytes, flags)?)
    }

    /// Whether ciphertext waits for room in the socket. Sending, even nothing, goes on with it.
    pub(super) fn has_pending(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.has_pending();
        }
        false
    }
}

/// Whether a call merely found nothing to do.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for &Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.recv(buffer, RecvFlags::empty())
    }
}

impl Write for &Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return tls.send(&self.socket, bytes, SendFlags::NOSIGNAL);
        }
        (&self.socket).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
