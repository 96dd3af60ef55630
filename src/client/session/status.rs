//! Everything about a session that is no line from the server, in words.

use std::ops::RangeInclusive;
use std::{error, fmt, io};

use super::super::error::ConnectError;
use super::super::outcome::{DisconnectReason, Lines};
use crate::wire::name::Name;
use crate::wire::room::Room;

/// How many lines in doubt or not accepted are shown. Of more, the numbers have to do.
const SHOWN: usize = 10;

/// Something about a session that its user should know. [`Display`](fmt::Display) says it in one
/// line, or in several that begin with two blanks.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionStatus<'a> {
    /// Connecting takes more than a moment.
    Connecting {
        /// The server's address, as it was given.
        address: &'a str,
    },
    /// Logged in.
    Connected {
        /// It is not the first time.
        again: bool,
    },
    /// An attempt to connect failed, and another one follows.
    Retrying {
        /// Why it failed.
        error: &'a ConnectError,
    },
    /// The next line waits until these are connected.
    WaitingFor {
        /// Its recipients that are not.
        names: &'a [Name],
    },
    /// The next line waits until somebody else is in this room.
    WaitingForRoom {
        /// The room.
        room: &'a Room,
    },
    /// A connection ended.
    Ended {
        /// Why.
        reason: &'a DisconnectReason,
        /// The numbers of the lines that the server accepted on it.
        accepted: RangeInclusive<u64>,
    },
    /// Lines may have been accepted or not, and are not sent again.
    InDoubt {
        /// These.
        lines: &'a Lines,
    },
    /// The session ends, and no server accepted these lines.
    NotAccepted {
        /// Those that were handed over.
        lines: &'a Lines,
    },
    /// The output failed, which ends the session.
    OutputFailed {
        /// Why.
        error: &'a io::Error,
    },
}

impl fmt::Display for SessionStatus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { address } => write!(f, "connecting to {address}"),
            Self::Connected { again: false } => f.write_str("connected"),
            Self::Connected { again: true } => f.write_str("connected again"),
            Self::Retrying { error } => {
                write_chain(f, error)?;
                f.write_str("; trying again")
            }
            Self::WaitingFor { names } => {
                f.write_str("waiting for ")?;
                for (index, name) in names.iter().enumerate() {
                    write!(f, "{}{name}", if index > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::WaitingForRoom { room } => write!(f, "waiting for others in {room}"),
            Self::Ended { reason, accepted } => {
                write!(f, "{reason}")?;
                let (first, last) = (accepted.start(), accepted.end());
                match (accepted.end() + 1).saturating_sub(*accepted.start()) {
                    0 => Ok(()),
                    1 => write!(f, "; line {last} was accepted"),
                    _ => write!(f, "; lines {first} to {last} were accepted"),
                }
            }
            Self::InDoubt { lines } => {
                let (first, last) = (lines.first_number(), lines.last_number());
                match lines.len() {
                    1 => write!(f, "line {first} is in doubt")?,
                    _ => write!(f, "lines {first} to {last} are in doubt")?,
                }
                f.write_str(", sent but perhaps not accepted, and not sent again")?;
                write_lines(f, lines)
            }
            Self::NotAccepted { lines } => {
                write!(f, "from line {} on nothing was accepted", lines.first_number())?;
                write_lines(f, lines)
            }
            Self::OutputFailed { error } => write!(f, "cannot write what arrives: {error}"),
        }
    }
}

/// Writes an error and its causes, joined by `: `.
fn write_chain(f: &mut fmt::Formatter<'_>, error: &dyn error::Error) -> fmt::Result {
    write!(f, "{error}")?;
    error.source().map_or(Ok(()), |source| {
        f.write_str(": ")?;
        write_chain(f, source)
    })
}

fn write_lines(f: &mut fmt::Formatter<'_>, lines: &Lines) -> fmt::Result {
    for (number, line) in lines.iter().take(SHOWN) {
        write!(f, "\n  line {number}: {}", String::from_utf8_lossy(line))?;
    }
    if lines.len() > SHOWN as u64 { f.write_str("\n  ...") } else { Ok(()) }
}
