//! What a life has to say, on its way to the socket: some lines at a time, written by parts.

use std::time::Instant;

use super::World;
use super::life::{SessionPlan, Writing};
use super::speech::LineGenerator;
use super::transcript::Packet;

/// What chance is asked about.
const PACKET: u64 = 5;

/// What comes in place of a whole line if the last one is torn.
const TORN: &[u8] = b"c0: unterminated";

pub struct SendState {
    speech: LineGenerator,
    /// The login line at first, then some lines at a time.
    packet: Vec<u8>,
    written: usize,
    lines_made: u64,
    bytes_made: u64,
}

impl SendState {
    pub fn new(world: &World, life: &SessionPlan) -> Self {
        let packet = life.greeting.wire(world.name(life.name));
        let bytes_made = packet.len() as u64;
        Self { speech: life.speech(), packet, written: 0, lines_made: 0, bytes_made }
    }

    /// True if all that was made is written.
    pub fn is_quiet(&self) -> bool {
        self.written == self.packet.len()
    }

    /// Makes the next lines, if there is any more to say. All that was made has to be written.
    pub fn go_on(&mut self, world: &World, life: &SessionPlan) -> Option<Packet> {
        let most = life.lines.saturating_sub(self.lines_made);
        let lines = world.random(life.who, PACKET, self.lines_made).u64(1..40).min(most);
        if lines == 0 || !life.greeting.is_name() {
            return None;
        }
        let first_line = self.lines_made + 1;
        let packet = Packet { first_line, offset: self.bytes_made, made: Instant::now() };
        (self.packet, self.written) = (Vec::new(), 0);
        for number in first_line..first_line + lines {
            self.packet.extend(self.speech.line(world, number).wire);
        }
        self.lines_made += lines;
        self.bytes_made += self.packet.len() as u64;
        Some(packet)
    }

    /// Makes nothing any more, and unmakes what comes after the line that it is in the middle of,
    /// or before the end of the login line.
    pub fn finish(&mut self, unterminated: bool) {
        let (written, rest) = self.packet.split_at(self.written);
        let is_in_line = self.lines_made == 0 || written.last().is_some_and(|&byte| byte != b'\n');
        let end = rest.iter().position(|&byte| byte == b'\n').filter(|_| is_in_line);
        self.packet.truncate(self.written + end.map_or(0, |end| end + 1));
        if unterminated {
            self.packet.extend_from_slice(TORN);
        }
    }

    /// What to write next.
    pub fn next(&self, writing: Writing) -> &[u8] {
        let rest = &self.packet[self.written..];
        let count = match writing {
            Writing::Packets => rest.len(),
            Writing::Bytes => 1,
            Writing::Lines | Writing::Nothing => {
                rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1)
            }
        };
        &rest[..count]
    }

    /// Says that the next `count` bytes are written, and returns them.
    pub fn advance(&mut self, count: usize) -> &[u8] {
        self.written += count;
        &self.packet[self.written - count..self.written]
    }
}
