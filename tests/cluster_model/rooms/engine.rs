//! The engine's scripts, and what happens when it forgets.

use super::state::*;
use super::{Rooms, Rule};

impl State {
    /// Whether this command would be answered LATER, or TAKEN.
    pub fn is_later(&self, life: usize, command: Entry) -> bool {
        match command.kind {
            RELEASE => (0..LIVES).any(|it| it != life && self.engine.state[it] == LEAVING),
            CLAIM => {
                let name = self.engine.names[usize::from(command.a)];
                let holder = self.engine.state[usize::from(name.state)];
                name.id != 0 && name.id != command.b && ![RELEASED, DOWN].contains(&holder)
            }
            _ => false,
        }
    }

    pub fn append(&mut self, life: usize, kind: u8, a: u8, b: u8, c: u8, d: u8) {
        if (HERE..=RELEASED).contains(&self.engine.state[life]) {
            self.engine.inbox[life].push(Entry { kind, a, b, c, d });
        }
    }

    /// Each life with members hears at which lives they are.
    fn tell_room(&mut self) {
        let seats = self.engine.seats;
        let lives = (0..LIVES).filter(|life| seats[*life] != 0);
        let all = lives.clone().fold(0, |all, life| all | bit(life as u8));
        for life in lives {
            self.append(life, SEATS, all, 0, 0, 0);
        }
    }

    /// Lines that are held for members that have left are dropped, and their origins are told.
    fn drop_held(&mut self, s: &Rooms, life: usize) {
        if s.has(Rule::HeldWhileThere) {
            for dropped in self.take_held(|to| to == AT | life as u8) {
                self.append(usize::from(dropped.a), PLACE, dropped.b, ABSENT, 0, 0);
            }
        }
    }

    fn clear_room(&mut self, s: &Rooms, life: usize) {
        self.drop_held(s, life);
        if std::mem::take(&mut self.engine.seats[life]) != 0 {
            self.tell_room();
        }
    }

    fn is_held(&self, is_it: impl Fn(u8) -> bool) -> bool {
        self.engine.hold.iter().any(|held| is_it(held.d))
    }

    fn take_held(&mut self, is_it: impl Fn(u8) -> bool) -> Vec<Entry> {
        let (taken, left) =
            std::mem::take(&mut self.engine.hold).into_iter().partition(|held| is_it(held.d));
        self.engine.hold = left;
        taken
    }

    pub fn execute(&mut self, s: &Rooms, life: usize, command: Entry) {
        let Entry { kind, a, b, .. } = command;
        let client = usize::from(a);
        match kind {
            SEND => self.send(s, life, command),
            CLAIM => {
                self.engine.names[client] = Session { id: b, state: life as u8 };
                for held in self.take_held(|to| to == a) {
                    self.move_held(held, life, b);
                }
                self.append(life, MARK, a, b, 0, 0);
            }
            FREE => {
                if self.engine.names[client].id == b {
                    self.engine.names[client] = Session::default();
                }
            }
            JOIN => {
                self.engine.seats[life] |= bit(a);
                if s.has(Rule::JoinTells) {
                    self.tell_room();
                }
                self.append(life, JOINED, a, b, 0, 0);
            }
            PART => {
                self.engine.seats[life] &= !bit(a);
                if self.engine.seats[life] == 0 {
                    self.drop_held(s, life);
                }
                self.tell_room();
            }
            LEAVE => {
                self.engine.state[life] = LEAVING;
                self.give_back_holds(s);
            }
            CUT_DONE => self.engine.state[life] = CUT,
            _ => {
                self.clear_room(s, life);
                self.append(life, LET_GO, 0, 0, 0, 0);
                self.engine.state[life] = RELEASED;
            }
        }
    }

    /// `send.lua`: all recipients of a line at once, and those first that have a name.
    fn send(&mut self, s: &Rooms, origin: usize, Entry { a: first, b: count, c: line, .. }: Entry) {
        let owed: Vec<Owed> = self.nodes[origin].owed.clone();
        let mut owed: Vec<Owed> =
            owed.into_iter().filter(|owed| (first..first + count).contains(&owed.number)).collect();
        owed.sort_by_key(|owed| owed.to & AT);
        for Owed { number, to, .. } in owed {
            let place = if to & AT != 0 {
                self.send_to_room(s, origin, number, line, usize::from(to & !AT))
            } else {
                self.send_to_name(s, origin, number, line, usize::from(to))
            };
            self.append(origin, PLACE, number, place, 0, 0);
        }
    }

