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

    fn clear_room(&mut self, life: usize) {
        if std::mem::take(&mut self.engine.seats[life]) != 0 {
            self.tell_room();
        }
    }

    pub fn execute(&mut self, s: &Rooms, life: usize, command: Entry) {
        let Entry { kind, a, b, .. } = command;
        let client = usize::from(a);
        match kind {
            SEND => self.send(s, life, command),
            CLAIM => {
                self.engine.names[client] = Session { id: b, state: life as u8 };
                self.move_hold(client, life, b);
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
                self.tell_room();
            }
            LEAVE => {
                self.engine.state[life] = LEAVING;
                self.give_back_holds();
            }
            CUT_DONE => self.engine.state[life] = CUT,
            _ => {
                self.clear_room(life);
                self.append(life, LET_GO, 0, 0, 0, 0);
                self.engine.state[life] = RELEASED;
            }
        }
    }

    /// `send.lua`: all recipients of a line at once.
    fn send(&mut self, s: &Rooms, origin: usize, Entry { a: first, b: count, c: line, .. }: Entry) {
        let origin_leaves = leaves(self.engine.state[origin]);
        for number in first..first + count {
            let owed = self.nodes[origin].owed.iter().find(|owed| owed.number == number);
            let Some(to) = owed.map(|owed| owed.to) else { continue };
            let place = if to & AT != 0 {
                let life = usize::from(to & !AT);
                let now = self.engine.state[life];
                let is_held = self.engine.hold.iter().any(|hold| !hold.is_empty());
                let together = origin_leaves
                    && s.has(Rule::LeaversTogether)
                    && (!is_held || !s.has(Rule::BehindHolds));
                let gets = now == HERE || leaves(now) && (together || !s.has(Rule::LeaverHasLeft));
                if gets && self.engine.seats[life] != 0 {
                    // Who was there when it was said, and is now, gets it.
                    let wanted = self.wanted[sender(line)][number_of(line)];
                    self.must[sender(line)][number_of(line)] |= wanted & self.engine.seats[life];
                    self.append(life, MSG, origin as u8, number, line, ALL);
                    life as u8
                } else {
                    if origin_leaves && leaves(now) && !is_held {
                        let wanted = self.wanted[sender(line)][number_of(line)];
                        self.must[sender(line)][number_of(line)] |=
                            wanted & self.engine.seats[life];
                    }
                    ABSENT
                }
            } else {
                self.send_to_name(origin, number, line, usize::from(to))
            };
            self.append(origin, PLACE, number, place, 0, 0);
        }
    }

    fn send_to_name(&mut self, origin: usize, number: u8, line: u8, to: usize) -> u8 {
        let name = self.engine.names[to];
        let holder = usize::from(name.state);
        let now = self.engine.state[holder];
        let together = leaves(self.engine.state[origin]) && self.engine.hold[to].is_empty();
        let message = Entry { kind: MSG, a: origin as u8, b: number, c: line, d: name.id };
        if name.id == 0 {
            return ABSENT;
        }
        if now == HERE || leaves(now) && together {
            self.engine.inbox[holder].push(message);
            return holder as u8;
        }
        self.engine.hold[to].push(message);
        HELD
    }

    fn move_hold(&mut self, name: usize, life: usize, session: u8) {
        for message in std::mem::take(&mut self.engine.hold[name]) {
            self.engine.inbox[life].push(Entry { d: session, ..message });
            self.append(usize::from(message.a), PLACE, message.b, life as u8, 0, 0);
        }
    }

    fn give_back_holds(&mut self) {
        if self.engine.state.contains(&HERE) {
            return;
        }
        for name in 0..CLIENTS {
            let Session { id, state: life } = self.engine.names[name];
            if id != 0 && leaves(self.engine.state[usize::from(life)]) {
                self.move_hold(name, usize::from(life), id);
            }
        }
    }

    pub fn down(&mut self, life: usize) {
        self.clear_room(life);
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
