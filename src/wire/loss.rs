//! What a sender is told of its lines that were accepted and then lost, in both directions: as the
//! text on the wire, and read back from it. Pure.

use std::{error, fmt};

use super::name::{MAX_NAME, Name};
use super::protocol::ERROR_LINE;

/// What follows the line number in every such line, or the number of lines.
const LOST: &str = "lost on the way to ";

/// The maximum length of one of these lines, line end included, in bytes: three numbers, a name and
/// a reason.
pub(crate) const MAX_LOSS_BYTES: usize = ERROR_LINE.len()
    + ": ".len()
    + " deliveries from line ".len()
    + " on ".len()
    + LOST.len()
    + ": connection broken\n".len()
    + 3 * 20
    + MAX_NAME;

/// The lines of one client that were lost on the way to one connection, or to several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostLines {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// How many deliveries of these lines are lost; the others were made, or were never due.
    pub(crate) count: u64,
}

impl LostLines {
    /// These and further ones.
    #[must_use]
    pub(crate) fn and(self, more: Self) -> Self {
        Self {
            first: self.first.min(more.first),
            last: self.last.max(more.last),
            count: self.count + more.count,
        }
    }
}

/// Why an accepted message did not reach its recipient. [`Display`](fmt::Display) is the text on the
/// wire.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// The recipient was evicted: it acknowledged too little for too long.
    Evicted,
    /// The recipient left before it had acknowledged everything.
    Left,
    /// The recipient's connection broke.
    ConnectionBroken,
    /// The server itself failed.
    ServerError,
    /// In a cluster: the recipient's node is gone, or the engine has forgotten where the line was. It
    /// may have arrived.
    NodeGone,
    /// In a cluster: the line was never sent, since the engine was not reachable.
    Unreachable,
    /// In a cluster: the recipient's node was stopped, and the recipient did not come back in time.
    DidNotComeBack,
    /// Something that this version does not know.
    Other(String),
}

impl LossReason {
    pub(crate) const KNOWN: [Self; 7] = [
        Self::Evicted,
        Self::Left,
        Self::ConnectionBroken,
        Self::ServerError,
        Self::NodeGone,
        Self::Unreachable,
        Self::DidNotComeBack,
    ];

    fn parse(text: &str) -> Self {
        let known = Self::KNOWN.into_iter().find(|known| known.text() == text);
        known.unwrap_or_else(|| Self::Other(text.to_owned()))
    }

    fn text(&self) -> &str {
        match self {
            Self::Evicted => "evicted",
            Self::Left => "left",
            Self::ConnectionBroken => "connection broken",
            Self::ServerError => "server error",
            Self::NodeGone => "its node is gone",
            Self::Unreachable => "not reachable",
            Self::DidNotComeBack => "did not come back",
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl error::Error for LossReason {}

/// Appends the notice of lines that one recipient did not get.
///
/// The number that the line begins with is that of the last line lost: all lines up to it were
/// accepted, which is what a client that does not know these notices concludes from it.
pub(crate) fn push_loss(
    out: &mut Vec<u8>,
    lines: LostLines,
    recipient: &Name,
    reason: &LossReason,
) {
    let LostLines { first, last, count } = lines;
    let text = if count == 1 {
        format!("{ERROR_LINE}{last}: {LOST}{recipient}: {reason}\n")
    } else {
        format!(
            "{ERROR_LINE}{last}: {count} lines from line {first} on {LOST}{recipient}: {reason}\n"
        )
    };
    out.extend_from_slice(text.as_bytes());
}

/// Appends the notice of deliveries to so many recipients that they are not named.
pub(crate) fn push_losses(out: &mut Vec<u8>, lines: LostLines, recipients: u64) {
    let LostLines { first, last, count } = lines;
    let text = format!(
        "{ERROR_LINE}{last}: {count} deliveries from line {first} on {LOST}{recipients} others\n"
    );
    out.extend_from_slice(text.as_bytes());
}

/// A notice as its client reads it: what follows `error: line N: `.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LossNotice {
    pub(crate) lines: LostLines,
    pub(crate) recipients: LostRecipients,
}

/// Who did not get the lines of a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LostRecipients {
    One(Name, LossReason),
    Several(u64),
}

impl LossNotice {
    /// Reads what follows `error: line N: `, if it is such a notice.
    pub(crate) fn parse(last: u64, text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix(LOST) {
            let lines = LostLines { first: last, last, count: 1 };
            return Some(Self { lines, recipients: LostRecipients::one(rest)? });
        }
        let (count, rest) = text.split_once(' ')?;
        let count = count.parse().ok()?;
        let (is_one, rest) = match rest.strip_prefix("lines from line ") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("deliveries from line ")?),
        };
        let (first, rest) = rest.split_once(" on ")?;
        let lines = LostLines { first: first.parse().ok()?, last, count };
        let rest = rest.strip_prefix(LOST)?;
        let recipients = if is_one {
            LostRecipients::one(rest)?
        } else {
            LostRecipients::Several(rest.strip_suffix(" others")?.parse().ok()?)
        };
        (lines.first <= last).then_some(Self { lines, recipients })
    }
}