    /// Those get it that were members when it was said, and are now.
    fn note_must(&mut self, line: u8, life: usize) {
        let wanted = self.wanted[sender(line)][number_of(line)];
        self.must[sender(line)][number_of(line)] |= wanted & self.engine.seats[life];
    }

    fn send_to_room(&mut self, s: &Rooms, origin: usize, number: u8, line: u8, life: usize) -> u8 {
        let now = self.engine.state[life];
        if self.engine.seats[life] == 0 || now != HERE && !leaves(now) {
            return ABSENT;
        }
        let waits = leaves(now) && self.is_held(|_| true) && s.has(Rule::BehindHolds);
        if waits && !s.has(Rule::RoomsWait) {
            return ABSENT;
        }
        if waits {
            let to = AT | life as u8;
            self.engine.hold.push(Entry { kind: MSG, a: origin as u8, b: number, c: line, d: to });
            return HELD;
        }
        self.note_must(line, life);
        self.append(life, MSG, origin as u8, number, line, ALL);
        life as u8
    }

    fn send_to_name(&mut self, s: &Rooms, origin: usize, number: u8, line: u8, to: usize) -> u8 {
        let name = self.engine.names[to];
        let holder = usize::from(name.state);
        let now = self.engine.state[holder];
        let is_behind =
            |it: u8| usize::from(it) == to || it == AT | holder as u8 && s.has(Rule::NamesWait);
        let together = leaves(self.engine.state[origin]) && !self.is_held(is_behind);
        let message = Entry { kind: MSG, a: origin as u8, b: number, c: line, d: name.id };
        if name.id == 0 {
            return ABSENT;
        }
        if now == HERE || leaves(now) && together {
            self.engine.inbox[holder].push(message);
            return holder as u8;
        }
        self.engine.hold.push(Entry { d: to as u8, ..message });
        HELD
    }

    fn move_held(&mut self, held: Entry, life: usize, session: u8) {
        self.engine.inbox[life].push(Entry { d: session, ..held });
        self.append(usize::from(held.a), PLACE, held.b, life as u8, 0, 0);
    }

    fn give_back_holds(&mut self, s: &Rooms) {
        if self.engine.state.contains(&HERE) {
            return;
        }
        let mut held = std::mem::take(&mut self.engine.hold);
        if !s.has(Rule::OneOrder) {
            held.sort_by_key(|held| held.d);
        }
        for held in held {
            let (life, session) = if held.d & AT != 0 {
                (usize::from(held.d & !AT), ALL)
            } else {
                let name = self.engine.names[usize::from(held.d)];
                (usize::from(name.state), name.id)
            };
            if session == 0 || !leaves(self.engine.state[life]) {
                self.engine.hold.push(held);
                continue;
            }
            if session == ALL {
                self.note_must(held.c, life);
            }
            self.move_held(held, life, session);
        }
    }

    pub fn down(&mut self, s: &Rooms, life: usize) {
        self.clear_room(s, life);
        self.engine.state[life] = DOWN;
        self.engine.inbox[life].clear();
        self.nodes[life] = Node { phase: ENDED, ..Node::default() };
    }

    // ---- a new incarnation ----------------------------------------------------------------------

    pub fn forget(&mut self) {
        self.forgets += 1;
        self.is_early = true;
        self.engine = Engine::default();
        self.nodes.iter_mut().for_each(|node| node.has_entered = false);
    }

    /// A life enters, with its names, its members and what it has handled.
    pub fn enter(&mut self, s: &Rooms, life: usize) {
        let node = &mut self.nodes[life];
        (node.has_entered, node.is_paused) = (true, true);
        self.engine.entered |= bit(life as u8);
        self.engine.state[life] = HERE;
        self.engine.handled[life] = node.handled;
        if s.has(Rule::EnterSeats) {
            self.engine.seats[life] = node.members;
        }
        for client in 0..CLIENTS {
            let session = node.sessions[client];
            if session.state == ACTIVE {
                self.engine.names[client] = Session { id: session.id, state: life as u8 };
            }
        }
    }

    pub fn open(&mut self, s: &Rooms) {
        self.is_early = false;
        for life in bits(self.engine.entered) {
            for from in bits(self.engine.entered) {
                let handled = self.engine.handled[from][life];
                if handled != 0 && from != life {
                    self.append(life, ACK, from as u8, handled, 0, 0);
                }
            }
            self.append(life, OPEN, 0, 0, 0, 0);
        }
        if s.has(Rule::OpenTells) {
            self.tell_room();
        }
        self.engine.entered = 0;
        self.engine.handled = Default::default();
    }
}
