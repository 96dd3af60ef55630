//! B: what it takes over, writes and tells; and the engine's scripts.

use super::state::*;
use super::{Accounts, Rule};

impl State {
    // ---- the engine -----------------------------------------------------------------------------

    /// Appends to A's inbox, if A still reads. Two acknowledgements that it has not read are one: that
    /// it reads between them is explored as well.
    pub fn tell_a(&mut self, kind: u8, a: u8, b: u8, c: u8, d: u8) {
        if self.a.phase > LEAVES {
            return;
        }
        match self.inbox_a.last_mut().filter(|last| last.kind == ACK && kind == ACK) {
            Some(Entry { a: handled, b: settled, c: finished, d: lost, .. }) => {
                *handled |= a;
                *settled |= b;
                *finished |= c;
                *lost |= d;
            }
            None => self.inbox_a.push(Entry { kind, a, b, c, d }),
        }
    }

    /// `send.lua`.
    pub fn send(&mut self, number: u8) {
        let to = self.lines[usize::from(number)].to;
        let both_leave = self.state == LEAVING && self.a.phase == LEAVES;
        let is_held = self.hold.iter().any(|held| self.lines[usize::from(*held)].to == to);
        let place = match self.state {
            _ if to == ROOM && self.b.gone == 0b11 => ABSENT,
            _ if to != ROOM && self.b.gone & bit(to) != 0 => ABSENT,
            HERE => AT_B,
            // The members of a node that leaves wait behind what is held for its clients.
            LEAVING if to == ROOM && self.hold.is_empty() => AT_B,
            LEAVING if both_leave && to != ROOM && !is_held => AT_B,
            LEAVING => HELD,
            DOWN if to != ROOM => HELD,
            _ => ABSENT,
        };
        match place {
            AT_B => self.inbox_b.push(number),
            HELD => self.hold.push(number),
            _ => {}
        }
        self.tell_a(PLACED, number, place, 0, 0);
    }

    /// What is held for the members of the room is dropped.
    fn drop_held(&mut self) {
        let is_for_room = |number: &u8| self.lines[usize::from(*number)].to == ROOM;
        let (dropped, rest) = self.hold.iter().partition(|number| is_for_room(number));
        self.hold = rest;
        let dropped: Vec<u8> = dropped;
        for number in dropped {
            self.tell_a(PLACED, number, ABSENT, 0, 0);
        }
    }

    /// When both leave, what is held comes back to B.
    pub fn give_back_holds(&mut self) {
        if self.state == LEAVING && self.a.phase == LEAVES {
            for number in std::mem::take(&mut self.hold) {
                self.inbox_b.push(number);
                self.tell_a(PLACED, number, AT_B, 0, 0);
            }
        }
    }

    /// `end_hold.lua`: A names what is held.
    pub fn end_hold(&mut self) {
        self.state = REAPED;
        for number in std::mem::take(&mut self.hold) {
            self.tell_a(HOLD_OVER, number, 0, 0, 0);
        }
    }

    pub fn reap(&mut self) {
        self.state = if self.state == LEAVING { DOWN } else { REAPED };
        self.inbox_b.clear();
        self.drop_held();
        self.tell_a(EVENT, REAPED, 0, 0, 0);
    }

    pub fn down(&mut self) {
        self.b.phase = ENDED;
        self.state = DOWN;
        self.inbox_b.clear();
        self.drop_held();
        self.tell_a(EVENT, DOWN, 0, 0, 0);
    }

    pub fn forget(&mut self) {
        self.forgets += 1;
        self.is_early = true;
        (self.a.has_entered, self.b.has_entered) = (false, false);
        self.inbox_a.clear();
        self.inbox_b.clear();
        self.hold.clear();
        self.entered = Told::default();
        // It has not heard of B yet.
        self.state = REAPED;
    }

    pub fn enter_b(&mut self, s: &Accounts) {
        self.b.has_entered = true;
        self.state = if self.b.phase == LEAVES { LEAVING } else { HERE };
        let Told { handled, settled, finished, .. } = self.b.known;
        self.entered = Told { handled, lost: 0, ..Told::default() };
        if s.has(Rule::EnterTells) {
            (self.entered.settled, self.entered.finished) = (settled, finished);
        }
    }

