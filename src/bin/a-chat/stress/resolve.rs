//! The address of the server under load: the first of a name's addresses that accepts. Runs on the
//! main thread.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use a_chat::Endpoint;

/// How long to wait for one of several addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait until a server has released the connection that tried its address.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The address to use for a name, which may have several.
pub(super) fn resolve(name: &str) -> Result<Endpoint, String> {
    if let Some(path) = Endpoint::unix_path(name) {
        return Ok(Endpoint::Unix(path.to_owned()));
    }
    let addresses = name.to_socket_addrs();
    let addresses = addresses.map_err(|error| format!("cannot find {name}: {error}"))?;
    first_that_accepts(name, &addresses.collect::<Vec<_>>()).map(Endpoint::Tcp)
}

fn first_that_accepts(name: &str, addresses: &[SocketAddr]) -> Result<SocketAddr, String> {
    if let [only] = addresses {
        return Ok(*only);
    }
    let mut failures = Vec::new();
    for &address in addresses {
        match try_address(address) {
            Ok(()) => return Ok(address),
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    Err(format!("cannot connect to {name}: {}", failures.join("; ")))
}

fn try_address(address: SocketAddr) -> io::Result<()> {
    let mut socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    // Wait for the server's end: this connection must not count against its limits any more. It
    // accepted, so everything that fails from here on is for the load to find out.
    let _ = socket.set_read_timeout(Some(RELEASE_TIMEOUT));
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.read(&mut [0; 1]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The address of a listener, and one that refuses connections.
    fn open_and_closed() -> (TcpListener, [SocketAddr; 2]) {
        let [open, closed] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let addresses = [&open, &closed].map(|it| it.local_addr().expect("an address"));
        (open, addresses)
    }

    #[test]
    fn a_name_whose_first_address_refuses_is_reached_at_its_second() {
        let (_listener, [open, closed]) = open_and_closed();
        assert_eq!(first_that_accepts("host:1", &[closed, open]), Ok(open));
        assert_eq!(first_that_accepts("host:1", &[open, closed]), Ok(open));
    }

    #[test]
    fn a_name_whose_addresses_all_refuse_is_an_error_that_names_them() {
        let (_listener, [_, closed]) = open_and_closed();
        let error = first_that_accepts("host:1", &[closed, closed]).expect_err("none accepts");
        let refused = format!("{closed}: Connection refused (os error 111)");
        assert_eq!(error, format!("cannot connect to host:1: {refused}; {refused}"));
    }
}
