//! What the tests' clients talk over: plain TCP, unless `TEST_TRANSPORT` names another transport, and
//! then the same tests run over that.
//!
//! A server of the tests listens on TCP whatever the transport, so its address identifies it. Over a
//! Unix socket, its path follows from that address.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use a_chat::{Config, Listener, Server, UnixOptions};

use super::link::{self, Link};

/// How clients reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Unix,
    Tls,
}

/// The transport of this run.
pub fn transport() -> Transport {
    if link::Transport::current().is_tls() {
        return Transport::Tls;
    }
    match std::env::var("TEST_TRANSPORT").as_deref() {
        Err(_) | Ok("tcp") => Transport::Tcp,
        Ok("unix") => Transport::Unix,
        Ok(other) => panic!("TEST_TRANSPORT is tcp, unix or tls, not {other}"),
    }
}

/// True if this run is over Unix sockets; says so, because a test is then skipped.
///
/// What is written to such a socket is in the client's receive queue at once: nothing is ever in
/// flight, nothing is reset, and the client has no say in how much the kernel holds.
pub fn skipped_over_unix(why: &str) -> bool {
    let skipped = transport() == Transport::Unix;
    if skipped {
        super::skipped(&format!("over a Unix socket: {why}"));
    }
    skipped
}

/// A server that listens on a free port and, if that is the transport, on a Unix socket.
pub fn bind(config: Config) -> Server {
    let mut listeners = Listener::bind_tcp(["127.0.0.1:0"]).expect("a free port");
    if transport() == Transport::Unix {
        let address = listeners[0].endpoint().tcp_addr().expect("an address");
        let path = unix_path(address);
        listeners.push(Listener::bind_unix(path, UnixOptions::default()).expect("a free path"));
    }
    let server = Server::from_listeners(listeners, config).expect("a valid config");
    #[cfg(feature = "tls")]
    if transport() == Transport::Tls {
        return server.tls(super::tls::certificate().server_tls());
    }
    server
}

/// The Unix socket of the server that listens on this address.
pub fn unix_path(address: SocketAddr) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = format!("a-chat-test-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    });
    folder.join(address.port().to_string())
}

/// A client's side of a connection.
#[derive(Debug)]
pub enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Link),
}

impl Wire {
    /// Connects to the server that listens on this address, over the transport of this run.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        match transport() {
            Transport::Tcp => TcpStream::connect(address).map(Self::Tcp),
            Transport::Unix => UnixStream::connect(unix_path(address)).map(Self::Unix),
            Transport::Tls => {
                Link::new(TcpStream::connect(address)?, link::Transport::Tls).map(Self::Tls)
            }
        }
    }

    /// The TCP socket, in tests that are about TCP.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(socket) => socket,
            Self::Tls(link) => link,
            Self::Unix(_) => panic!("this test is about TCP"),
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let flags = rustix::net::RecvFlags::PEEK;
        rustix::net::recv(self, buffer, flags).map(|(count, _)| count).map_err(Into::into)
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
            Self::Tls(link) => link.try_clone().map(Self::Tls),
        }
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(how),
            Self::Unix(socket) => socket.shutdown(how),
            Self::Tls(link) => link.shutdown(how),
        }
    }

    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(nonblocking),
            Self::Unix(socket) => socket.set_nonblocking(nonblocking),
            Self::Tls(link) => link.set_nonblocking(nonblocking),
        }
    }

    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_read_timeout(timeout),
            Self::Unix(socket) => socket.set_read_timeout(timeout),
            Self::Tls(link) => link.set_read_timeout(timeout),
        }
    }

    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_write_timeout(timeout),
            Self::Unix(socket) => socket.set_write_timeout(timeout),
            Self::Tls(link) => link.set_write_timeout(timeout),
        }
    }

    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        match self {
            Self::Tcp(socket) => socket.write_timeout(),
            Self::Unix(socket) => socket.write_timeout(),
            Self::Tls(link) => link.write_timeout(),
        }
    }
}

/// A socket that has just connected: with TLS, this is the handshake.
impl From<TcpStream> for Wire {
    fn from(socket: TcpStream) -> Self {
        if transport() == Transport::Tls { Self::Tls(socket.into()) } else { Self::Tcp(socket) }
    }
}

impl From<Link> for Wire {
    fn from(link: Link) -> Self {
        Self::Tls(link)
    }
}

impl Wire {
    /// How many of the bytes that were written, beyond those that the other side's kernel has not
    /// acknowledged, it may lack nevertheless.
    pub fn uncertain(&self) -> u64 {
        match self {
            Self::Tls(link) => link.uncertain(),
            _ => 0,
        }
    }

    /// How many of the bytes that were written the server does not get if the connection is closed
    /// now: those of a record that waits, whole or in part, for room in the socket.
    pub fn unsent(&self) -> u64 {
        match self {
            Self::Tls(link) => link.unsent(),
            _ => 0,
        }
    }

    /// Whether something that was written waits for room in the socket.
    pub fn has_pending(&self) -> bool {
        matches!(self, Self::Tls(link) if link.has_pending())
    }

    /// Passes it to the socket.
    pub fn flush_pending(&self) -> io::Result<()> {
        match self {
            Self::Tls(link) => link.flush_pending(),
            _ => Ok(()),
        }
    }

    /// Whether something that has arrived may be read without asking the socket.
    pub fn has_buffered(&self) -> bool {
        matches!(self, Self::Tls(link) if link.has_buffered())
    }

    /// The TLS of this connection.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&super::tls::Session> {
        match self {
            Self::Tls(link) => link.tls(),
            _ => None,
        }
    }
}

impl From<UnixStream> for Wire {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
            Self::Tls(link) => link.as_fd(),
        }
    }
}

impl Read for &Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(socket) => (&mut &*socket).read(buffer),
            Wire::Unix(socket) => (&mut &*socket).read(buffer),
            Wire::Tls(link) => (&mut &*link).read(buffer),
        }
    }
}

impl Write for &Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(socket) => (&mut &*socket).write(bytes),
            Wire::Unix(socket) => (&mut &*socket).write(bytes),
            Wire::Tls(link) => (&mut &*link).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&mut &*self).read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
