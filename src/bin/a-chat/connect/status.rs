//! What happens to a conversation beside what the server says, in words. No thread runs here.

use std::ops::RangeInclusive;
use std::{fmt, io};

use a_chat::Name;
use a_chat::client::{DisconnectReason, Lines};

/// How many lines in doubt are shown; of more only the numbers.
const SHOWN: usize = 10;

/// Something that the user should know.
#[derive(Debug)]
pub(crate) enum Status<'a> {
    Connected {
        again: bool,
    },
    Retrying {
        why: &'a str,
    },
    WaitingFor {
        names: &'a [Name],
    },
    /// A connection has ended; on it, these lines were accepted.
    ConnectionOutcome {
        reason: &'a DisconnectReason,
        accepted: RangeInclusive<u64>,
    },
    InDoubt {
        lines: &'a Lines,
    },
    NotAccepted {
        from: u64,
    },
    OutputFailed {
        error: &'a io::Error,
    },
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { again: false } => f.write_str("connected"),
            Self::Connected { again: true } => f.write_str("connected again"),
            Self::Retrying { why } => write!(f, "{why}; trying again"),
            Self::WaitingFor { names } => {
                f.write_str("waiting for ")?;
                for (index, name) in names.iter().enumerate() {
                    write!(f, "{}{name}", if index > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::ConnectionOutcome { reason, accepted } => {
                write!(f, "{reason}")?;
                let (first, last) = (accepted.start(), accepted.end());
                match (accepted.end() + 1).saturating_sub(*accepted.start()) {
                    0 => Ok(()),
                    1 => write!(f, "; line {last} was accepted"),
                    _ => write!(f, "; lines {first} to {last} were accepted"),
                }
            }
            Self::InDoubt { lines } => {
                match lines.count() {
                    1 => write!(f, "line {} is in doubt", lines.first())?,
                    _ => write!(f, "lines {} to {} are in doubt", lines.first(), lines.last())?,
                }
                f.write_str(", sent but perhaps not accepted, and not sent again")?;
                for (number, line) in lines.iter().take(SHOWN) {
                    write!(f, "\n  line {number}: {}", String::from_utf8_lossy(line))?;
                }
                if lines.iter().nth(SHOWN).is_some() { f.write_str("\n  ...") } else { Ok(()) }
            }
            Self::NotAccepted { from } => write!(f, "from line {from} on nothing was accepted"),
            Self::OutputFailed { error } => write!(f, "cannot write what arrives: {error}"),
        }
    }
}
