//! A node's broker, and ingress that reads for it.

use super::state::*;
use super::{Rooms, Rule};

type Done = Result<(), String>;

impl State {
    pub fn reads(&self, life: usize, client: usize) -> bool {
        let Client { at, session, .. } = self.clients[client];
        at == life as u8 + 1 && session == self.nodes[life].sessions[client].id
    }

    /// A client gets a line.
    fn receive(&mut self, client: usize, line: u8) -> Done {
        let (from, number) = (sender(line), number_of(line));
        if from == client {
            return Err(format!("{} gets its own line", NAMES[client]));
        }
        let got = &mut self.received[from][number];
        if *got & bit(client as u8) != 0 {
            return Err(format!("{} gets line {} twice", NAMES[client], number + 1));
        }
        *got |= bit(client as u8);
        let me = &mut self.clients[client];
        if me.last[from] > number as u8 + 1 {
            return Err(format!("{} gets line {} too late", NAMES[client], number + 1));
        }
        me.last[from] = number as u8 + 1;
        let has = |number: usize| self.received[from][number] & bit(client as u8) != 0;
        let misses =
            |number: &usize| self.wanted[from][*number] & bit(client as u8) != 0 && !has(*number);
        if (0..number).any(|number| misses(&number)) {
            return Err(format!(
                "{} gets line {}, but not all before it",
                NAMES[client],
                number + 1
            ));
        }
        if self.as_member[from] & bit(number as u8) != 0 {
            me.heard |= bit(from as u8);
        }
        Ok(())
    }

    fn is_on_the_way(&self, life: usize, name: usize) -> bool {
        self.nodes[life].owed.iter().any(|owed| usize::from(owed.to) == name && !owed.handled)
    }

    /// Opens an account for each of these, and sends them together.
    fn forward(&mut self, life: usize, line: u8, to: Vec<u8>) {
        if to.is_empty() {
            return;
        }
        let node = &mut self.nodes[life];
        let (first, count) = (node.next, to.len() as u8);
        for to in to {
            let number = node.next;
            node.next += 1;
            node.owed.push(Owed { number, to, line, place: UNKNOWN, handled: false });
        }
        node.egress.push(Entry { kind: SEND, a: first, b: count, c: line, d: 0 });
    }

    pub fn route(&mut self, s: &Rooms, life: usize, line: u8) -> Done {
        let (from, number) = (sender(line), number_of(line));
        let to = s.says[from][number];
        if self.nodes[life].joined & bit(from as u8) != 0 {
            self.as_member[from] |= bit(number as u8);
        }
        if to == ROOM {
            return self.route_to_room(s, life, line);
        }
        let to = usize::from(to);
        if self.nodes[life].sessions[to].state == ACTIVE && !self.is_on_the_way(life, to) {
            if self.reads(life, to) {
                self.receive(to, line)?;
            }
            return Ok(());
        }
        self.forward(life, line, vec![to as u8]);
        Ok(())
    }

    fn route_to_room(&mut self, s: &Rooms, life: usize, line: u8) -> Done {
        let (from, number) = (sender(line), number_of(line));
        let node = &self.nodes[life];
        for other in (0..LIVES).filter(|other| *other != life) {
            let (heard, seats) = (self.clients[from].heard, self.engine.seats[other]);
            let is_there = heard & seats != 0 && self.engine.state[other] == HERE;
            if node.lives & bit(other as u8) != 0 {
                self.wanted[from][number] |= self.nodes[other].joined;
            } else if is_there && !self.is_early {
                return Err("whom a sender has heard in the room is not known to be there".into());
            }
        }
        let mut away = Vec::new();
        for member in bits(node.members).filter(|member| *member != from).collect::<Vec<_>>() {
            let goes_away = self.is_on_the_way(life, member) && s.has(Rule::Away);
            if goes_away {
                away.push(member as u8);
            }
            if self.reads(life, member) {
                self.must[from][number] |= bit(member as u8);
                if !goes_away || !s.has(Rule::NotHereAsWell) {
                    self.receive(member, line)?;
                }
            }
        }
        let node = &self.nodes[life];
        let others = bits(node.lives).filter(|it| *it != life || !s.has(Rule::NotItself));
        away.extend(others.map(|life| AT | life as u8));
        self.forward(life, line, away);
        Ok(())
    }

    pub fn close_client(&mut self, client: usize) {
        (self.clients[client].at, self.clients[client].session) = (0, 0);
    }