impl LostRecipients {
    fn one(text: &str) -> Option<Self> {
        let (name, reason) = text.split_once(": ")?;
        Some(Self::One(Name::new(name).ok()?, LossReason::parse(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(out.pop(), Some(b'\n'));
        assert!(out.len() < MAX_LOSS_BYTES);
        String::from_utf8(out).expect("text")
    }

    fn read(line: &str) -> Option<LossNotice> {
        let (number, text) = line.strip_prefix(ERROR_LINE)?.split_once(": ")?;
        LossNotice::parse(number.parse().ok()?, text)
    }

    #[test]
    fn a_notice_is_read_back_from_its_text() {
        let bob = Name::new("bob").expect("a name");
        for reason in LossReason::KNOWN {
            for (lines, count) in [("line 23: ", 1), ("line 23: 5 lines from line 17 on ", 5)] {
                let first = if count == 1 { 23 } else { 17 };
                let lost = LostLines { first, last: 23, count };
                let text = written(|out| push_loss(out, lost, &bob, &reason));
                assert_eq!(text, format!("error: {lines}lost on the way to bob: {reason}"));
                let recipients = LostRecipients::One(bob.clone(), reason.clone());
                assert_eq!(read(&text), Some(LossNotice { lines: lost, recipients }));
            }
        }
        let lost = LostLines { first: 5, last: 23, count: 1203 };
        let text = written(|out| push_losses(out, lost, 310));
        let expected =
            "error: line 23: 1203 deliveries from line 5 on lost on the way to 310 others";
        assert_eq!(text, expected);
        let recipients = LostRecipients::Several(310);
        assert_eq!(read(&text), Some(LossNotice { lines: lost, recipients }));
    }

    #[test]
    fn the_longest_notice_is_as_long_as_its_bound() {
        let (max, name) = (u64::MAX, Name::new("x".repeat(MAX_NAME)).expect("a name"));
        let lost = LostLines { first: max, last: max, count: max };
        let one = written(|out| push_loss(out, lost, &name, &LossReason::ConnectionBroken));
        let several = written(|out| push_losses(out, lost, max));
        assert!(one.len().max(several.len()) + 8 > MAX_LOSS_BYTES);
    }

    #[test]
    fn other_errors_of_a_line_are_no_such_notice() {
        for text in [
            "no such peer: bob",
            "lost on the way to bob",
            "lost on the way to a b: evicted",
            "5 lines from line 24 on lost on the way to bob: evicted",
            "x lines from line 17 on lost on the way to bob: evicted",
            "5 lines from line 17 lost on the way to bob: evicted",
            "5 deliveries from line 17 on lost on the way to bob: evicted",
            "not everything before it is delivered after 30 s",
        ] {
            assert_eq!(LossNotice::parse(23, text), None, "{text}");
        }
    }
}
