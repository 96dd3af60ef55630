//! Runs on the reader's thread before its client has a writer: reads the login line, or rejects the
//! connection. Plain functions without state; the last byte that login needs ends them.
//!
//! The stages before a client has a name stand here, in the order in which bytes meet them.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use crate::server::input::{Input, ReadOutcome};
use crate::server::linger::linger;
use crate::server::report::CloseReason;
use crate::server::timeout::{StallDetector, WaitBudget};
use crate::server::writer::WriterExit;
use crate::wire::name::Name;
use crate::wire::protocol;
use crate::wire::reasons::Rejection;

/// The maximum length of a login line, in bytes, its line end not counted: a name and the white space
/// around it.
const MAX_LOGIN_BYTES: usize = 100;

/// The time for a line feed to follow a carriage return in the login line. Some clients never send
/// one, and would otherwise wait for the login timeout without knowing why.
const LINE_FEED_TIMEOUT: Duration = Duration::from_secs(2);

/// Some programs write this mark before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads the login line.
#[inline(never)]
pub(crate) fn login(input: &mut Input) -> Result<Name, CloseReason> {
    let mut budget = WaitBudget::new(input.shared.config.login_timeout, Instant::now());
    #[cfg(feature = "proxy")]
    crate::server::proxy::read_header(input, &mut budget)?;
    // Set while the line so far ends with a carriage return.
    let mut line_feed: Option<WaitBudget> = None;
    loop {
        if let Some(line) = input.lines.next_line() {
            return line.text().map_or(Err(CloseReason::BadName), parse_login);
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
        CloseReason::ServerFull => Rejection::ServerFull.line(),
        CloseReason::PerAddressLimit => Rejection::PerAddressLimit.line(),
        CloseReason::NoProxyHeader => Rejection::NoProxyHeader.line(),
        CloseReason::Shutdown => protocol::closing_notice(0),
        CloseReason::LeftBeforeLogin if input.lines.partial_len() > 0 => {
            input.shared.counters.unterminated.add(1);
            Rejection::UnterminatedLine.line()
        }
        _ => String::new(),
    };
    // A new socket accepts one line unless it is disconnected, and nothing more can be done in
    // either case.
    let _ = input.connection.write(&[IoSlice::new(text.as_bytes())]);
    input.connection.shutdown_write();
    // No message is pending, so nothing can be lost, and the result does not matter.
    let config = &input.shared.config;
    let mut stall = StallDetector::new(config.stall_timeout, config.stall_bytes);
    let _ = linger(&input.connection, &input.shared, &mut stall);
    input.connection.close();
    WriterExit::without_deliveries(reason)
}

/// The name in a login line, which must be UTF-8.
fn parse_login(line: &[u8]) -> Result<Name, CloseReason> {
    if line.len() > MAX_LOGIN_BYTES {
        return Err(CloseReason::BadName);
    }
    if line.contains(&b'\r') {
        return Err(CloseReason::NoLineFeed);
    }
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    Name::new(protocol::trim(line)).map_err(|_| CloseReason::BadName)
}