    /// A client leaves of its own will: what it does not have yet it has left behind.
    pub fn leave(&mut self, life: usize, client: usize) {
        let me = bit(client as u8);
        self.close_client(client);
        let node = &mut self.nodes[life];
        let session = std::mem::take(&mut node.sessions[client]);
        node.egress.push(Entry { kind: FREE, a: client as u8, b: session.id, c: 0, d: 0 });
        if node.members & me != 0 {
            node.egress.push(Entry { kind: PART, a: client as u8, b: 0, c: 0, d: 0 });
        }
        node.members &= !me;
        node.joined &= !me;
        for line in self.must.iter_mut().chain(&mut self.wanted).flatten() {
            *line &= !me;
        }
        self.forget_member(client);
    }

    /// A client that hears what it said before does not hear a member speak.
    fn forget_member(&mut self, client: usize) {
        self.as_member[client] = 0;
        self.clients.iter_mut().for_each(|other| other.heard &= !bit(client as u8));
    }

    /// Ingress reads one entry and gives it to the broker.
    pub fn read(&mut self, s: &Rooms, life: usize) -> Done {
        let Entry { kind, a, b, c, d } = self.engine.inbox[life].remove(0);
        let node = &mut self.nodes[life];
        match kind {
            MSG => {
                let origin = usize::from(a);
                if node.phase == CLOSES {
                    return Err("a message stands behind the release".to_string());
                }
                let is_again = node.handled[origin] & bit(b) != 0;
                node.handled[origin] |= bit(b);
                if origin == life {
                    self.handled(life, life as u8, bit(b));
                } else {
                    node.tell[origin] |= bit(b);
                }
                if is_again {
                    return Ok(());
                }
                let node = &self.nodes[life];
                let to: Vec<usize> = if d == ALL {
                    bits(node.members).collect()
                } else {
                    (0..CLIENTS).filter(|client| node.sessions[*client].id == d).collect()
                };
                for client in to {
                    if self.reads(life, client) {
                        self.receive(client, c)?;
                    }
                }
            }
            ACK => self.handled(life, a, b),
            MARK => {
                let session = &mut node.sessions[usize::from(a)];
                if session.id == b && session.state == CLAIMING {
                    session.state = ACTIVE;
                }
            }
            PLACE => {
                if b == ABSENT {
                    node.owed.retain(|owed| owed.number != a);
                }
                for owed in node.owed.iter_mut().filter(|it| it.number == a && !it.handled) {
                    owed.place = b;
                }
            }
            SEATS => node.lives = if node.members == 0 { 0 } else { a },
            JOINED => {
                if node.sessions[usize::from(a)].id == b {
                    node.joined |= node.members & bit(a);
                }
            }
            LET_GO => {
                node.phase = CLOSES;
                for client in 0..CLIENTS {
                    if self.nodes[life].sessions[client].id != 0 {
                        if self.reads(life, client) {
                            self.close_client(client);
                        }
                        self.nodes[life].sessions[client].state = MOVED;
                        self.forget_member(client);
                        for line in self.wanted.iter_mut().flatten() {
                            *line &= !bit(client as u8);
                        }
                    }
                }
                (self.nodes[life].members, self.nodes[life].joined) = (0, 0);
            }
            _ => self.opened(s, life),
        }
        Ok(())
    }

    /// These are at their broker; the model needs no more of them.
    fn handled(&mut self, life: usize, by: u8, numbers: u8) {
        for owed in self.nodes[life].owed.iter_mut() {
            if numbers & bit(owed.number) != 0 {
                (owed.handled, owed.place) = (true, by);
            }
        }
        self.nodes[life].owed.retain(|owed| !owed.handled);
    }

    /// In a new incarnation: what is not known to be handled, in order, and then the rest.
    fn opened(&mut self, s: &Rooms, life: usize) {
        let node = &mut self.nodes[life];
        node.is_paused = false;
        let send = |owed: &Owed| Entry { kind: SEND, a: owed.number, b: 1, c: owed.line, d: 0 };
        let mut again: Vec<Entry> = node.owed.iter().map(send).collect();
        node.owed.iter_mut().for_each(|owed| owed.place = UNKNOWN);
        let rest = node.egress.iter().filter(|command| command.kind != SEND);
        let rest: Vec<Entry> = rest.copied().collect();
        let is_queued = |client: u8| rest.iter().any(|it| it.kind == JOIN && it.a == client);
        for client in bits(node.members & !node.joined) {
            let (a, b) = (client as u8, node.sessions[client].id);
            if s.has(Rule::JoinAgain) && !is_queued(a) {
                again.push(Entry { kind: JOIN, a, b, c: 0, d: 0 });
            }
        }
        again.extend(rest);
        node.egress = again;
    }
}
