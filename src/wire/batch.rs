//! Turns a client's lines into batches of finished frames. Pure state; each reader owns one
//! builder.
//!
//! A batch is one buffer of frames (`from alice: hello\n`), each encoded once for all its
//! recipients, and a list of steps that assign ranges of the buffer to recipients. Consecutive
//! lines with the same recipient list form a single step, so the work of the broker and the writers
//! grows with the number of times the recipient list changes, not with the number of lines.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use memchr::arch::all::is_prefix;

use crate::wire::framing::Line;
use crate::wire::name::{MAX_NAME, Name};
use crate::wire::protocol::{self, MAX_WHO_NAMES, Request};
use crate::wire::reasons::{LineRefusal, MAX_RECIPIENTS, Rejection, RoomRefusal};
use crate::wire::room::{self, MAX_ROOM, Memberships, Room, RoomSize};
use crate::wire::sync::{self, MAX_SYNC_BYTES, SyncOutcome};

/// Finished frames, shared by all recipients.
pub(crate) type Frames = Arc<Vec<u8>>;

/// The charge for one entry in a recipient's queue, in bytes, in addition to the bytes it holds.
const ENTRY_CHARGE: usize = 64;

/// The charge for a batch, in bytes, in addition to its contents.
const BATCH_CHARGE: usize = 256;

/// The maximum length of `error: line 18446744073709551615: no such peer: ; not a name: ` plus a line
/// end, in bytes.
pub(crate) const MAX_ERROR_BYTES: usize = 72;

/// The maximum length of the reply to a bare `/who`, in bytes.
const WHO_CHARGE: usize = MAX_WHO_NAMES * (MAX_NAME + 2) + MAX_ERROR_BYTES;

/// The charge for a line that enters or leaves a room, in bytes: for the reply to it.
const JOIN_REPLY_CHARGE: usize = MAX_ERROR_BYTES + 2 * MAX_ROOM;

/// The charge for a `/join`, in bytes, as long as it is handled and its reply queued.
pub(crate) const JOIN_CHARGE: usize = BATCH_CHARGE + ENTRY_CHARGE + JOIN_REPLY_CHARGE;

/// The charge for a `/sync`, in bytes: for the reply to it.
pub(crate) const SYNC_CHARGE: usize = BATCH_CHARGE + ENTRY_CHARGE + MAX_SYNC_BYTES;

/// If the window has at least this much room, in bytes, any line up to a 64th of that room fits. In
/// the worst case, a list of one-letter names, a byte adds 36 to the charge. The charge for a line
/// independent of its length is below 4 KiB.
const AMPLE_ROOM: usize = 16 * 1024;

/// The memory for a list of recipients up to this long is kept for the next batch, in bytes: one
/// allocation less for each single message.
const KEPT_RUN: usize = 64;

/// In a list of up to this many recipients, duplicates are found by linear search, in a longer one
/// by hashing. The cost of a line full of names is thus linear in its length.
const SHORT_LIST: usize = 8;

/// Some of a client's lines, ready to be routed.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Complete lines in this batch, including empty and refused ones.
    pub(crate) lines: u64,
    /// The number of the first of them.
    pub(crate) first_line: u64,
    /// Unterminated last lines: at most one.
    pub(crate) unterminated: u64,
    /// Those of the lines that are refused as a whole, whoever is connected.
    pub(crate) refused: u64,
    pub(crate) steps: Vec<Step>,
    pub(crate) frames: Frames,
    /// The recipients' names as typed, concatenated, and the range of each.
    names: Vec<u8>,
    recipients: Vec<Range<u32>>,
}

/// One instruction for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send `frames` to each of the recipients.
    Relay {
        recipients: Range<u32>,
        frames: Range<u32>,
        /// The number of the first of these consecutive lines, each of which is one message.
        first_line: u64,
        messages: u32,
    },
    /// Report to the sender which of these clients are connected; an empty list means all clients.
    Who { recipients: Range<u32>, line: u64 },
    /// Send `frames` to all others in the room.
    RelayRoom {
        /// The room: a list of one.
        room: Range<u32>,
        frames: Range<u32>,
        /// As for [`Relay`](Self::Relay).
        first_line: u64,
        messages: u32,
        /// How many members the sender's window was charged for. If the room has more by now, the
        /// lines are refused.
        charged: u32,
    },
    /// Report to the sender who is in the room.
    WhoIn { room: Range<u32>, line: u64 },
    /// The sender leaves the room.
    Leave { room: Range<u32>, line: u64 },
    /// Send `frames` back to the sender.
    Reply { frames: Range<u32> },
}

