//! Which of the sent lines are known to be accepted. Plain state, owned by the client's reader
//! thread.
//!
//! The server reports how many lines it accepted only when it shuts down. But it replies to a
//! client's lines in order and by number, after it accepted them, so each reply shows that all lines
//! up to that one were accepted. If none of the user's lines causes a reply, the client asks with a
//! line of its own, see [`Probe`]. The user's lines are numbered without those.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{LostLines, LostRecipient};
use super::history::History;
use super::outcome::{ConnectionOutcome, DisconnectReason, Lines};
use crate::wire::loss::{LossNotice, LostRecipients};

/// Complete lines that are sent together.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) bytes: Arc<[u8]>,
    /// How many lines these are.
    pub(crate) lines: u64,
    /// Set if it is one line of the client's own, and not the user's.
    pub(crate) own: Option<Probe>,
    /// How much of the room for unconfirmed lines it takes, in bytes.
    pub(crate) charge: usize,
}

/// The purpose of a line of the client's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// To get a reply, whatever it says.
    Checkpoint,
    /// The outbox waits for the reply.
    Question,
    /// A `/sync` that the outbox waits for.
    Confirmation,
}

/// The line that the server replied to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Probe(Probe),
    /// The user's line of this number.
    Yours {
        number: u64,
        text: Vec<u8>,
    },
    /// A line that was never sent, or was replied to before: a server of this kind does not do that.
    Unknown,
}

/// The lines of one connection that are not known to be accepted, in order.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Of the first piece, `skip` bytes are known to be accepted.
    sent: VecDeque<Sent>,
    skip: usize,
    /// What was accepted before, and the first piece as soon as some of it is.
    history: History,
    /// The server's number, and the user's, of the last line that is known to be accepted.
    line: u64,
    number: u64,
    /// The server's number of the last line that was sent.
    last: u64,
    /// How many bytes of the stream of lines are known to be accepted.
    bytes: u64,
    /// The charge of what was dropped since that was last asked for.
    freed: usize,
    /// The server has reported how many lines it accepted, and accepts no more.
    is_final: bool,
}

impl Ledger {
    /// A ledger for lines that the user counts from `after + 1` on.
    pub(crate) fn new(after: u64) -> Self {
        Self {
            sent: VecDeque::new(),
            skip: 0,
            history: History::new(after),
            line: 0,
            number: after,
            last: 0,
            bytes: 0,
            freed: 0,
            is_final: false,
        }
    }

    /// Notes what is sent next.
    pub(crate) fn push(&mut self, sent: Sent) {
        if sent.own.is_some() {
            self.history.note_own(self.last + 1);
        }
        self.last += sent.lines;
        self.sent.push_back(sent);
    }

    /// The number of the user's last line that is known to be accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.number
    }

    /// True if all of the user's lines are known to be accepted.
    pub(crate) fn all_accepted(&self) -> bool {
        self.sent.iter().all(|sent| sent.own.is_some())
    }

    /// How much room was freed since this was last asked.
    pub(crate) fn take_freed(&mut self) -> usize {
        std::mem::take(&mut self.freed)
    }

    /// Notes that the server replied to its line `line`: all lines up to it are accepted.
    pub(crate) fn answered(&mut self, line: u64) -> Answered {
        if line <= self.line || line > self.last {
            return Answered::Unknown;
        }
        self.accept(line - 1);
        let Some(first) = self.sent.front() else {
            return Answered::Unknown;
        };
        let answered = if let Some(own) = first.own {
            Answered::Probe(own)
        } else {
            let text = first_line(&first.bytes[self.skip..]).to_vec();
            Answered::Yours { number: self.number + 1, text }
        };
        self.accept(line);
        answered
    }

    /// Notes that lines were accepted and then lost.
    ///
    /// This comes out of order, and more than once for a line with several recipients. So it is no
    /// reply, but it shows that all lines up to the last of them were accepted.
    pub(crate) fn lost(&mut self, notice: LossNotice) -> LostLines {
        let LossNotice { lines, recipients } = notice;
        self.accept(lines.last);
        let (first, last) = (self.history.number(lines.first), self.history.number(lines.last));
        let (recipient, texts) = match recipients {
            LostRecipients::One(name, reason) => {
                let texts = self.history.texts(lines.first, lines.last, name.as_str());
                (LostRecipient::One { name, reason }, texts)
            }
            LostRecipients::Several(recipients) => (LostRecipient::Several(recipients), Vec::new()),
        };
        LostLines { first, last, deliveries: lines.count, recipient, lines: texts }
    }

    /// Notes that the server accepted its lines up to `line`, as far as they were sent.
    pub(crate) fn accept(&mut self, line: u64) {
        while let Some(first) = self.sent.front().filter(|_| self.line < line) {
            if self.skip == 0 && first.own.is_none() {
                self.history.keep(self.line + 1, first.lines, Arc::clone(&first.bytes));
            }
            let rest = &first.bytes[self.skip..];
            let wanted = line - self.line;
            let (lines, bytes) = if wanted >= first.lines {
                (first.lines, rest.len())
            } else {
                (wanted, end_of_line(rest, wanted))
            };
            self.line += lines;
            self.bytes += bytes as u64;
            self.number += if first.own.is_none() { lines } else { 0 };
            if lines == first.lines {
                self.freed += first.charge;
                self.sent.pop_front();
                self.skip = 0;
            } else {
                self.skip += bytes;
                self.sent[0].lines -= lines;
            }
        }
    }

    /// Notes that the server accepted its lines up to `line` and accepts no more.
    pub(crate) fn accept_only(&mut self, line: u64) {
        self.accept(line);
        self.is_final = true;
    }

    /// What became of all lines, if `written` bytes of them were written to the socket.
    ///
    /// Unless the server reported how many it accepted, every line that was written up to its last
    /// byte may have been accepted, and is in doubt.
    pub(crate) fn settle(self, reason: DisconnectReason, written: u64) -> ConnectionOutcome {
        let sure = self.is_final || matches!(reason, DisconnectReason::ShutDown);
        let mut in_doubt = Lines::after(self.number);
        let (mut rest, mut offset) = (Vec::new(), self.bytes);
        let mut skip = self.skip;
        for sent in &self.sent {
            let bytes = &sent.bytes[std::mem::take(&mut skip)..];
            let written_of = usize::try_from(written.saturating_sub(offset)).unwrap_or(usize::MAX);
            offset += bytes.len() as u64;
            if sent.own.is_some() {
                continue;
            }
            let written = &bytes[..written_of.min(bytes.len())];
            let complete = memchr::memrchr(b'\n', written).map_or(0, |end| end + 1);
            let (doubtful, unsent) = bytes.split_at(if sure { 0 } else { complete });
            in_doubt.push(doubtful);
            rest.extend_from_slice(unsent);
        }
        let mut unsent = Lines::after(self.number + in_doubt.len());
        unsent.push(&rest);
        ConnectionOutcome { reason, accepted: self.number, in_doubt, unaccepted: unsent }
    }
}

