//! Turns a client's lines into batches of finished frames, pure: a reader owns one builder.
//!
//! A batch is one buffer of frames (`from alice: hello\n`), encoded once however many recipients
//! there are, and a list of steps that say who gets which part of it. Consecutive lines with the
//! same recipient list are one step, so that the broker's and the writers' work grows with the
//! changes of recipient, not with the lines.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use memchr::arch::all::is_prefix;

use crate::wire::framing::Line;
use crate::wire::protocol::{
    self, LineRefusal, MAX_NAME, MAX_RECIPIENTS, MAX_WHO_NAMES, Name, Rejection, Request,
};

/// Finished frames, shared by all recipients.
pub(crate) type Frames = Arc<Vec<u8>>;

/// What one entry of a recipient's queue is charged for beside its bytes.
const ENTRY_CHARGE: usize = 64;

/// What a batch is charged for beside its contents.
const BATCH_CHARGE: usize = 256;

/// The most that `error: line 18446744073709551615: no such peer: ` and a line end take up.
pub(crate) const MAX_ERROR_BYTES: usize = 56;

/// The most that the answer to a bare `/who` takes up.
const WHO_CHARGE: usize = MAX_WHO_NAMES * (MAX_NAME + 2) + MAX_ERROR_BYTES;

/// With this much room in the window, in bytes, a line surely fits that is no longer than a 64th
/// of it: a byte adds 36 to the charge at most, in a list of names of one letter, and what a line
/// is charged for whatever its length is less than 4 KiB.
const AMPLE_ROOM: usize = 16 * 1024;

/// A list of up to this many recipients is searched for doubles name by name, a longer one by
/// hashing, so that a line full of names costs no more than its length.
const SHORT_LIST: usize = 8;

/// Some of a client's lines, ready to be routed.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Complete lines taken, empty and refused ones included.
    pub(crate) lines: u64,
    /// Last lines without a line end: one at most.
    pub(crate) unterminated: u64,
    pub(crate) steps: Vec<Step>,
    pub(crate) frames: Frames,
    /// The recipients' names as typed, end to end, and where each of them stands.
    names: Vec<u8>,
    recipients: Vec<Range<u32>>,
}

/// One thing for the broker to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Give `frames` to each of the recipients.
    Relay {
        recipients: Range<u32>,
        frames: Range<u32>,
        /// The number of the first of these consecutive lines, each of which is one message.
        first_line: u64,
        messages: u32,
    },
    /// Tell the sender which of the recipients are connected; none named means all there are.
    Who { recipients: Range<u32>, line: u64 },
    /// Give `frames` back to the sender.
    Reply { frames: Range<u32> },
}

impl Batch {
    /// The names that a step's `recipients` stand for, without doubles.
    pub(crate) fn names(&self, recipients: &Range<u32>) -> impl Iterator<Item = &[u8]> {
        self.recipients[index(recipients)].iter().map(|name| &self.names[index(name)])
    }
}

/// Takes lines until the batch is worth sending.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    prefix: Vec<u8>,
    max_line: usize,
    /// The number of the last line that was taken, over all batches.
    line: u64,
    frames: Vec<u8>,
    names: Vec<u8>,
    recipients: Vec<Range<u32>>,
    steps: Vec<Step>,
    lines: u64,
    unterminated: u64,
    charge: usize,
    /// The last message's recipient list as typed, its `:` included, while lines can join it;
    /// else empty.
    run: Vec<u8>,
    /// What the last batch came to: the next one is likely to be like it.
    expected: Size,
}

/// How much there is in a batch, to make room for as much at once.
#[derive(Debug, Default)]
struct Size {
    frames: usize,
    names: usize,
    recipients: usize,
    steps: usize,
}

impl BatchBuilder {
    /// A builder for what `name` sends, in lines of up to `max_line` bytes.
    pub(crate) fn new(name: &Name, max_line: usize) -> Self {
        Self {
            prefix: protocol::message_prefix(name),
            max_line,
            line: 0,
            frames: Vec::new(),
            names: Vec::new(),
            recipients: Vec::new(),
            steps: Vec::new(),
            lines: 0,
            unterminated: 0,
            charge: BATCH_CHARGE,
            run: Vec::new(),
            expected: Size::default(),
        }
    }

    /// What the lines taken so far are to be charged for, in bytes.
    pub(crate) fn charge(&self) -> usize {
        self.charge
    }

    /// True if the charge stays within `limit` with one more line.
    pub(crate) fn has_room_for(&self, line: &Line<'_>, limit: usize) -> bool {
        let room = limit.saturating_sub(self.charge);
        let surely_fits =
            room >= AMPLE_ROOM && line.text().is_none_or(|text| text.len() <= room / 64);
        surely_fits || self.max_charge(line) <= room
    }

