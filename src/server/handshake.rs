//! Runs on the reader's thread before the login line: a client whose first byte begins a TLS record
//! gets TLS, every other one is served without, if that is allowed. The handshake's last byte ends it.
//!
//! Only this thread uses the connection yet, so it sends as well.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::PollFlags;

use crate::server::input::Input;
use crate::server::report::CloseReason;
use crate::server::shutdown::Phase;
use crate::server::stats::HANDSHAKE_OK;
use crate::server::timeout::WaitBudget;
use crate::server::tls::ServerTls;
use crate::socket::peer::Peer;
use crate::socket::stream::ReadResult;
use crate::socket::tls::channel::Channel;

/// How TLS begins: the type of a record that holds a handshake. No name begins like this.
const HANDSHAKE_RECORD: u8 = 0x16;

/// Finds out what the client speaks, and completes its handshake.
#[inline(never)]
pub(crate) fn secure(
    input: &mut Input,
    tls: &ServerTls,
    budget: &mut WaitBudget,
) -> Result<(), CloseReason> {
    let peer = input.connection.socket_peer();
    if matches!(peer, Peer::Unix(_)) {
        // Nothing leaves this host.
        return Ok(());
    }
    loop {
        let phase = input.shared.shutdown.phase();
        // Not counted as input until it is known to be a line.
        let spare = input.lines.spare();
        let first = input.connection.read(spare, &mut usize::MAX.clone());
        match first.map_err(|error| CloseReason::broken(&error))? {
            ReadResult::Bytes(count) if spare[0] == HANDSHAKE_RECORD => {
                let session = tls.session().map_err(|error| {
                    log::error!("cannot begin a TLS session: {error}");
                    CloseReason::ServerFailed
                })?;
                input.connection.start_tls(Channel::new(session, &spare[..count]));
                let result = shake_hands(input, budget);
                let word = result.map_or_else(CloseReason::code, |()| HANDSHAKE_OK);
                input.shared.counters.handshakes.count(word);
                return result;
            }
            ReadResult::Bytes(count) => {
                input.lines.advance(count);
                // The operator has listed the proxies, so what lies between them and this server is
                // the operator's network. The address that one names decides nothing.
                let is_allowed = input.shared.config.is_proxy(peer) || tls.allows_plain(peer);
                return if is_allowed { Ok(()) } else { Err(CloseReason::Unencrypted) };
            }
            ReadResult::Eof => return Err(CloseReason::LeftBeforeLogin),
            ReadResult::WouldBlock => wait(input, budget, phase)?,
        }
    }
}

#[inline(never)]
fn shake_hands(input: &Input, budget: &mut WaitBudget) -> Result<(), CloseReason> {
    loop {
        let phase = input.shared.shutdown.phase();
        match input.connection.handshake() {
            Ok(true) => return Ok(()),
            Ok(false) => wait(input, budget, phase)?,
            Err(error) => {
                let (id, peer) = (input.connection.id(), input.connection.peer());
                log::debug!("TLS handshake failed: {error} (connection {id}, {peer})");
                return Err(CloseReason::HandshakeFailed);
            }
        }
    }
}

/// Waits for the client, as long as a login may take.
fn wait(input: &Input, budget: &mut WaitBudget, phase: Phase) -> Result<(), CloseReason> {
    if phase != Phase::Running {
        return Err(CloseReason::Shutdown);
    }
    if budget.is_exhausted(Instant::now()) {
        return Err(CloseReason::LoginTimeout);
    }
    let events = input.connection.events(Some(PollFlags::IN)).unwrap_or(PollFlags::IN);
    let socket = Some(input.connection.as_fd());
    let waited = input.shared.shutdown.wait(socket, events, budget.next_check(), phase);
    waited.map(drop).map_err(|error| CloseReason::broken(&error))
}