/// A line that is no part of a batch: its sender's reader waits until it is handled, and adds no
/// other line meanwhile.
#[derive(Debug)]
pub(crate) enum Barrier {
    Join(Join),
    Sync(SyncRequest),
}

/// A line that asks to enter a room. It is no part of a batch, since what follows it can be charged
/// only once the room's size is known.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) line: u64,
    pub(crate) room: Room,
    /// Whether to be told who else comes and goes; `None` leaves that as it is.
    pub(crate) loud: Option<bool>,
}

impl Batch {
    /// The names in a step's `recipients`, without duplicates.
    pub(crate) fn names(&self, recipients: &Range<u32>) -> impl Iterator<Item = &[u8]> {
        self.recipients[index(recipients)].iter().map(|name| &self.names[index(name)])
    }

    /// The name in a list of one.
    pub(crate) fn name(&self, list: &Range<u32>) -> &[u8] {
        self.names(list).next().unwrap_or_default()
    }
}

/// Accumulates lines until the batch is worth sending.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    prefix: Vec<u8>,
    max_line: usize,
    /// The number of the last line pushed, counted over all batches.
    line: u64,
    /// The number of the first line of the next batch.
    first_line: u64,
    frames: Vec<u8>,
    names: Vec<u8>,
    recipients: Vec<Range<u32>>,
    steps: Vec<Step>,
    lines: u64,
    unterminated: u64,
    /// As [`Batch::refused`].
    refused: u64,
    charge: usize,
    /// An upper bound on the error replies to those lines that are charged for their frames only.
    run_errors: usize,
    /// The last message's recipient list as typed, including its `:`, while further lines can join
    /// its run; otherwise empty.
    run: Vec<u8>,
    /// The prefix of each message of the run, if that goes to a room; otherwise empty.
    run_prefix: Vec<u8>,
    /// The rooms that the client is in.
    rooms: Memberships,
    /// The size of the last batch, as an estimate for the next one.
    expected: Size,
}

/// A line that asks whether all lines before it are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyncRequest {
    pub(crate) line: u64,
    pub(crate) limit: Duration,
}

/// The lengths of a batch's parts, for reserving memory in advance.
#[derive(Debug, Default)]
struct Size {
    frames: usize,
    names: usize,
    recipients: usize,
    steps: usize,
}

impl BatchBuilder {
    /// A builder for messages from `name`, in lines of up to `max_line` bytes.
    pub(crate) fn new(name: &Name, max_line: usize) -> Self {
        Self {
            prefix: protocol::message_prefix(name),
            max_line,
            line: 0,
            first_line: 1,
            frames: Vec::new(),
            names: Vec::new(),
            recipients: Vec::new(),
            steps: Vec::new(),
            lines: 0,
            unterminated: 0,
            refused: 0,
            charge: BATCH_CHARGE,
            run_errors: 0,
            run: Vec::new(),
            run_prefix: Vec::new(),
            rooms: Memberships::default(),
            expected: Size::default(),
        }
    }

    /// Whether the client is in any room.
    pub(crate) fn is_in_rooms(&self) -> bool {
        !self.rooms.is_empty()
    }

    /// The charge for the lines pushed so far, in bytes.
    pub(crate) fn charge(&self) -> usize {
        self.charge
    }

    /// An upper bound on the error replies that the batch can cause beyond its charge, in bytes.
    ///
    /// A line that continues a run is charged for its frame only. Should nobody have the name, the
    /// replies are charged when the broker has routed it; until then they must be bounded, too.
    pub(crate) fn run_errors(&self) -> usize {
        self.run_errors
    }

    /// True if the charge stays within `limit` after one more line.
    pub(crate) fn has_room_for(&self, line: &Line<'_>, limit: usize) -> bool {
        let room = limit.saturating_sub(self.charge);
        let surely_fits =
            room >= AMPLE_ROOM && line.text().is_none_or(|text| text.len() <= room / 64);
        if surely_fits && self.rooms.is_empty() {
            return true;
        }
        let text = line.text().unwrap_or_default();
        // Only a list that begins with a letter or digit surely is no room's.
        let may_be_a_room = !text.first().is_some_and(u8::is_ascii_alphanumeric);
        let entries = if may_be_a_room { self.room_charge(text) } else { 0 };
        surely_fits && entries <= room / 4 || self.max_charge(line) + entries <= room
    }

