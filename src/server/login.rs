//! Runs on the reader's thread before its client has a writer: reads the login line, or rejects the
//! connection. Plain functions without state; the last byte that login needs ends them.
//!
//! The stages before a client has a name stand here, in the order in which bytes meet them.

use std::io::IoSlice;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::access::Access;
use crate::server::context::Shared;
#[cfg(feature = "tls")]
use crate::server::handshake::secure;
use crate::server::input::{Input, ReadOutcome};
use crate::server::linger::linger;
use crate::server::login_places::LoginPlace;
use crate::server::report::CloseReason;
#[cfg(feature = "users")]
use crate::server::shutdown::Phase;
use crate::server::timeout::{StallDetector, WaitBudget};
#[cfg(feature = "users")]
use crate::server::users::Proof;
use crate::server::writer::WriterExit;
use crate::socket::connection::Connection;
#[cfg(feature = "users")]
use crate::socket::peer::Peer;
use crate::wire::name::Name;
use crate::wire::protocol;
use crate::wire::reasons::Rejection;
use crate::wire::token;

/// The maximum length of a login line, in bytes, its line end not counted: a name and the white space
/// around it.
const MAX_LOGIN_BYTES: usize = 100;

/// The time for a line feed to follow a carriage return in the login line. Some clients never send
/// one, and would otherwise wait for the login timeout without knowing why.
const LINE_FEED_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a login waits for a look at the user file. It is there at once, unless its file system
/// hangs; then the table at hand has to do.
#[cfg(feature = "users")]
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Some programs write this mark before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A client that may log in.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) name: Name,
    /// Its right to the name, on a server that has users.
    pub(crate) access: Option<Box<Access>>,
}

/// Reads the login line and decides whether the client may have the name. The place is given back
/// as soon as there is a line, unless it was lost to another connection.
#[inline(never)]
pub(crate) fn login(input: &mut Input, mut place: LoginPlace) -> Result<Login, CloseReason> {
    let login = read_login(input, &mut place);
    #[cfg(feature = "users")]
    if let Err(CloseReason::WrongToken | CloseReason::HandshakeFailed) = &login {
        note_failure(input);
    }
    // The line may have held a token.
    input.lines.wipe_taken();
    if place.is_lost() { Err(CloseReason::LoginCrowd) } else { login }
}

fn read_login(input: &mut Input, place: &mut LoginPlace) -> Result<Login, CloseReason> {
    let mut budget = WaitBudget::new(input.shared.config.login_timeout, Instant::now());
    #[cfg(feature = "proxy")]
    crate::server::proxy::read_header(input, place, &mut budget)?;
    #[cfg(feature = "tls")]
    if let Some(tls) = Arc::clone(&input.shared).tls.get() {
        secure(input, tls, &mut budget)?;
    }
    // Set while the line so far ends with a carriage return.
    let mut line_feed: Option<WaitBudget> = None;
    loop {
        if let Some(line) = input.lines.next_line() {
            place.give_back();
            let line = line.text().ok_or(CloseReason::BadName)?;
            return admit(line, &input.connection, &input.shared, &mut budget);
        }
        // A line end may be two bytes.
        if input.lines.partial_len() > MAX_LOGIN_BYTES + 1 {
            return Err(CloseReason::BadName);
        }
        let now = Instant::now();
        let mut next_check = budget.next_check();
        match memchr::memchr(b'\r', input.lines.partial()) {
            None => line_feed = None,
            Some(at) if at + 1 < input.lines.partial_len() => {
                return Err(CloseReason::NoLineFeed);
            }
            Some(_) => {
                let budget =
                    line_feed.get_or_insert_with(|| WaitBudget::new(LINE_FEED_TIMEOUT, now));
                if budget.is_exhausted(now) {
                    return Err(CloseReason::NoLineFeed);
                }
                next_check = next_check.into_iter().chain(budget.next_check()).min();
            }
        }
        if budget.is_exhausted(now) {
            return Err(CloseReason::LoginTimeout);
        }
        match input.fill(next_check)? {
            ReadOutcome::Read | ReadOutcome::TimedOut => {}
            ReadOutcome::Eof => return Err(CloseReason::LeftBeforeLogin),
            ReadOutcome::Cutoff => return Err(CloseReason::Shutdown),
        }
    }
}

