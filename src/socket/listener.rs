//! The listening sockets of a server, of every kind, and what each has to do for a client that it
//! accepts. Bound by the thread that starts the server, owned by the acceptor, closed at shutdown.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::{Path, PathBuf};

use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::peer::Peer;
use super::stream::Stream;
use super::unix::{UnixOptions, UnixSocket};
use super::{sys, tcp};
use crate::error::Error;
use crate::wire::endpoint::Endpoint;

/// A listening socket that a server can serve on, see
/// [`Server::from_listeners`](crate::Server::from_listeners).
///
/// ```
/// use a_chat::{Config, Listener, Server, UnixOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("chat.sock");
/// let mut listeners = Listener::bind_tcp(["127.0.0.1:0"])?;
/// listeners.push(Listener::bind_unix(&path, UnixOptions::default())?);
/// let server = Server::from_listeners(listeners, Config::default())?;
/// assert_eq!(server.endpoints().len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Socket {
    /// What it accepts has inherited its options.
    Tcp(TcpListener),
    /// From another program. What has waited there since before it got its options lacks them.
    PassedTcp(TcpListener),
    Unix(UnixSocket),
    /// From another program, whose file it is.
    PassedUnix(UnixListener),
}

impl Listener {
    /// Listens on every address that these names stand for; port 0 picks one free port for all
    /// addresses of its name.
    ///
    /// Addresses of a family that this machine lacks, as IPv6 often is, are skipped. If `[::]` is one
    /// of them and an IPv4 address with the same port another, `[::]` accepts IPv6 clients only.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] if an address is in use, belongs to another machine, or is none.
    pub fn bind_tcp<A: ToSocketAddrs>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Vec<Self>, Error> {
        let listeners = tcp::listen(addresses)?.into_iter();
        listeners.map(|listener| Self::of(Socket::Tcp(listener))).collect()
    }

    /// Listens on a Unix socket at this path, and removes it when the server shuts down.
    ///
    /// A socket that a process has left behind when it was killed is replaced; any other file is left
    /// alone. A second file, with `.lock` added to its name, keeps two servers that start at once from
    /// taking the path from each other. It stays.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] if another server listens there, if the path is longer than 107 bytes or is
    /// some other file, or if the system refuses the file, its mode or its group.
    pub fn bind_unix(path: impl AsRef<Path>, options: UnixOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        let listener = UnixSocket::bind(path, options).map_err(|source| Error::Bind {
            endpoint: Some(Endpoint::Unix(path.to_owned())),
            source,
        })?;
        Self::of(Socket::Unix(listener))
    }

    /// Takes a listening TCP or Unix socket that another program has made, for example one that was
    /// inherited through socket activation. It keeps its backlog, and a Unix socket's file is not
    /// removed.
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use std::os::fd::OwnedFd;
    ///
    /// use a_chat::{Config, Listener, Server};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let listener = Listener::from_fd(listener.into())?;
    /// let server = Server::from_listeners([listener], Config::default())?;
    /// assert_eq!(server.local_addr(), address);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if it is anything but a listening stream socket of these families, or does
    /// not take its options.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let checked = check_passed(fd.as_fd());
        let family = checked
            .map_err(|source| Error::Start { what: "use a socket that was passed", source })?;
        let options = |source| Error::Start { what: "set the listener's options", source };
        Self::of(if family == AddressFamily::UNIX {
            let listener = UnixListener::from(fd);
            listener.set_nonblocking(true).map_err(options)?;
            Socket::PassedUnix(listener)
        } else {
            let listener = TcpListener::from(fd);
            tcp::set_options(&listener).map_err(options)?;
            listener.set_nonblocking(true).map_err(options)?;
            Socket::PassedTcp(listener)
        })
    }

    fn of(socket: Socket) -> Result<Self, Error> {
        let endpoint = match &socket {
            Socket::Tcp(listener) | Socket::PassedTcp(listener) => {
                listener.local_addr().map(Endpoint::Tcp)
            }
            Socket::Unix(socket) => Ok(Endpoint::Unix(socket.path().to_owned())),
            Socket::PassedUnix(listener) => {
                listener.local_addr().map(|address| Endpoint::Unix(path_of(&address)))
            }
        };
        let endpoint = endpoint
            .map_err(|source| Error::Start { what: "get the listener's address", source })?;
        Ok(Self { socket, endpoint })
    }

    /// Where it listens, with the actual port.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Accepts a client that waits.
    ///
    /// # Errors
    ///
    /// As accept(2), and `WouldBlock` if there is none.
    pub(crate) fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (socket, address) = listener.accept()?;
                Ok((socket.into(), Peer::tcp(address)))
            }
            Socket::PassedTcp(listener) => {
                let (socket, address) = listener.accept()?;
                // They fail only on a connection that no longer exists, as a read will find.
                let _ = tcp::set_options(&socket);
                Ok((socket.into(), Peer::tcp(address)))
            }
            Socket::Unix(UnixSocket { listener, .. }) | Socket::PassedUnix(listener) => {
                let (socket, _) = listener.accept()?;
                let peer = Peer::Unix(sys::peer_credentials(&socket)?);
                Ok((socket.into(), peer))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) | Socket::PassedTcp(listener) => listener.as_fd(),
            Socket::Unix(UnixSocket { listener, .. }) | Socket::PassedUnix(listener) => {
                listener.as_fd()
            }
        }
    }
}