    /// No less than what one more line adds to the charge.
    fn max_charge(&self, line: &Line<'_>) -> usize {
        let text = line.text().unwrap_or_default();
        let names = 1 + memchr::memchr_iter(b',', text).count();
        let relay = self.prefix.len() + 2 * text.len() + MAX_ERROR_BYTES;
        (ENTRY_CHARGE + 2) * (names + 1) + relay.max(WHO_CHARGE)
    }

    /// True if nothing was taken since the last [`finish`](Self::finish).
    pub(crate) fn is_empty(&self) -> bool {
        self.lines + self.unterminated == 0
    }

    /// Hands out what was taken.
    pub(crate) fn finish(&mut self) -> Batch {
        self.charge = BATCH_CHARGE;
        // Not only cleared: a list may be as long as a line, and an idle client keeps none.
        self.run = Vec::new();
        // Where the lines were not as expected, what they do not need is not charged for either.
        shrink(&mut self.frames);
        shrink(&mut self.names);
        shrink(&mut self.recipients);
        shrink(&mut self.steps);
        self.expected = Size {
            frames: self.frames.len(),
            names: self.names.len(),
            recipients: self.recipients.len(),
            steps: self.steps.len(),
        };
        Batch {
            lines: std::mem::take(&mut self.lines),
            unterminated: std::mem::take(&mut self.unterminated),
            steps: std::mem::take(&mut self.steps),
            frames: Arc::new(std::mem::take(&mut self.frames)),
            names: std::mem::take(&mut self.names),
            recipients: std::mem::take(&mut self.recipients),
        }
    }

    /// Takes one complete line.
    pub(crate) fn push(&mut self, line: Line<'_>) {
        if self.is_empty() {
            self.frames.reserve(self.expected.frames);
            self.names.reserve(self.expected.names);
            self.recipients.reserve(self.expected.recipients);
            self.steps.reserve(self.expected.steps);
        }
        self.line += 1;
        self.lines += 1;
        let request = match line {
            Line::Text(text) => protocol::parse_request(text),
            Line::NotUtf8 => Err(LineRefusal::NotUtf8),
            Line::TooLong => Err(LineRefusal::TooLong { limit: self.max_line }),
        };
        self.run.clear();
        let taken = request.and_then(|request| match request {
            Request::Empty => Ok(()),
            Request::Message { recipients, text } => self.start_run(recipients, text),
            Request::Who { names } => self.push_who(names),
        });
        if let Err(refusal) = taken {
            let line = self.line;
            self.push_reply(|frames| protocol::push_refusal(frames, line, refusal));
        }
    }

    /// Answers a last line that has no line end: it is no message, and counted by itself.
    pub(crate) fn push_unterminated_line(&mut self) {
        self.unterminated += 1;
        self.push_reply(|frames| {
            frames.extend_from_slice(Rejection::UnterminatedLine.line().as_bytes());
        });
    }

    /// Takes lines from the front of `lines`, which are complete and UTF-8, while they go on with
    /// the open run: the same recipient list, to the letter. Stops where a line needs a closer
    /// look, and at a charge of `most` or before one of `limit`. Returns how many bytes it took.
    ///
    /// This loop is where a busy server spends its own time.
    pub(crate) fn push_run(&mut self, lines: &[u8], most: usize, limit: usize) -> usize {
        let Some(Step::Relay { frames: said, messages, .. }) = self.steps.last_mut() else {
            return 0;
        };
        let run = self.run.as_slice();
        if run.is_empty() || !is_prefix(lines, run) {
            return 0;
        }
        // Kept out of `self`, so that the loop need not store them for every line.
        let (mut frames, mut charge, mut taken) =
            (std::mem::take(&mut self.frames), self.charge, 0);
        let prefix = self.prefix.as_slice();
        if let Some(first) = memchr::memchr(b'\n', lines) {
            // If the others are like the first; to grow step by step would copy all of it again.
            let frame = (prefix.len() + first + 1).saturating_sub(run.len());
            frames.reserve((lines.len() / (first + 1) * frame).min(most));
        }
        let longest = self.max_line.min(limit / 4).saturating_sub(run.len());
        let mut rest = lines;
        while is_prefix(rest, run) {
            let line = &rest[run.len()..];
            let Some(length) = memchr::memchr(b'\n', line) else { break };
            if length > longest || charge >= most || charge + prefix.len() + length >= limit {
                break;
            }
            charge += push_frame(&mut frames, prefix, protocol::trim(&line[..length]));
            taken += 1;
            rest = &line[length + 1..];
        }
        said.end = offset(frames.len());
        *messages += taken;
        (self.frames, self.charge) = (frames, charge);
        self.line += u64::from(taken);
        self.lines += u64::from(taken);
        lines.len() - rest.len()
    }

