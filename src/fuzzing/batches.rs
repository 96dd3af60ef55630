//! Lines to batches: however lines are combined, a batch requests what its lines request.

use std::collections::HashSet;

use super::framing::read;
use super::{Step, model, steps};
use crate::wire::batch::{Barrier, Batch, BatchBuilder, Join, Step as BatchStep, SyncRequest};
use crate::wire::framing::LineBuffer;
use crate::wire::name::Name;
use crate::wire::room::RoomSize;

/// Sends the batch before more data arrives.
const FLUSH: u8 = 0xFF;

/// The effect of one line. A reply contains the number of its line.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    Relay { line: u64, to: Vec<String>, frame: String },
    Who { line: u64, names: Vec<String> },
    RelayRoom { line: u64, room: String, frame: String },
    Join { line: u64, room: String, loud: Option<bool> },
    Leave { line: u64, room: String },
    WhoIn { line: u64, room: String },
    Sync { line: u64, seconds: u64 },
    Reply(String),
}

/// Checks the batches: the first two bytes of the input are the line limit and the window; each
/// piece of data is one read.
///
/// # Panics
///
/// If the batches differ from their lines, or are charged less than they occupy.
pub fn batches(input: &[u8]) {
    let &[limit, window, ref input @ ..] = input else { return };
    let max_line = 1 + usize::from(limit);
    let mut sender = Sender::new(max_line, 512 + 256 * usize::from(window));
    let mut buffer = LineBuffer::new(max_line);
    let mut stream = Vec::new();
    for step in steps(input) {
        match step {
            Step::Data(data) => {
                stream.extend_from_slice(data);
                read(&mut buffer, data, |buffer| sender.take_lines(buffer));
            }
            Step::Sign(FLUSH) => sender.send(),
            // Ends a read, and does nothing else.
            Step::Sign(_) => {}
        }
    }
    sender.send();
    let (lines, _) = model::lines(&stream);
    assert_eq!(sender.lines, lines.len() as u64);
    let mut rooms = HashSet::new();
    let effects: Vec<_> = (1..)
        .zip(lines)
        .filter_map(|(number, line)| expected(number, line, max_line, &mut rooms))
        .collect();
    assert_eq!(sender.effects, effects);
}

/// `rooms` are those that the sender is in.
fn expected(
    number: u64,
    line: &[u8],
    max_line: usize,
    rooms: &mut HashSet<String>,
) -> Option<Effect> {
    let refused = |why: String| Some(Effect::Reply(format!("error: line {number}: {why}")));
    match model::request(line, max_line) {
        model::Request::Nothing => None,
        model::Request::Message { to, text } => {
            Some(Effect::Relay { line: number, to, frame: format!("from alice: {text}") })
        }
        model::Request::Who(names) => Some(Effect::Who { line: number, names }),
        model::Request::Sync(seconds) => Some(Effect::Sync { line: number, seconds }),
        model::Request::WhoIn(room) => Some(Effect::WhoIn { line: number, room }),
        model::Request::Join { room, .. }
            if rooms.len() == model::MAX_ROOMS && !rooms.contains(&room) =>
        {
            refused(format!("in {} rooms already", model::MAX_ROOMS))
        }
        model::Request::Join { room, loud } => {
            rooms.insert(room.clone());
            Some(Effect::Join { line: number, room, loud })
        }
        model::Request::Leave(room) if rooms.remove(&room) => {
            Some(Effect::Leave { line: number, room })
        }
        model::Request::RoomMessage { room, text } if rooms.contains(&room) => {
            let frame = format!("from alice {room}: {text}");
            Some(Effect::RelayRoom { line: number, room, frame })
        }
        model::Request::Leave(room) | model::Request::RoomMessage { room, .. } => {
            refused(format!("not in {room}"))
        }
        model::Request::Refused(why) => refused(why),
    }
}