/// The first line of `lines`, without its line end.
fn first_line(lines: &[u8]) -> &[u8] {
    let line = &lines[..memchr::memchr(b'\n', lines).unwrap_or(lines.len())];
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Where the `count`th line ends, its line end included.
fn end_of_line(lines: &[u8], count: u64) -> usize {
    let index = usize::try_from(count - 1).unwrap_or(usize::MAX);
    memchr::memchr_iter(b'\n', lines).nth(index).map_or(lines.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(text: &str, own: Option<Probe>) -> Sent {
        let lines = text.matches('\n').count() as u64;
        Sent { bytes: text.as_bytes().into(), lines, own, charge: text.len() }
    }

    fn yours(number: u64, text: &str) -> Answered {
        Answered::Yours { number, text: text.into() }
    }

    fn texts(lines: &Lines) -> Vec<(u64, String)> {
        let text = |(number, line)| (number, String::from_utf8_lossy(line).into_owned());
        lines.iter().map(text).collect()
    }

    #[test]
    fn replies_are_numbered_without_the_clients_own_lines() {
        let mut ledger = Ledger::new(10);
        for (text, own) in [
            ("/who me\n", Some(Probe::Question)),
            ("a\nb\r\nc\n", None),
            ("/who me\n", Some(Probe::Checkpoint)),
            ("d\n", None),
        ] {
            ledger.push(sent(text, own));
        }
        assert_eq!(ledger.answered(1), Answered::Probe(Probe::Question));
        assert_eq!(ledger.answered(3), yours(12, "b"));
        assert_eq!((ledger.accepted(), ledger.take_freed()), (12, 8));
        assert_eq!(ledger.answered(5), Answered::Probe(Probe::Checkpoint));
        assert_eq!((ledger.accepted(), ledger.take_freed()), (13, 15));
        assert_eq!(ledger.answered(6), yours(14, "d"));
        assert_eq!(ledger.answered(6), Answered::Unknown);
        assert_eq!(ledger.answered(7), Answered::Unknown);
        assert_eq!(ledger.accepted(), 14);
    }

    #[test]
    fn at_shutdown_every_line_that_the_server_did_not_count_is_unaccepted() {
        let mut ledger = Ledger::new(0);
        ledger.push(sent("/who me\n", Some(Probe::Question)));
        ledger.push(sent("a\nb\nc\n", None));
        ledger.push(sent("/who me\n", Some(Probe::Checkpoint)));
        ledger.push(sent("d\n", None));
        ledger.accept(3);
        let outcome = ledger.settle(DisconnectReason::ShutDown, 1000);
        assert_eq!(outcome.accepted, 2);
        assert!(outcome.in_doubt.is_empty());
        assert_eq!(texts(&outcome.unaccepted), [(3, "c".to_owned()), (4, "d".to_owned())]);
        assert_eq!(outcome.unaccepted.into_bytes(), b"c\nd\n");
    }

    #[test]
    fn after_a_crash_only_lines_that_were_not_written_are_unaccepted() {
        let mut ledger = Ledger::new(0);
        ledger.push(sent("a\nb\n", None));
        ledger.push(sent("/who me\n", Some(Probe::Checkpoint)));
        ledger.push(sent("cc\ndd\n", None));
        assert_eq!(ledger.answered(1), yours(1, "a"));
        // The second `d` is not written, so that line cannot have been taken for one.
        let outcome = ledger.settle(DisconnectReason::Lost(None), 4 + 8 + 4);
        assert_eq!(outcome.accepted, 1);
        assert_eq!(texts(&outcome.in_doubt), [(2, "b".to_owned()), (3, "cc".to_owned())]);
        assert_eq!(texts(&outcome.unaccepted), [(4, "dd".to_owned())]);
    }

    #[test]
    fn a_loss_is_no_reply_but_shows_what_was_accepted() {
        let mut ledger = Ledger::new(10);
        ledger.push(sent("/who me\n", Some(Probe::Checkpoint)));
        ledger.push(sent("bob: a\nbob, carol: b\nbob: c\n", None));
        let lost = |line: &str| {
            let (last, text) = line.split_once(": ").expect("a number");
            LossNotice::parse(last.parse().expect("a number"), text).expect("a notice")
        };
        let told = ledger.lost(lost("3: lost on the way to carol: evicted"));
        assert_eq!((told.first, told.last, ledger.accepted()), (12, 12, 12));
        assert_eq!(told.lines, [(12, "bob, carol: b".to_owned())]);
        let told = ledger.lost(lost("3: 2 lines from line 2 on lost on the way to bob: left"));
        assert_eq!((told.first, told.last, told.deliveries), (11, 12, 2));
        assert_eq!(told.lines.len(), 2);
        assert_eq!(ledger.answered(4), yours(13, "bob: c"));
        let told = ledger.lost(lost("4: 9 deliveries from line 2 on lost on the way to 5 others"));
        assert_eq!(
            told.to_string(),
            "line 13: 9 deliveries from line 11 on lost on the way to 5 others"
        );
        assert!(told.lines.is_empty());
    }

    proptest! {
        /// Against a plain list of lines, of which some are the client's own.
        #[test]
        fn a_ledger_agrees_with_a_plain_list_of_lines(
            pieces in proptest::collection::vec(
                prop_oneof![
                    3 => proptest::collection::vec("[a-c]{0,3}", 1..5).prop_map(Some),
                    1 => Just(None),
                ],
                0..12,
            ),
            answers in proptest::collection::vec(1_u64..50, 0..6),
            end in prop_oneof![
                (0_u64..60).prop_map(Ok),
                (0_u64..120).prop_map(Err),
            ],
        ) {
            let mut ledger = Ledger::new(0);
            // Each line with its number, which those of the client's own do not have.
            let (mut lines, mut number) = (Vec::new(), 0);
            for piece in &pieces {
                if let Some(texts) = piece {
                    ledger.push(sent(&(texts.join("\n") + "\n"), None));
                    lines.extend(texts.iter().map(|text| {
                        number += 1;
                        (Some(number), text.as_str())
                    }));
                } else {
                    ledger.push(sent("/who\n", Some(Probe::Checkpoint)));
                    lines.push((None, "/who"));
                }
            }
            let index = |line: u64| usize::try_from(line).expect("small");
            let mut answers = answers;
            answers.sort_unstable();
            answers.dedup();
            let mut known = 0;
            for answer in answers {
                let expected = match lines.get(index(answer) - 1) {
                    Some((Some(number), text)) => yours(*number, text),
                    Some((None, _)) => Answered::Probe(Probe::Checkpoint),
                    None => Answered::Unknown,
                };
                prop_assert_eq!(ledger.answered(answer), expected);
                if index(answer) <= lines.len() {
                    known = index(answer);
                }
            }
            let (reason, accepted, written) = match end {
                Ok(line) => {
                    ledger.accept(line);
                    known = known.max(index(line).min(lines.len()));
                    (DisconnectReason::ShutDown, known, 0)
                }
                Err(bytes) => {
                    let mut end = 0;
                    let complete = lines.iter().take_while(|(_, text)| {
                        end += text.len() as u64 + 1;
                        end <= bytes
                    });
                    (DisconnectReason::Lost(None), known.max(complete.count()), bytes)
                }
            };
            let outcome = ledger.settle(reason, written);
            let numbered = |lines: &[(Option<u64>, &str)]| -> Vec<(u64, String)> {
                lines.iter().filter_map(|(number, text)| Some(((*number)?, (*text).to_owned()))).collect()
            };
            prop_assert_eq!(outcome.accepted, numbered(&lines[..known]).len() as u64);
            prop_assert_eq!(texts(&outcome.in_doubt), numbered(&lines[known..accepted]));
            prop_assert_eq!(texts(&outcome.unaccepted), numbered(&lines[accepted..]));
        }
    }
}
