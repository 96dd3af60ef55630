//! Listening on TCP addresses, and the options of TCP connections. Plain functions of the thread that
//! binds the server.

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::keepalive::keepalive;
use crate::error::Error;

/// Maximum number of clients that wait to be accepted. With the standard library's 128, nine thousand
/// clients that connected at once took 48 s because the surplus had to retry; with this, 1.3 s.
pub(super) const LISTEN_BACKLOG: i32 = 4096;

/// Maximum bytes that the kernel holds unsent for one client. Whatever a slow client has no room for
/// then waits in the server, where it is counted in messages, and not in the kernel.
pub(super) const UNSENT_BYTES: u32 = 128 * 1024;

/// How often a free port is tried that every address of a name must have.
const PORT_ATTEMPTS: u32 = 16;

/// Listens on every address of every name. Port 0 picks one free port for all addresses of its name.
///
/// # Errors
///
/// If an address is in use or belongs to another machine. An address of a family that this machine
/// lacks is skipped, unless its name has no other.
pub(super) fn listen<A: ToSocketAddrs>(
    names: impl IntoIterator<Item = A>,
) -> Result<Vec<TcpListener>, Error> {
    let unresolved = |source| Error::Bind { endpoint: None, source };
    let names = names.into_iter().map(|name| name.to_socket_addrs().map(Vec::from_iter));
    let names: Vec<_> = names.collect::<Result<_, _>>().map_err(unresolved)?;
    let all = names.concat();
    let mut listeners = Vec::new();
    for (number, name) in names.iter().enumerate() {
        // A port of its own is never the same twice; any other address is listened on only once.
        let earlier = names[..number].concat();
        let is_new = |address: &&SocketAddr| address.port() == 0 || !earlier.contains(address);
        let new: Vec<_> = name.iter().filter(is_new).copied().collect();
        if new.is_empty() && !name.is_empty() {
            continue;
        }
        listeners.append(&mut listen_on_name(&new, &all)?);
    }
    if listeners.is_empty() {
        return Err(unresolved(io::ErrorKind::AddrNotAvailable.into()));
    }
    Ok(listeners)
}

/// Listens on every address of one name; `all` are the addresses of all names.
fn listen_on_name(name: &[SocketAddr], all: &[SocketAddr]) -> Result<Vec<TcpListener>, Error> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let (mut listeners, mut missing, mut picked) = (Vec::new(), None, None);
        let failure = name.iter().find_map(|&wanted| {
            let mut address = wanted;
            if let (0, Some(port)) = (wanted.port(), picked) {
                address.set_port(port);
            }
            match listen_on(address, shares_port(wanted, all)) {
                Ok(listener) => {
                    picked = picked.or_else(|| Some(listener.local_addr().ok()?.port()));
                    listeners.push(listener);
                    None
                }
                Err(source) => {
                    let is_missing = is_family_missing(address, &source);
                    let is_picked = address != wanted && source.kind() == io::ErrorKind::AddrInUse;
                    let error = Error::Bind { endpoint: Some(address.into()), source };
                    if is_missing {
                        missing = Some(error);
                        return None;
                    }
                    Some((error, is_picked))
                }
            }
        });
        match failure {
            Some((_, true)) if attempt < PORT_ATTEMPTS => {}
            Some((error, _)) => return Err(error),
            None => {
                return match missing {
                    Some(error) if listeners.is_empty() => Err(error),
                    Some(error) => {
                        let source = error.source().map_or(String::new(), |it| format!(": {it}"));
                        log::warn!("{error}{source}; skipped");
                        Ok(listeners)
                    }
                    None => Ok(listeners),
                };
            }
        }
    }
}

/// True if an IPv4 address has the port of this one, which then must leave IPv4 to it: by default a
/// listener on `[::]` also accepts IPv4 clients.
fn shares_port(address: SocketAddr, all: &[SocketAddr]) -> bool {
    all.iter().any(|other| other.is_ipv4() && other.port() == address.port())
}

/// True if the machine has no address of this family at all, not even the loopback's.
fn is_family_missing(address: SocketAddr, error: &io::Error) -> bool {
    let loopback: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    match Errno::from_io_error(error) {
        Some(Errno::AFNOSUPPORT) => true,
        Some(Errno::ADDRNOTAVAIL) => TcpListener::bind((loopback, 0)).is_err(),
        _ => false,
    }
}

/// Accepted sockets inherit all these options from the listener, which saves a system call for each
/// option and client.
fn listen_on(address: SocketAddr, only_own_family: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && only_own_family {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    set_options(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options of a client's connection, which a listener's clients inherit.
pub(super) fn set_options<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(listeners: &[TcpListener]) -> Vec<u16> {
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        listeners.iter().map(|listener| address(listener).port()).collect()
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn all_addresses_of_a_name_get_one_free_port() {
        let name = addresses(&["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"]);
        let listeners = listen([name.as_slice()]).expect("a free port");
        let ports = ports(&listeners);
        assert!(ports.len() == 3 && ports[0] > 0 && ports.iter().all(|port| *port == ports[0]));
    }

    #[test]
    fn an_address_that_is_given_twice_is_listened_on_once() {
        let first = listen(["127.0.0.1:0"]).expect("a free port");
        let taken = first[0].local_addr().expect("an address");
        drop(first);
        let other = addresses(&["127.0.0.2:0"]);
        let listeners = listen([&[taken][..], &[taken], &other, &other]).expect("free ports");
        assert_eq!(listeners.len(), 4 - 1);
    }

    #[test]
    fn an_address_in_use_fails_whatever_else_is_free() {
        let busy = listen(["127.0.0.1:0"]).expect("a free port");
        let in_use = busy[0].local_addr().expect("an address");
        let name = [addresses(&["127.0.0.2:0"])[0], in_use];
        let error = listen([&name[..]]).expect_err("in use").to_string();
        assert!(error.contains(&in_use.to_string()), "{error}");
    }

    #[test]
    fn only_a_family_that_is_missing_altogether_is_skipped() {
        let here = addresses(&["127.0.0.1:1"])[0];
        let errno = |errno: Errno| io::Error::from(errno);
        assert!(is_family_missing(here, &errno(Errno::AFNOSUPPORT)));
        assert!(!is_family_missing(here, &errno(Errno::ADDRNOTAVAIL)), "there is a loopback");
        assert!(!is_family_missing(here, &errno(Errno::ADDRINUSE)));
    }

    #[test]
    fn no_address_at_all_is_an_error() {
        assert!(listen::<SocketAddr>([]).is_err());
        assert!(listen([&[][..] as &[SocketAddr]]).is_err());
    }
}
