//! The reply to a `/sync`, in both directions: as the text on the wire, and read back from it. Pure.

use std::fmt;
use std::time::Duration;

use super::protocol::{ERROR_LINE, NOTICE_LINE};

/// The maximum length of a reply, line end included, in bytes: its texts and two numbers.
pub(crate) const MAX_SYNC_BYTES: usize =
    NOTICE_LINE.len() + ": ".len() + BEFORE.len() + SHUTTING_DOWN.len() + 2 * 20 + 1;

const BEFORE: &str = "everything before it is delivered";
const OR_LOST: &str = " or was reported lost";
const NOT_IN_TIME: &str = "not everything before it is delivered after ";
const SHUTTING_DOWN: &str = "the server is shutting down before everything is delivered";

/// What became of the lines before a `/sync`. [`Display`](fmt::Display) is the text on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncOutcome {
    /// Every delivery was made: each recipient's kernel has it, or the kernel of a proxy before it.
    /// Nothing was lost since the `/sync` before. Recipients that a line did not find are not meant:
    /// that was reported when the line was refused.
    Delivered,
    /// Every delivery was made, or its loss was reported before.
    DeliveredOrLost,
    /// Some deliveries had not ended after this long. They go on.
    NotInTime(Duration),
    /// The server shut down first. What is lost from here on is reported to nobody.
    ShuttingDown,
}

impl SyncOutcome {
    /// Whether the reply is a notice; otherwise it is an error.
    fn is_notice(self) -> bool {
        matches!(self, Self::Delivered | Self::DeliveredOrLost)
    }

    /// Reads what follows `notice: line N: ` or `error: line N: `.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix(BEFORE) {
            let outcomes = [(Self::Delivered, ""), (Self::DeliveredOrLost, OR_LOST)];
            let known = outcomes.into_iter().find(|(_, end)| *end == rest);
            return known.map(|(outcome, _)| outcome);
        }
        if text == SHUTTING_DOWN {
            return Some(Self::ShuttingDown);
        }
        let seconds = text.strip_prefix(NOT_IN_TIME)?.strip_suffix(" s")?;
        Some(Self::NotInTime(Duration::from_secs(seconds.parse().ok()?)))
    }
}

impl fmt::Display for SyncOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered => f.write_str(BEFORE),
            Self::DeliveredOrLost => write!(f, "{BEFORE}{OR_LOST}"),
            Self::NotInTime(after) => write!(f, "{NOT_IN_TIME}{} s", after.as_secs()),
            Self::ShuttingDown => f.write_str(SHUTTING_DOWN),
        }
    }
}

/// Appends the reply to the `/sync` in this line.
pub(crate) fn push_sync(out: &mut Vec<u8>, line: u64, outcome: SyncOutcome) {
    let prefix = if outcome.is_notice() { NOTICE_LINE } else { ERROR_LINE };
    out.extend_from_slice(format!("{prefix}{line}: {outcome}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::reasons::DEFAULT_SYNC;

    #[test]
    fn a_reply_is_read_back_from_its_text() {
        for (outcome, expected) in [
            (SyncOutcome::Delivered, "notice: line 40: everything before it is delivered"),
            (
                SyncOutcome::DeliveredOrLost,
                "notice: line 40: everything before it is delivered or was reported lost",
            ),
            (
                SyncOutcome::NotInTime(DEFAULT_SYNC),
                "error: line 40: not everything before it is delivered after 30 s",
            ),
            (
                SyncOutcome::ShuttingDown,
                "error: line 40: the server is shutting down before everything is delivered",
            ),
        ] {
            let mut line = Vec::new();
            push_sync(&mut line, 40, outcome);
            assert!(line.len() <= MAX_SYNC_BYTES);
            let line = String::from_utf8(line).expect("text");
            assert_eq!(line.strip_suffix('\n'), Some(expected));
            let text = expected.split_once(" 40: ").map(|(_, text)| text);
            assert_eq!(text.and_then(SyncOutcome::parse), Some(outcome));
        }
        for text in ["", "everything before it is delivered, or", "here: bob"] {
            assert_eq!(SyncOutcome::parse(text), None, "{text}");
        }
    }
}
