//! The listening socket and its options. Plain functions of the thread that binds the server.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::keepalive::keepalive;
use crate::error::Error;

/// Maximum number of clients that wait to be accepted. With the standard library's 128, nine thousand
/// clients that connected at once took 48 s because the surplus had to retry; with this, 1.3 s.
const LISTEN_BACKLOG: i32 = 4096;

/// Maximum bytes that the kernel holds unsent for one client. Whatever a slow client has no room for
/// then waits in the server, where it is counted in messages, and not in the kernel.
const UNSENT_BYTES: u32 = 128 * 1024;

/// Listens on the first address that allows it.
pub(crate) fn listen(addresses: impl ToSocketAddrs) -> Result<TcpListener, Error> {
    let unresolved = |source| Error::Bind { address: "the given address".to_owned(), source };
    let mut failure = None;
    for address in addresses.to_socket_addrs().map_err(unresolved)? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(source) => failure = Some(Error::Bind { address: address.to_string(), source }),
        }
    }
    Err(failure.unwrap_or_else(|| unresolved(io::ErrorKind::AddrNotAvailable.into())))
}

/// Accepted sockets inherit all these options from the listener, which saves a system call for each
/// option and client.
fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