/// The family of a socket that listens; an error for any other descriptor.
fn check_passed(fd: BorrowedFd<'_>) -> io::Result<AddressFamily> {
    let unusable = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let family = sockopt::socket_domain(fd)?;
    if ![AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX].contains(&family) {
        return unusable("it is no TCP or Unix socket");
    }
    if sockopt::socket_type(fd)? != SocketType::STREAM {
        return unusable("it is no stream socket");
    }
    if !sockopt::socket_acceptconn(fd)? {
        return unusable("it does not listen");
    }
    Ok(family)
}

/// An abstract name is shown with the `@` that other programs use for it.
fn path_of(address: &UnixAddr) -> PathBuf {
    use std::os::linux::net::SocketAddrExt;
    let name = || address.as_abstract_name().map(String::from_utf8_lossy);
    let path = address.as_pathname().map(Path::to_owned);
    path.unwrap_or_else(|| format!("@{}", name().unwrap_or_default()).into())
}

/// A descriptor that is readable while a client waits at any of the listeners.
pub(crate) fn arrivals(listeners: &[Listener]) -> io::Result<OwnedFd> {
    let all = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, listener) in listeners.iter().enumerate() {
        epoll::add(
            &all,
            listener,
            epoll::EventData::new_u64(number as u64),
            epoll::EventFlags::IN,
        )?;
    }
    Ok(all)
}

/// Makes the descriptor of [`arrivals`] readable while this one is.
#[cfg(feature = "users")]
pub(crate) fn also_wake(arrivals: &OwnedFd, other: BorrowedFd<'_>) -> io::Result<()> {
    let data = epoll::EventData::new_u64(u64::MAX);
    epoll::add(arrivals, other, data, epoll::EventFlags::IN).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;

    use socket2::SockRef;

    use super::*;
    use crate::socket::keepalive::keepalive;

    #[test]
    fn clients_that_waited_at_a_passed_listener_get_all_options() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let clients = (0..10).map(|_| TcpStream::connect(address).expect("room to wait"));
        let clients: Vec<_> = clients.collect();
        let listener = Listener::from_fd(listener.into()).expect("a listener");
        for _ in &clients {
            let (stream, _) = listener.accept().expect("a client that waits");
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().expect("an option"));
            assert!(socket.keepalive().expect("an option"));
            assert_eq!(socket.tcp_notsent_lowat().expect("an option"), tcp::UNSENT_BYTES);
            let _ = keepalive();
        }
        let error = listener.accept().expect_err("nobody waits");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_passed_unix_listener_is_served_and_its_file_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chat.sock");
        let listener = UnixListener::bind(&path).expect("a free path");
        let listener = Listener::from_fd(listener.into()).expect("a listener");
        assert_eq!(listener.endpoint(), &Endpoint::Unix(path.clone()));
        let _client = UnixStream::connect(&path).expect("a listener");
        let (_, peer) = listener.accept().expect("a client that waits");
        let (uid, pid) = (rustix::process::getuid().as_raw(), std::process::id());
        assert_eq!(peer.to_string(), format!("unix:uid={uid},pid={pid}"));
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn only_a_listening_stream_socket_can_be_passed() {
        let (stream, _other) = UnixStream::pair().expect("two descriptors");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let file = std::fs::File::open("/dev/null").expect("a file");
        for (fd, why) in [
            (OwnedFd::from(stream), "it does not listen"),
            (udp.into(), "it is no stream socket"),
            (file.into(), "Socket operation on non-socket (os error 88)"),
        ] {
            let error = Listener::from_fd(fd).expect_err("no listener");
            let source = std::error::Error::source(&error).map(ToString::to_string);
            assert_eq!(source.as_deref(), Some(why));
        }
    }
}
