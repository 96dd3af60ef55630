//! Runs on the reader's thread before the login, for the peers that are proxies: reads the PROXY
//! header, which says who the client is. Ends with the header's last byte, and takes none after it.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::PollFlags;

use crate::server::input::Input;
use crate::server::login_places::LoginPlace;
use crate::server::per_source::SourcePrefix;
use crate::server::report::CloseReason;
use crate::server::shutdown::Phase;
use crate::server::timeout::WaitBudget;
use crate::socket::connection::ReadResult;
use crate::socket::peer::Peer;
use crate::wire::proxy_header::{Progress, parse};

/// Reads the header if the peer is a proxy, within the login's time. From then on the client is who
/// the header says, has a place among the connections of its address, and is refused where that
/// address is.
///
/// A proxy that speaks for itself, as in a health check, may log in like any client, and takes no
/// place: its own address would be full with its checks.
#[inline(never)]
pub(crate) fn read_header(
    input: &mut Input,
    login_place: &mut LoginPlace,
    budget: &mut WaitBudget,
) -> Result<(), CloseReason> {
    if !input.shared.config.is_proxy(input.connection.peer()) {
        return Ok(());
    }
    let mut header = Vec::new();
    let source = loop {
        let wanted = match parse(&header).map_err(|_| CloseReason::NoProxyHeader)? {
            Progress::Complete(source) => break source,
            Progress::Wants(wanted) => wanted,
        };
        let start = header.len();
        header.resize(start + wanted, 0);
        let read = input.connection.read(&mut header[start..], &mut usize::MAX.clone());
        match read.map_err(|error| CloseReason::broken(&error))? {
            ReadResult::Bytes(count) => header.truncate(start + count),
            ReadResult::Eof => return Err(CloseReason::LeftBeforeLogin),
            ReadResult::WouldBlock => {
                header.truncate(start);
                wait(input, budget)?;
            }
        }
    };
    let Some(source) = source else { return Ok(()) };
    let client = Peer::tcp(source);
    input.connection.set_client(client);
    // From now on strangers behind the proxy are told apart by their own addresses.
    login_place.move_to(SourcePrefix::of(client));
    let place = input.shared.places.take(SourcePrefix::of(client));
    input.place = Some(place.ok_or(CloseReason::PerAddressLimit)?);
    #[cfg(feature = "users")]
    if let Some(seconds) = input.shared.refuses(client) {
        return Err(CloseReason::TooManyFailedLogins { seconds });
    }
    Ok(())
}

/// Waits for more of it.
fn wait(input: &Input, budget: &mut WaitBudget) -> Result<(), CloseReason> {
    let shutdown = &input.shared.shutdown;
    if shutdown.phase() != Phase::Running {
        // What was there is read.
        return Err(CloseReason::Shutdown);
    }
    if budget.is_exhausted(Instant::now()) {
        return Err(CloseReason::LoginTimeout);
    }
    let socket = Some(input.connection.as_fd());
    let waited = shutdown.wait(socket, PollFlags::IN, budget.next_check(), Phase::Running);
    waited.map(drop).map_err(|error| CloseReason::broken(&error))
}
