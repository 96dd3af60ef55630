//! The listening socket and its options. No thread runs here.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::error::Error;

/// How many clients may wait to be accepted. With the standard library's 128, nine thousand that
/// came at once took 48 s to connect, because the surplus has to try again; with this, 1.3 s.
const BACKLOG: i32 = 4096;

/// How many written bytes the kernel may hold unsent for one client. What a slow client does not
/// take then waits in the server, where it is counted in messages, not in the kernel.
const UNSENT_BYTES: u32 = 128 * 1024;

/// A client that has vanished is found out after the first of these, and as many times the second
/// as the third says, of silence.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 6);

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

/// The accepted sockets inherit all these options from the listener, which saves as many system
/// calls for each of them.
fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// How a vanished other side is found out.
pub(crate) fn keepalive() -> TcpKeepalive {
    let (idle, interval, retries) = KEEPALIVE;
    TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries)
}