/// Ends a connection that has no writer.
#[inline(never)]
pub(crate) fn reject(input: &Input, reason: CloseReason) -> WriterExit {
    let text = match reason {
        CloseReason::BadName => Rejection::BadName.line(),
        CloseReason::NoLineFeed => Rejection::NoLineFeed.line(),
        CloseReason::LoginTimeout => Rejection::LoginTimeout.line(),
        CloseReason::NeedsToken => Rejection::NeedsToken.line(),
        CloseReason::WrongToken => Rejection::WrongToken.line(),
        CloseReason::NoTokens => Rejection::NoTokens.line(),
        CloseReason::ServerFull => Rejection::ServerFull.line(),
        CloseReason::PerAddressLimit => Rejection::PerAddressLimit.line(),
        CloseReason::TooManyFailedLogins { seconds } => {
            Rejection::TooManyFailedLogins { seconds }.line()
        }
        CloseReason::NoProxyHeader => Rejection::NoProxyHeader.line(),
        CloseReason::Unencrypted => Rejection::Unencrypted.line(),
        CloseReason::Shutdown => protocol::closing_notice(0),
        CloseReason::LeftBeforeLogin if input.lines.partial_len() > 0 => {
            input.shared.counters.unterminated.add(1);
            Rejection::UnterminatedLine.line()
        }
        _ => String::new(),
    };
    // A new socket accepts one line unless it is disconnected, or in the middle of a TLS handshake,
    // and nothing more can be done in either case.
    let _ = input.connection.write(&[IoSlice::new(text.as_bytes())]);
    input.connection.shutdown_write();
    // No message is pending, so nothing can be lost, and the result does not matter.
    let config = &input.shared.config;
    let mut stall = StallDetector::new(config.stall_timeout, config.stall_bytes);
    let _ = linger(&input.connection, &input.shared, &mut stall, |_| {});
    input.connection.close_behind_input();
    WriterExit::without_deliveries(reason)
}

/// Decides whether a client may log in with this line.
#[cfg(not(feature = "users"))]
fn admit(
    line: &[u8],
    _: &Connection,
    _: &Shared,
    _: &mut WaitBudget,
) -> Result<Login, CloseReason> {
    admit_anyone(parse_login(line)?)
}

/// Decides whether a client may log in with this line, within its time for that.
#[cfg(feature = "users")]
fn admit(
    line: &[u8],
    connection: &Connection,
    shared: &Shared,
    budget: &mut WaitBudget,
) -> Result<Login, CloseReason> {
    let login = parse_login(line)?;
    let Some(users) = &shared.users else { return admit_anyone(login) };
    let (name, token) = login;
    let mut look = WaitBudget::new(LOOK_TIMEOUT, Instant::now());
    let is_trusted = shared.config.trusts(connection.socket_peer());
    let access = users.admit(&name, token, is_trusted, || {
        let now = Instant::now();
        let is_over = budget.is_exhausted(now) || look.is_exhausted(now);
        let is_running = shared.shutdown.phase() == Phase::Running;
        if is_over || !is_running {
            return None;
        }
        budget.next_check().into_iter().chain(look.next_check()).min()
    });
    if let Ok(Access { proof: Proof::Token(_), .. }) = &access {
        if !is_private(connection, shared) {
            warn_about_token(&name, connection.peer());
        }
    }
    Ok(Login { name, access: Some(Box::new(access?)) })
}

/// Whether nobody can read what a client sends, between this server and the other end of the socket.
/// The operator has listed the proxies, and answers for the way to them.
#[cfg(feature = "users")]
fn is_private(connection: &Connection, shared: &Shared) -> bool {
    let peer = connection.socket_peer();
    peer.is_local() || connection.is_encrypted() || shared.config.is_proxy(peer)
}

/// Notes a wrong token, or a broken handshake, in the budget of the client's address. A proxy that
/// speaks for itself has none.
#[cfg(feature = "users")]
#[inline(never)]
fn note_failure(input: &Input) {
    let Input { connection, shared, .. } = input;
    let client = connection.peer();
    if client == connection.socket_peer() && shared.config.is_proxy(client) {
        return;
    }
    if let (Some(failed_logins), Some(ip)) = (shared.failed_logins(), client.ip()) {
        failed_logins.add(ip, Instant::now());
    }
}

#[cfg(feature = "users")]
#[inline(never)] // Formatting takes much of the stack, see `Reader::run`.
fn warn_about_token(name: &Name, from: Peer) {
    log::warn!("the token of {name} came from {from} unencrypted, change it");
}

/// On a server without users every valid name is as good as any other.
fn admit_anyone((name, token): (Name, Option<&[u8]>)) -> Result<Login, CloseReason> {
    match token {
        None => Ok(Login { name, access: None }),
        Some(token) if token.starts_with(token::PREFIX.as_bytes()) => Err(CloseReason::NoTokens),
        Some(_) => Err(CloseReason::BadName),
    }
}

/// The name in a login line, which must be UTF-8, and what stands behind it.
fn parse_login(line: &[u8]) -> Result<(Name, Option<&[u8]>), CloseReason> {
    if line.len() > MAX_LOGIN_BYTES {
        return Err(CloseReason::BadName);
    }
    if line.contains(&b'\r') {
        return Err(CloseReason::NoLineFeed);
    }
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    let line = protocol::trim(line);
    let (name, token) = match memchr::memchr2(b' ', b'\t', line) {
        Some(end) => (&line[..end], Some(line[end..].trim_ascii_start())),
        None => (line, None),
    };
    // The start of a request in another protocol has more words.
    if token.is_some_and(|token| token.iter().any(u8::is_ascii_whitespace)) {
        return Err(CloseReason::BadName);
    }
    Name::new(name).map(|name| (name, token)).map_err(|_| CloseReason::BadName)
}