    fn start_run(&mut self, list: &[u8], text: &[u8]) -> Result<(), LineRefusal> {
        let recipients = self.push_recipients(list)?;
        // An entry for each recipient, and one for the answer, should some of them not be there.
        let names = list.len() + 2 * recipients.len();
        self.charge += ENTRY_CHARGE * (recipients.len() + 1) + names + MAX_ERROR_BYTES;
        let start = self.frames.len();
        self.charge += push_frame(&mut self.frames, &self.prefix, text);
        let frames = offset(start)..offset(self.frames.len());
        self.steps.push(Step::Relay { recipients, frames, first_line: self.line, messages: 1 });
        self.run.extend_from_slice(list);
        self.run.push(b':');
        Ok(())
    }

    fn push_who(&mut self, list: &[u8]) -> Result<(), LineRefusal> {
        let recipients = self.push_recipients(list)?;
        let answer =
            if recipients.is_empty() { WHO_CHARGE } else { list.len() + 2 * recipients.len() };
        self.charge += ENTRY_CHARGE + MAX_ERROR_BYTES + answer;
        self.steps.push(Step::Who { recipients, line: self.line });
        Ok(())
    }

    fn push_reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.frames.len();
        write(&mut self.frames);
        self.charge += ENTRY_CHARGE + self.frames.len() - before;
        self.steps.push(Step::Reply { frames: offset(before)..offset(self.frames.len()) });
    }

    /// Notes the names of a list, each once, and says which entries of `recipients` they are. Of a
    /// list that is too long nothing stays.
    fn push_recipients(&mut self, list: &[u8]) -> Result<Range<u32>, LineRefusal> {
        let (first, first_name) = (self.recipients.len(), self.names.len());
        if !list.contains(&b',') {
            // Mostly it is one name.
            protocol::names(list).for_each(|name| self.push_name(name));
            return Ok(offset(first)..offset(self.recipients.len()));
        }
        let mut long_list: Option<HashSet<&[u8], RandomState>> = None;
        for name in protocol::names(list) {
            let known = &self.recipients[first..];
            let duplicate = if let Some(seen) = &mut long_list {
                !seen.insert(name)
            } else {
                known.iter().any(|known| &self.names[index(known)] == name)
            };
            if duplicate {
                continue;
            }
            if self.recipients.len() - first == MAX_RECIPIENTS {
                self.recipients.truncate(first);
                self.names.truncate(first_name);
                return Err(LineRefusal::TooManyNames);
            }
            self.push_name(name);
            if long_list.is_none() && self.recipients.len() - first > SHORT_LIST {
                // The first names once more, into the set; from here on it is asked instead.
                let distinct = protocol::names(list).take_while(|seen| *seen != name);
                long_list = Some(distinct.chain([name]).collect());
            }
        }
        Ok(offset(first)..offset(self.recipients.len()))
    }

    fn push_name(&mut self, name: &[u8]) {
        let start = offset(self.names.len());
        self.names.extend_from_slice(name);
        self.recipients.push(start..offset(self.names.len()));
    }
}

fn shrink<T>(list: &mut Vec<T>) {
    if list.capacity() > 2 * list.len() {
        list.shrink_to_fit();
    }
}

/// Appends a message, and returns the length of its frame.
fn push_frame(frames: &mut Vec<u8>, prefix: &[u8], text: &[u8]) -> usize {
    let length = prefix.len() + text.len() + 1;
    frames.reserve(length);
    frames.extend_from_slice(prefix);
    frames.extend_from_slice(text);
    frames.push(b'\n');
    length
}

/// A batch is kept far below 4 GiB: by the window, and in the last resort by the line limit.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
fn offset(length: usize) -> u32 {
    debug_assert!(u32::try_from(length).is_ok());
    length as u32
}