/// Collects and sends lines as a reader does.
struct Sender {
    builder: BatchBuilder,
    window: usize,
    /// Effects of all batches sent.
    effects: Vec<Effect>,
    lines: u64,
}

impl Sender {
    fn new(max_line: usize, window: usize) -> Self {
        let name = Name::new(b"alice").expect("a name");
        let builder = BatchBuilder::new(&name, max_line);
        Self { builder, window, effects: Vec::new(), lines: 0 }
    }

    fn take_lines(&mut self, buffer: &mut LineBuffer) {
        let max = self.window / 2;
        while let Some(line) = buffer.next_line() {
            if !self.builder.has_room_for(&line, self.window) {
                self.send();
            }
            match self.builder.push(line) {
                None => {}
                Some(Barrier::Join(join)) => {
                    self.join(join);
                    continue;
                }
                Some(Barrier::Sync(SyncRequest { line, limit })) => {
                    self.send();
                    self.lines += 1;
                    self.effects.push(Effect::Sync { line, seconds: limit.as_secs() });
                    continue;
                }
            }
            if self.builder.charge() >= max {
                self.send();
            }
            let taken = self.builder.push_run(buffer.valid_lines(), max, self.window);
            buffer.consume(taken);
        }
    }

    /// What precedes the line is sent first, and the room's size is known before what follows.
    fn join(&mut self, join: Join) {
        self.send();
        let Join { line, room, loud } = join;
        let size = RoomSize::default();
        size.set(u32::try_from(room.as_str().len()).expect("short"));
        self.lines += 1;
        self.effects.push(Effect::Join { line, room: room.as_str().to_owned(), loud });
        self.builder.joined(room, size);
    }

    fn send(&mut self) {
        let charge = self.builder.charge();
        let batch = self.builder.finish();
        assert!(batch.frames.capacity() <= 2 * charge, "what it takes up is charged for");
        // Only a line larger than the whole window may pass, and alone.
        assert!(charge <= self.window || batch.lines <= 1, "{charge} for {} lines", batch.lines);
        self.lines += batch.lines;
        self.effects.extend(batch.steps.iter().flat_map(|step| effects(&batch, step)));
    }
}

/// The effects of a batch's step, line by line.
fn effects(batch: &Batch, step: &BatchStep) -> Vec<Effect> {
    let names = |range| batch.names(range).map(text).collect();
    let frames = |range: &std::ops::Range<u32>| {
        let bytes = &batch.frames[range.start as usize..range.end as usize];
        // A carriage return at the end of a frame belongs to its text.
        let mut frames: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        assert_eq!(frames.pop(), Some(&b""[..]), "frames are complete");
        frames.into_iter().map(text).collect::<Vec<_>>()
    };
    match step {
        BatchStep::Relay { recipients, frames: range, first_line, messages } => {
            let frames = frames(range);
            assert_eq!(frames.len(), *messages as usize);
            let relay = |(line, frame)| Effect::Relay { line, to: names(recipients), frame };
            (*first_line..).zip(frames).map(relay).collect()
        }
        BatchStep::RelayRoom { room, frames: range, first_line, messages, .. } => {
            let frames = frames(range);
            assert_eq!(frames.len(), *messages as usize);
            let room = || text(batch.name(room));
            let relay = |(line, frame)| Effect::RelayRoom { line, room: room(), frame };
            (*first_line..).zip(frames).map(relay).collect()
        }
        BatchStep::WhoIn { room, line } => {
            vec![Effect::WhoIn { line: *line, room: text(batch.name(room)) }]
        }
        BatchStep::Leave { room, line } => {
            vec![Effect::Leave { line: *line, room: text(batch.name(room)) }]
        }
        BatchStep::Who { recipients, line } => {
            vec![Effect::Who { line: *line, names: names(recipients) }]
        }
        BatchStep::Reply { frames: range } => {
            frames(range).into_iter().map(Effect::Reply).collect()
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("what is sent is UTF-8")
}