    /// The charge for the entries in the queues of a room's members, if the line goes to one.
    fn room_charge(&self, text: &[u8]) -> usize {
        match protocol::parse_request(text) {
            Ok(Request::RoomMessage { room, .. }) => {
                self.rooms.size(room).map_or(0, |size| ENTRY_CHARGE * size.to_charge() as usize)
            }
            _ => 0,
        }
    }

    /// An upper bound on what one more line adds to the charge.
    fn max_charge(&self, line: &Line<'_>) -> usize {
        let text = line.text().unwrap_or_default();
        let names = 1 + memchr::memchr_iter(b',', text).count();
        let relay = self.prefix.len() + 2 * text.len() + MAX_ERROR_BYTES;
        let is_who = text.starts_with(protocol::WHO.as_bytes());
        let who = if is_who { protocol::shown_len(text) + MAX_ERROR_BYTES } else { 0 };
        (ENTRY_CHARGE + 2) * (names + 1) + relay.max(WHO_CHARGE).max(who)
    }

    /// True if no line was pushed since the last [`finish`](Self::finish).
    pub(crate) fn is_empty(&self) -> bool {
        self.lines + self.unterminated == 0 && self.steps.is_empty()
    }

    /// Returns the accumulated batch and starts the next one.
    pub(crate) fn finish(&mut self) -> Batch {
        (self.charge, self.run_errors) = (BATCH_CHARGE, 0);
        // Not just cleared: a list can be as long as a line, and an idle client should keep no
        // memory for it.
        if self.run.capacity() > KEPT_RUN {
            self.run = Vec::new();
        }
        self.run.clear();
        self.run_prefix = Vec::new();
        // If the estimate was too high, the excess is not charged for, so it must not be kept
        // either.
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
            first_line: self.first_line,
            lines: std::mem::take(&mut self.lines),
            unterminated: std::mem::take(&mut self.unterminated),
            refused: std::mem::take(&mut self.refused),
            steps: std::mem::take(&mut self.steps),
            frames: Arc::new(std::mem::take(&mut self.frames)),
            names: std::mem::take(&mut self.names),
            recipients: std::mem::take(&mut self.recipients),
        }
    }

    /// Adds one complete line. A barrier is returned instead, and counted for its number only: the
    /// caller sends this batch, then that line, and waits until the broker has handled it.
    #[must_use]
    pub(crate) fn push(&mut self, line: Line<'_>) -> Option<Barrier> {
        if self.is_empty() {
            self.frames.reserve(self.expected.frames);
            self.names.reserve(self.expected.names);
            self.recipients.reserve(self.expected.recipients);
            self.steps.reserve(self.expected.steps);
            self.first_line = self.line + 1;
        }
        self.line += 1;
        let request = match line {
            Line::Text(text) => protocol::parse_request(text),
            Line::NotUtf8 => Err(LineRefusal::NotUtf8),
            Line::TooLong => Err(LineRefusal::TooLong { limit: self.max_line }),
        };
        self.run.clear();
        let outcome = request.and_then(|request| match request {
            Request::Empty => Ok(None),
            Request::Message { recipients, text } => {
                self.start_run(recipients, text).map(no_barrier)
            }
            Request::Who { names } => self.push_who(names).map(no_barrier),
            Request::RoomMessage { room, text } => {
                self.start_room_run(room, text);
                Ok(None)
            }
            Request::WhoIn { room } => {
                self.push_who_in(room);
                Ok(None)
            }
            Request::Leave { room } => {
                self.push_leave(room);
                Ok(None)
            }
            Request::Join { room, loud } => {
                self.join(room, loud).map(|join| join.map(Barrier::Join))
            }
            Request::Sync { limit } => {
                Ok(Some(Barrier::Sync(SyncRequest { line: self.line, limit })))
            }
        });
        match outcome {
            Ok(Some(barrier)) => return Some(barrier),
            Ok(None) => {}
            Err(refusal) => {
                let line = self.line;
                self.refused += 1;
                self.push_reply(|frames| protocol::push_refusal(frames, line, refusal));
            }
        }
        self.lines += 1;
        None
    }

    /// Adds a `/sync` that is not served, with the reply to it.
    pub(crate) fn push_unserved(&mut self, sync: SyncRequest, outcome: SyncOutcome) {
        self.push_reply(|frames| sync::push_sync(frames, sync.line, outcome));
        self.lines += 1;
    }

    /// Notes that the client is in a room, whose members its lines to it are charged for.
    pub(crate) fn joined(&mut self, room: Room, size: RoomSize) {
        self.rooms.insert(room, size);
    }

    /// Replies to an unterminated last line. It is not a message, and is counted separately.
    pub(crate) fn push_unterminated_line(&mut self) {
        self.unterminated += 1;
        self.push_reply(|frames| {
            frames.extend_from_slice(Rejection::UnterminatedLine.line().as_bytes());
        });
    }

    /// Tells the client that its lines are held back.
    pub(crate) fn push_rate_notice(&mut self, lines_per_second: u32) {
        self.run.clear();
        self.push_reply(|frames| protocol::push_rate_notice(frames, lines_per_second));
    }

    /// Adds lines from the front of `lines`, which must be complete and UTF-8, as long as they
    /// continue the open run: the recipient list must match byte for byte. Stops at a line that
    /// needs full parsing, once the charge reaches `flush_threshold`, before it would reach
    /// `limit`, and before the error replies to such lines could exceed half of that. Returns the
    /// number of bytes consumed.
    ///
    /// A busy server spends most of its own CPU time in this loop.
    pub(crate) fn push_run(&mut self, lines: &[u8], flush_threshold: usize, limit: usize) -> usize {
        let Some(
            Step::Relay { frames: open_run, messages, .. }
            | Step::RelayRoom { frames: open_run, messages, .. },
        ) = self.steps.last_mut()
        else {
            return 0;
        };
        let run = self.run.as_slice();
        if run.is_empty() || !is_prefix(lines, run) {
            return 0;
        }
        // Locals instead of fields, so the loop does not store them for every line.
        let (mut frames, mut charge, mut count) =
            (std::mem::take(&mut self.frames), self.charge, 0);
        let prefix = if self.run_prefix.is_empty() { &self.prefix } else { &self.run_prefix };
        let prefix = prefix.as_slice();
        if let Some(first) = memchr::memchr(b'\n', lines) {
            // Assumes that the other lines are as long as the first; growing the buffer step by
            // step would copy it each time.
            let frame = (prefix.len() + first + 1).saturating_sub(run.len());
            frames.reserve((lines.len() / (first + 1) * frame).min(flush_threshold));
        }
        let max_len = self.max_line.min(limit / 4).saturating_sub(run.len());
        let line_errors = protocol::shown_len(run) + MAX_ERROR_BYTES;
        let max_count = (limit / 2).saturating_sub(self.run_errors) / line_errors;
        let max_count = u32::try_from(max_count).unwrap_or(u32::MAX);
        let mut rest = lines;
        while is_prefix(rest, run) {
            let line = &rest[run.len()..];
            let Some(length) = memchr::memchr(b'\n', line) else { break };
            if count == max_count
                || length > max_len
                || charge >= flush_threshold
                || charge + prefix.len() + length >= limit
            {
                break;
            }
            let text = line[..length].strip_suffix(b"\r").unwrap_or(&line[..length]);
            charge += push_frame(&mut frames, prefix, protocol::text(text));
            count += 1;
            rest = &line[length + 1..];
        }
        open_run.end = offset(frames.len());
        *messages += count;
        (self.frames, self.charge) = (frames, charge);
        self.run_errors += count as usize * line_errors;
        self.line += u64::from(count);
        self.lines += u64::from(count);
        lines.len() - rest.len()
    }

    fn start_run(&mut self, list: &[u8], text: &[u8]) -> Result<(), LineRefusal> {
        let recipients = self.push_recipients(list)?;
        // One entry for each recipient, and one for the error reply if some of them are not
        // connected.
        let names = list.len() + 2 * recipients.len();
        self.charge += ENTRY_CHARGE * (recipients.len() + 1) + names + MAX_ERROR_BYTES;
        let start = self.frames.len();
        self.charge += push_frame(&mut self.frames, &self.prefix, text);
        let frames = offset(start)..offset(self.frames.len());
        self.steps.push(Step::Relay { recipients, frames, first_line: self.line, messages: 1 });
        self.run.extend_from_slice(list);
        self.run.push(b':');
        self.run_prefix.clear();
        Ok(())
    }

    fn start_room_run(&mut self, room: &[u8], text: &[u8]) {
        let Some(charged) = self.rooms.size(room).map(RoomSize::to_charge) else {
            return self.push_room_refusal(RoomRefusal::NotIn, room);
        };
        // One entry for each member, and one for an error reply.
        self.charge += ENTRY_CHARGE * (charged as usize + 1) + room.len() + 2 + MAX_ERROR_BYTES;
        self.run_prefix = protocol::room_prefix(&self.prefix, room);
        let start = self.frames.len();
        self.charge += push_frame(&mut self.frames, &self.run_prefix, text);
        let frames = offset(start)..offset(self.frames.len());
        let (first_line, room_list) = (self.line, self.push_room(room));
        self.steps.push(Step::RelayRoom {
            room: room_list,
            frames,
            first_line,
            messages: 1,
            charged,
        });
        // However the list was typed, further lines to the room are most likely typed like this.
        self.run.extend_from_slice(room);
        self.run.push(b':');
    }

    fn push_who_in(&mut self, room: &[u8]) {
        self.charge += ENTRY_CHARGE + WHO_CHARGE + MAX_ROOM;
        let step = Step::WhoIn { room: self.push_room(room), line: self.line };
        self.steps.push(step);
    }

    fn push_leave(&mut self, room: &[u8]) {
        if !self.rooms.remove(room) {
            return self.push_room_refusal(RoomRefusal::NotIn, room);
        }
        self.charge += ENTRY_CHARGE + JOIN_REPLY_CHARGE;
        let step = Step::Leave { room: self.push_room(room), line: self.line };
        self.steps.push(step);
    }

    fn join(&mut self, room: &[u8], loud: Option<bool>) -> Result<Option<Join>, LineRefusal> {
        if !self.rooms.may_join(room) {
            return Err(LineRefusal::TooManyRooms);
        }
        let room = Room::new(room).map_err(|_| LineRefusal::BadRoom)?;
        Ok(Some(Join { line: self.line, room, loud }))
    }

    fn push_room_refusal(&mut self, refusal: RoomRefusal, room: &[u8]) {
        let line = self.line;
        self.push_reply(|frames| protocol::push_room_refusal(frames, line, refusal, room));
    }

    /// Adds a room as a list of one.
    fn push_room(&mut self, room: &[u8]) -> Range<u32> {
        let first = self.recipients.len();
        self.push_name(room);
        offset(first)..offset(self.recipients.len())
    }

    fn push_who(&mut self, list: &[u8]) -> Result<(), LineRefusal> {
        let recipients = self.push_recipients(list)?;
        // A listed name costs as much as a recipient: it takes as much memory until it is looked
        // up, and as much of the broker's time.
        let names = protocol::shown_len(list) + (2 + ENTRY_CHARGE) * recipients.len();
        let reply = if recipients.is_empty() { WHO_CHARGE } else { names };
        self.charge += ENTRY_CHARGE + MAX_ERROR_BYTES + reply;
        self.steps.push(Step::Who { recipients, line: self.line });
        Ok(())
    }

    fn push_reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.frames.len();
        write(&mut self.frames);
        self.charge += ENTRY_CHARGE + self.frames.len() - before;
        self.steps.push(Step::Reply { frames: offset(before)..offset(self.frames.len()) });
    }

    /// Adds each name of a list once, and returns the range of their entries in `recipients`. Adds
    /// nothing if the list is too long.
    fn push_recipients(&mut self, list: &[u8]) -> Result<Range<u32>, LineRefusal> {
        let (first, first_name) = (self.recipients.len(), self.names.len());
        if !list.contains(&b',') {
            // The common case: a single name.
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
            let refusal = if name[0] == room::SIGN {
                Some(LineRefusal::RoomNotAlone)
            } else if self.recipients.len() - first == MAX_RECIPIENTS {
                Some(LineRefusal::TooManyNames)
            } else {
                None
            };
            if let Some(refusal) = refusal {
                self.recipients.truncate(first);
                self.names.truncate(first_name);
                return Err(refusal);
            }
            self.push_name(name);
            if long_list.is_none() && self.recipients.len() - first > SHORT_LIST {
                // Puts the names found so far into the set, which replaces the linear search from
                // here on.
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

/// Most lines are no [`Barrier`].
fn no_barrier((): ()) -> Option<Barrier> {
    None
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

/// The window keeps a batch far below 4 GiB; even without it the line limit would.
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

    /// Pushes lines as a reader does: one line, then all that continue its run.
    fn batch_of(lines: &[&str]) -> Batch {
        let mut builder = builder();
        let stream = lines.join("\n") + "\n";
        let mut rest = stream.as_bytes();
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            assert!(builder.push(Line::Text(line)).is_none());
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
        let relayed: Vec<_> = batch
            .steps
            .iter()
            .map(|step| match step {
                Step::Relay { recipients: to, frames: range, first_line, messages } => {
                    assert_eq!(recipients(&batch, to), ["bob"]);
                    (*first_line, *messages, frames(&batch, range))
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            (1, 2, "from alice: 1\nfrom alice: 2 \n"),
            (3, 1, "from alice: 3\n"),
            (5, 1, "from alice: 4\n"),
        ];
        assert_eq!(relayed, expected);
        assert_eq!(batch.lines, 5);
    }

    #[test]
    fn a_list_that_begins_like_the_last_one_is_another_list() {
        let batch = batch_of(&["bob: 1", "bobby: 2", "bo: 3"]);
        assert_eq!(batch.steps.len(), 3);
    }

    #[test]
    fn duplicates_count_once_in_short_and_long_lists() {
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
        let [Step::Relay { .. }, Step::Reply { frames: range }, Step::Relay { .. }] =
            batch.steps.as_slice()
        else {
            panic!("{:?}", batch.steps);
        };
        let expected = format!("error: line 2: more than {MAX_RECIPIENTS} names in its list\n");
        assert_eq!(frames(&batch, range), expected);
        assert_eq!(recipients(&batch, &(0..offset(batch.recipients.len()))), ["bob", "bob"]);
        assert_eq!(batch.names, b"bobbob");
        // Duplicates do not count.
        let batch = batch_of(&[&format!("{longest},{longest}: 1"), &format!("/who {too_long}")]);
        let [Step::Relay { recipients: to, .. }, Step::Reply { .. }] = batch.steps.as_slice()
        else {
            panic!("{:?}", batch.steps);
        };
        assert_eq!(recipients(&batch, to), many[1..]);
    }

    #[test]
    fn error_replies_keep_their_place_and_line_number() {
        let mut builder = builder();
        for line in [Line::Text(b"bob: x"), Line::NotUtf8, Line::TooLong, Line::Text(b"nonsense")] {
            assert!(builder.push(line).is_none());
        }
        let batch = builder.finish();
        let replies: Vec<_> = batch
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Reply { frames: range } => Some(frames(&batch, range)),
                _ => None,
            })
            .collect();
        let expected = [
            "error: line 2: not UTF-8\n",
            "error: line 3: longer than 100 bytes\n",
            "error: line 4: no ':' in it, expected \"name, name: text\"\n",
        ];
        assert_eq!(replies, expected);
        assert!(builder.push(Line::Text(b"/who")).is_none());
        assert_eq!(builder.finish().steps, [Step::Who { recipients: 0..0, line: 5 }]);
    }

    #[test]
    fn a_sync_is_sent_on_its_own_and_its_line_counts() {
        let mut builder = builder();
        assert!(builder.push(Line::Text(b"bob: x")).is_none());
        let barrier = builder.push(Line::Text(b"/sync 5")).expect("it is sent on its own");
        let Barrier::Sync(sync) = barrier else { panic!("{barrier:?}") };
        assert_eq!(sync, SyncRequest { line: 2, limit: Duration::from_secs(5) });
        let batch = builder.finish();
        assert_eq!((batch.lines, batch.first_line), (1, 1));
        assert!(builder.push(Line::Text(b"bob: y")).is_none());
        assert_eq!(builder.finish().first_line, 3);
        builder.push_unserved(sync, SyncOutcome::ShuttingDown);
        let batch = builder.finish();
        let expected =
            "error: line 2: the server is shutting down before everything is delivered\n";
        assert_eq!((String::from_utf8_lossy(&batch.frames), batch.lines), (expected.into(), 1));
    }

    #[test]
    fn lines_to_a_room_are_one_step_and_charged_for_all_its_members() {
        let mut builder = builder();
        let barrier = builder.push(Line::Text(b"/join #dev loud")).expect("it is sent on its own");
        let Barrier::Join(join) = barrier else { panic!("{barrier:?}") };
        assert_eq!((join.line, join.room.as_str(), join.loud), (1, "#dev", Some(true)));
        assert!(builder.is_empty(), "it counts with its own event");
        let size = RoomSize::default();
        size.set(1000);
        builder.joined(join.room, size.clone());
        let before = builder.charge();
        assert!(builder.push(Line::Text(b"#dev: 1")).is_none());
        assert!(builder.charge() - before > 1024 * ENTRY_CHARGE);
        let lines = b"#dev: 2\n#dev:3\nbob: 4\n";
        assert_eq!(builder.push_run(lines, usize::MAX, usize::MAX), lines.len() - 7);
        assert!(builder.push(Line::Text(b"bob: 4")).is_none());
        assert_eq!(builder.push_run(b"bob: 5\n", usize::MAX, usize::MAX), 7);
        assert!(builder.push(Line::Text(b"/leave #dev")).is_none());
        assert!(builder.push(Line::Text(b"#dev: 7")).is_none());
        let batch = builder.finish();
        let [
            Step::RelayRoom { room, frames: in_room, first_line: 2, messages: 3, charged: 1024 },
            Step::Relay { frames: to_bob, first_line: 5, messages: 2, .. },
            Step::Leave { line: 7, .. },
            Step::Reply { frames: refused },
        ] = batch.steps.as_slice()
        else {
            panic!("{:?}", batch.steps);
        };
        assert_eq!(recipients(&batch, room), ["#dev"]);
        let expected = "from alice #dev: 1\nfrom alice #dev: 2\nfrom alice #dev: 3\n";
        assert_eq!(frames(&batch, in_room), expected);
        assert_eq!(frames(&batch, to_bob), "from alice: 4\nfrom alice: 5\n");
        assert_eq!(frames(&batch, refused), "error: line 8: not in #dev\n");
        assert_eq!(batch.lines, 7);
    }

    #[test]
    fn a_line_to_a_large_room_has_room_only_if_its_entries_have() {
        let mut builder = builder();
        let size = RoomSize::default();
        builder.joined(Room::new("#dev").expect("a room"), size.clone());
        let (line, limit) = (Line::Text(b" #dev: 1"), 128 * 1024);
        size.set(1000);
        assert!(builder.has_room_for(&line, limit));
        size.set(2000);
        assert!(!builder.has_room_for(&line, limit));
        assert!(builder.has_room_for(&Line::Text(b"bob: 1"), limit));
    }

    #[test]
    fn a_room_beside_other_recipients_leaves_nothing_in_the_batch() {
        let batch = batch_of(&["bob, #dev: 1", "/who bob, #dev", "#dev, bob: 1"]);
        assert_eq!((batch.steps.len(), batch.names.len(), batch.lines), (3, 0, 3));
        let text = std::str::from_utf8(&batch.frames).expect("text");
        assert!(text.lines().all(|line| line.ends_with(": a room stands alone in its list")));
    }

    proptest! {
        #[test]
        fn any_line_is_handled_and_the_charge_covers_its_frames(
            lines in proptest::collection::vec("[ab,: \u{a0}/who\\PC]{0,40}", 0..40),
        ) {
            let mut builder = builder();
            let mut max = builder.charge();
            for line in &lines {
                let line = Line::Text(line.as_bytes());
                max += builder.max_charge(&line);
                assert!(builder.push(line).is_none());
            }
            let charge = builder.charge();
            prop_assert!(charge <= max);
            let batch = builder.finish();
            prop_assert_eq!(batch.lines, lines.len() as u64);
            prop_assert!(batch.frames.len() <= charge);
            let mut end = 0;
            for step in &batch.steps {
                if let Step::Relay { frames: range, messages, .. } = step {
                    prop_assert!(range.start >= end && range.end > range.start);
                    end = range.end;
                    let text = frames(&batch, range);
                    prop_assert_eq!(text.lines().count(), *messages as usize);
                    prop_assert!(text.lines().all(|frame| frame.starts_with("from alice: ")));
                }
            }
        }
    }
}
