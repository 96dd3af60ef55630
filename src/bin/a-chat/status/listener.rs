//! Where the status endpoint listens: an address, or a Unix socket that belongs to the server's user
//! alone. Owned by the thread `status`; nothing here blocks.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use rustix::net::sockopt;
use socket2::{Domain, SockAddr, Socket, Type};

/// How many connections wait to be accepted.
const BACKLOG: i32 = 64;

/// The mode of the socket's file: whoever may open it sees names and addresses.
const MODE: u32 = 0o600;

/// How much of a response the kernel holds for a client that does not read, in bytes: by default it
/// would be megabytes.
const SEND_BUFFER: usize = 32 * 1024;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StatusAddress {
    /// A name or an address, and a port.
    Tcp(String),
    /// A path.
    Unix(PathBuf),
}

impl FromStr for StatusAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let is_address = !host.is_empty() && port.parse::<u16>().is_ok();
        if is_address { Ok(Self::Tcp(text.to_owned())) } else { Err(()) }
    }
}

impl fmt::Display for StatusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The listening socket.
#[derive(Debug)]
pub(super) enum StatusListener {
    Tcp { listener: TcpListener, is_local: bool },
    Unix { listener: UnixListener, path: PathBuf, inode: (u64, u64) },
}

/// A connection's socket.
#[derive(Debug)]
pub(super) enum StatusStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl StatusListener {
    pub(super) fn bind(address: &StatusAddress) -> io::Result<Self> {
        match address {
            StatusAddress::Tcp(name) => {
                let addresses: Vec<SocketAddr> = name.to_socket_addrs()?.collect();
                let listener = TcpListener::bind(&addresses[..])?;
                listener.set_nonblocking(true)?;
                let is_local = listener.local_addr()?.ip().to_canonical().is_loopback();
                Ok(Self::Tcp { listener, is_local })
            }
            StatusAddress::Unix(path) => Self::bind_unix(path),
        }
    }

    /// A socket that a killed server left behind is replaced; any other file is left alone.
    fn bind_unix(path: &Path) -> io::Result<Self> {
        let is_there = fs::symlink_metadata(path).map(|file| file.file_type().is_socket());
        match is_there {
            Ok(true) if is_alive(path)? => return Err(io::ErrorKind::AddrInUse.into()),
            Ok(true) => fs::remove_file(path)?,
            Ok(false) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // The file is created with the socket's own mode, so it is never open to others.
        fchmod(&socket, Mode::from_raw_mode(MODE))?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let file = fs::symlink_metadata(path)?;
        let inode = (file.dev(), file.ino());
        Ok(Self::Unix { listener: socket.into(), path: path.to_owned(), inode })
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix { .. })
    }

    /// Logs where it listens, and warns of what others can see.
    pub(super) fn log(&self, shows_clients: bool) {
        match self {
            Self::Unix { path, .. } => log::info!("status on unix:{}", path.display()),
            Self::Tcp { listener, is_local } => {
                let Ok(address) = listener.local_addr() else { return };
                log::info!(address:% = address; "status on http://{address}/");
                if *is_local {
                    return;
                }
                let what = if shows_clients {
                    "the figures, and the names and addresses of clients"
                } else {
                    "the figures"
                };
                log::warn!("status on {address}: other hosts can read {what}");
            }
        }
    }

    /// A connection that waits, and whether it comes from this host.
    ///
    /// Both sides have to be on the loopback for that: what forwards a port of a container may
    /// connect from the container's own loopback, whoever is behind it.
    pub(super) fn accept(&self) -> io::Result<(StatusStream, bool)> {
        let (stream, is_local) = match self {
            Self::Tcp { listener, is_local } => {
                let (stream, peer) = listener.accept()?;
                (StatusStream::Tcp(stream), *is_local && peer.ip().to_canonical().is_loopback())
            }
            Self::Unix { listener, .. } => (StatusStream::Unix(listener.accept()?.0), true),
        };
        // Fails for no socket that was just accepted.
        let _ = sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER);
        match &stream {
            StatusStream::Tcp(stream) => stream.set_nonblocking(true)?,
            StatusStream::Unix(stream) => stream.set_nonblocking(true)?,
        }
        Ok((stream, is_local))
    }
}

/// Whether somebody listens there.
fn is_alive(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog is somebody's too, and must not be waited for.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        // Whoever may not open it, for one, does not know.
        Err(error) => Err(error),
    }
}

impl Drop for StatusListener {
    fn drop(&mut self) {
        if let Self::Unix { path, inode, .. } = self {
            // Only the own file: another server may have taken the path meanwhile.
            let is_own =
                fs::symlink_metadata(&*path).is_ok_and(|it| (it.dev(), it.ino()) == *inode);
            if is_own {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl AsFd for StatusListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp { listener, .. } => listener.as_fd(),
            Self::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

impl StatusStream {
    /// Makes the end a reset, so that the kernel forgets what was not read at once.
    pub(super) fn reset_at_the_end(&self) {
        // An end without it is merely a slower one.
        let _ = sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl Read for StatusStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for StatusStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for StatusStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}
