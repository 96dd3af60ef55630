//! A session's output on its way to the socket: a few lines at a time, written in pieces.

use std::time::Instant;

use super::World;
use super::line_generator::LineGenerator;
use super::session_plan::{SessionPlan, Writing};
use super::transcript::Packet;

/// Topic of random choices.
const PACKET: u64 = 5;

/// Sent in place of a complete last line.
const UNTERMINATED: &[u8] = b"c0: unterminated";

pub struct SendState {
    lines: LineGenerator,
    /// The login line first, then a few lines at a time.
    packet: Vec<u8>,
    written: usize,
    lines_made: u64,
    bytes_made: u64,
}

impl SendState {
    pub fn new(world: &World, session: &SessionPlan) -> Self {
        let packet = session.greeting.wire(world.name(session.name));
        let bytes_made = packet.len() as u64;
        Self { lines: session.line_generator(), packet, written: 0, lines_made: 0, bytes_made }
    }

    /// True if everything created is written.
    pub fn is_idle(&self) -> bool {
        self.written == self.packet.len()
    }

    /// Creates the next lines, if any are left. Requires everything created so far to be written.
    pub fn next_packet(&mut self, world: &World, session: &SessionPlan) -> Option<Packet> {
        let most = session.lines.saturating_sub(self.lines_made);
        let lines = world.random(session.who, PACKET, self.lines_made).u64(1..40).min(most);
        if lines == 0 || !session.greeting.is_name() {
            return None;
        }
        let first_line = self.lines_made + 1;
        let packet = Packet { first_line, offset: self.bytes_made, made: Instant::now() };
        (self.packet, self.written) = (Vec::new(), 0);
        for number in first_line..first_line + lines {
            self.packet.extend(self.lines.line(world, number).wire);
        }
        self.lines_made += lines;
        self.bytes_made += self.packet.len() as u64;
        Some(packet)
    }

    /// Creates no more, and discards everything after the line being written, or after the login
    /// line.
    pub fn finish(&mut self, unterminated: bool) {
        let (written, rest) = self.packet.split_at(self.written);
        let is_in_line = self.lines_made == 0 || written.last().is_some_and(|&byte| byte != b'\n');
        let end = rest.iter().position(|&byte| byte == b'\n').filter(|_| is_in_line);
        self.packet.truncate(self.written + end.map_or(0, |end| end + 1));
        if unterminated {
            self.packet.extend_from_slice(UNTERMINATED);
        }
    }

    /// The bytes to write next.
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

    /// Marks the next `count` bytes as written, and returns them.
    pub fn advance(&mut self, count: usize) -> &[u8] {
        self.written += count;
        &self.packet[self.written - count..self.written]
    }
}