fn index(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn builder() -> BatchBuilder {
        BatchBuilder::new(&Name::new(b"alice").expect("valid"), 100)
    }

    /// Takes lines as a reader does: one, then all that go on with its run.
    fn batch_of(lines: &[&str]) -> Batch {
        let mut builder = builder();
        let stream = lines.join("\n") + "\n";
        let mut rest = stream.as_bytes();
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            builder.push(Line::Text(line));
            rest = &rest[end + 1..];
            rest = &rest[builder.push_run(rest, usize::MAX, usize::MAX)..];
        }
        builder.finish()
    }

    fn frames<'a>(batch: &'a Batch, range: &Range<u32>) -> &'a str {
        std::str::from_utf8(&batch.frames[index(range)]).expect("frames are text")
    }

    fn recipients(batch: &Batch, range: &Range<u32>) -> Vec<String> {
        batch.names(range).map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn consecutive_lines_to_the_same_recipients_are_one_step() {
        let batch = batch_of(&["bob: 1", "bob:2 ", "bob : 3", "", "bob : 4"]);
        let said: Vec<_> = batch
            .steps
            .iter()
            .map(|step| match step {
                Step::Relay { recipients: to, frames: said, first_line, messages } => {
                    assert_eq!(recipients(&batch, to), ["bob"]);
                    (*first_line, *messages, frames(&batch, said))
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            (1, 2, "from alice: 1\nfrom alice: 2\n"),
            (3, 1, "from alice: 3\n"),
            (5, 1, "from alice: 4\n"),
        ];
        assert_eq!(said, expected);
        assert_eq!(batch.lines, 5);
    }

    #[test]
    fn a_list_that_begins_like_the_last_one_is_another_list() {
        let batch = batch_of(&["bob: 1", "bobby: 2", "bo: 3"]);
        assert_eq!(batch.steps.len(), 3);
    }

    #[test]
    fn doubles_count_once_in_short_and_in_long_lists() {
        let short = batch_of(&["a, b,a ,b: x"]);
        assert_eq!(recipients(&short, &(0..offset(short.recipients.len()))), ["a", "b"]);
        let many: Vec<String> = (0..50).map(|number| format!("n{}", number % 20)).collect();
        let long = batch_of(&[&format!("{}: x", many.join(","))]);
        assert_eq!(recipients(&long, &(0..offset(long.recipients.len()))), many[..20]);
    }

    #[test]
    fn a_list_of_too_many_names_is_refused_and_leaves_nothing_in_the_batch() {
        let many: Vec<String> = (0..=MAX_RECIPIENTS).map(|number| format!("n{number}")).collect();
        let (longest, too_long) = (many[1..].join(","), many.join(","));
        let batch = batch_of(&["bob: 1", &format!("{too_long}: 2"), "bob: 3"]);
        let [Step::Relay { .. }, Step::Reply { frames: said }, Step::Relay { .. }] =
            batch.steps.as_slice()
        else {
            panic!("{:?}", batch.steps);
        };
        let expected = format!("error: line 2: more than {MAX_RECIPIENTS} names in its list\n");
        assert_eq!(frames(&batch, said), expected);
        assert_eq!(recipients(&batch, &(0..offset(batch.recipients.len()))), ["bob", "bob"]);
        assert_eq!(batch.names, b"bobbob");
        // Doubles do not count.
        let batch = batch_of(&[&format!("{longest},{longest}: 1"), &format!("/who {too_long}")]);
        let [Step::Relay { recipients: to, .. }, Step::Reply { .. }] = batch.steps.as_slice()
        else {
            panic!("{:?}", batch.steps);
        };
        assert_eq!(recipients(&batch, to), many[1..]);
    }

    #[test]
    fn refusals_keep_their_place_and_their_number() {
        let mut builder = builder();
        builder.push(Line::Text(b"bob: x"));
        builder.push(Line::NotUtf8);
        builder.push(Line::TooLong);
        builder.push(Line::Text(b"nonsense"));
        let batch = builder.finish();
        let replies: Vec<_> = batch
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Reply { frames: said } => Some(frames(&batch, said)),
                _ => None,
            })
            .collect();
        let expected = [
            "error: line 2: not UTF-8\n",
            "error: line 3: longer than 100 bytes\n",
            "error: line 4: no ':' in it, expected \"name, name: text\"\n",
        ];
        assert_eq!(replies, expected);
        builder.push(Line::Text(b"/who"));
        assert_eq!(builder.finish().steps, [Step::Who { recipients: 0..0, line: 5 }]);
    }

    proptest! {
        #[test]
        fn no_line_panics_and_the_charge_covers_the_frames(
            lines in proptest::collection::vec("[ab,: \u{a0}/who\\PC]{0,40}", 0..40),
        ) {
            let mut builder = builder();
            let mut most = builder.charge();
            for line in &lines {
                let line = Line::Text(line.as_bytes());
                most += builder.max_charge(&line);
                builder.push(line);
            }
            let charge = builder.charge();
            prop_assert!(charge <= most);
            let batch = builder.finish();
            prop_assert_eq!(batch.lines, lines.len() as u64);
            prop_assert!(batch.frames.len() <= charge);
            let mut end = 0;
            for step in &batch.steps {
                if let Step::Relay { frames: said, messages, .. } = step {
                    prop_assert!(said.start >= end && said.end > said.start);
                    end = said.end;
                    let said = frames(&batch, said);
                    prop_assert_eq!(said.lines().count(), *messages as usize);
                    prop_assert!(said.lines().all(|frame| frame.starts_with("from alice: ")));
                }
            }
        }
    }
}