    /// All have entered: A hears what B has of its lines, and then which lives there are.
    pub fn open(&mut self) {
        self.is_early = false;
        if self.b.has_entered {
            let Told { handled, settled, finished, .. } = self.entered;
            self.tell_a(ACK, handled, settled, finished, 0);
        }
        self.tell_a(OPEN, u8::from(self.b.has_entered), 0, 0, 0);
        self.give_back_holds();
    }

    // ---- B --------------------------------------------------------------------------------------

    /// B's broker takes a delivery over.
    pub fn receive(&mut self) {
        let number = self.inbox_b.remove(0);
        let is_again = self.b.known.handled & bit(number) != 0;
        self.b.known.handled |= bit(number);
        self.b.tell.handled |= bit(number);
        if is_again {
            return;
        }
        let line = &mut self.lines[usize::from(number)];
        line.handled_at_b = true;
        for member in [BOB, CAROL] {
            if (line.to == ROOM || line.to == member) && self.b.gone & bit(member) == 0 {
                line.of += 1;
                self.b.items.push(Item { number, member, is_written: false });
            }
        }
        if line.of == 0 && line.to != ROOM {
            // The client has left meanwhile.
            (line.of, line.lost_at_b) = (1, true);
            self.b.tell.lost |= bit(number);
        }
        self.note_items(number);
    }

    /// What is written by now, and at its end, is to be told.
    fn note_items(&mut self, number: u8) {
        let mut left = self.b.items.iter().filter(|item| item.number == number);
        if left.clone().all(|item| item.is_written) {
            self.b.tell.settled |= bit(number);
            self.b.known.settled |= bit(number);
        }
        if left.next().is_none() {
            self.b.tell.finished |= bit(number);
            self.b.known.finished |= bit(number);
        }
    }

    pub fn write(&mut self, at: usize) {
        self.b.items[at].is_written = true;
        self.note_items(self.b.items[at].number);
    }

    /// The kernel of its recipient has acknowledged what was written.
    pub fn acknowledge(&mut self, s: &Accounts, at: usize) {
        let Item { number, .. } = self.b.items.remove(at);
        self.lines[usize::from(number)].received += 1;
        self.note_items(number);
        if !s.has(Rule::LastMember) {
            self.b.tell.finished |= bit(number);
        }
    }

    /// A recipient fails: what it has not acknowledged is lost, and its senders are told.
    pub fn fail(&mut self, s: &Accounts, member: u8) {
        self.b.gone |= bit(member);
        let (lost, rest) = self.b.items.iter().partition(|item| item.member == member);
        self.b.items = rest;
        let lost: Vec<Item> = lost;
        for item in lost {
            self.lines[usize::from(item.number)].lost_at_b = true;
            if s.has(Rule::LossFirst) {
                self.b.tell.lost |= bit(item.number);
            } else {
                self.b.late |= bit(item.number);
            }
            self.note_items(item.number);
        }
    }

    /// B tells A what has become of its lines.
    pub fn acknowledge_to_a(&mut self) {
        let Told { handled, settled, finished, lost } = std::mem::take(&mut self.b.tell);
        // A's former life reads nothing any more.
        let old = !(bit(self.a.old) - 1);
        self.tell_a(ACK, handled & old, settled & old, finished & old, lost & old);
    }

    /// B's shutdown is forced: what it has not written is lost, and not told; with or without a
    /// last word.
    pub fn force_b(&mut self, is_silent: bool) {
        for item in std::mem::take(&mut self.b.items) {
            let line = &mut self.lines[usize::from(item.number)];
            if item.is_written {
                line.received += 1;
            } else {
                line.lost_at_b = true;
            }
        }
        if is_silent {
            self.is_silent = true;
            self.b.phase = ENDED;
        } else {
            self.acknowledge_to_a();
            self.down();
        }
        self.b.tell = Told::default();
    }

    pub fn kill_b(&mut self) {
        self.is_silent = true;
        self.b = Receiver { phase: KILLED, gone: self.b.gone, ..Receiver::default() };
    }
}
