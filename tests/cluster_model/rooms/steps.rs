//! What may happen, and what must hold.

use super::Rooms;
use super::state::*;
use crate::pack::Pack;
use crate::search::Model;

type Step = Result<State, String>;
type Change<'a> = &'a mut dyn FnMut(&mut State) -> Result<(), String>;

/// How often a client may log in.
const SESSIONS: u8 = 3;

impl Rooms {
    fn tell(&self, line: u8) -> String {
        let to = self.says[sender(line)][number_of(line)];
        let to = NAMES.get(usize::from(to)).copied().unwrap_or("#room");
        format!("{} {} to {to}", NAMES[sender(line)], number_of(line) + 1)
    }

    fn tell_entry(&self, entry: Entry) -> String {
        let Entry { kind, a, b, c, .. } = entry;
        match kind {
            MSG => self.tell(c),
            ACK => format!("that {} has {b:b}", NODES[usize::from(a)]),
            MARK => format!("the login mark of {}", NAMES[usize::from(a)]),
            PLACE => match b {
                HELD => format!("that {a} is held"),
                ABSENT => format!("that {a} is refused"),
                place => format!("that {a} is at {}", NODES[usize::from(place)]),
            },
            SEATS => format!("that members are at {a:b}"),
            JOINED => format!("that {} is in the room", NAMES[usize::from(a)]),
            LET_GO => "its release".to_string(),
            _ => "that all have entered".to_string(),
        }
    }

    fn tell_command(&self, command: Entry) -> String {
        let name = NAMES[usize::from(command.a) % CLIENTS];
        match command.kind {
            SEND => format!("sends {}", self.tell(command.c)),
            CLAIM => format!("claims {name}"),
            FREE => format!("frees {name}"),
            JOIN => format!("seats {name}"),
            PART => format!("unseats {name}"),
            LEAVE => "says that it leaves".to_string(),
            CUT_DONE => "says that it is cut".to_string(),
            _ => "asks for its release".to_string(),
        }
    }

    fn node_steps(&self, old: &State, life: usize, step: &mut dyn FnMut(String, Change<'_>)) {
        let (node, who) = (&old.nodes[life], NODES[life]);
        let speaks = node.has_entered && !node.is_paused && !old.is_early;
        if let Some(command) = node.egress.first().copied() {
            if speaks && !old.is_later(life, command) {
                step(format!("{who} {}", self.tell_command(command)), &mut |state| {
                    state.execute(self, life, command);
                    let node = &mut state.nodes[life];
                    node.egress.remove(0);
                    node.leave_done |= command.kind == LEAVE;
                    node.cut_done |= command.kind == CUT_DONE;
                    Ok(())
                });
            }
        }
        if let (Some(entry), true) = (old.engine.inbox[life].first().copied(), node.has_entered) {
            step(format!("{who} reads {}", self.tell_entry(entry)), &mut |state| {
                state.read(self, life)
            });
        }
        for origin in 0..LIVES {
            if node.tell[origin] != 0 && speaks {
                step(format!("{who} tells {} what it has", NODES[origin]), &mut |state| {
                    let handled = std::mem::take(&mut state.nodes[life].tell[origin]);
                    state.append(origin, ACK, life as u8, handled, 0, 0);
                    Ok(())
                });
            }
        }
        if !node.has_entered {
            step(format!("{who} enters"), &mut |state| {
                state.enter(self, life);
                Ok(())
            });
        }
        for client in 0..CLIENTS {
            self.client_steps(old, life, client, step);
        }
        if node.phase == RUNS && self.drains & bit(life as u8) != 0 {
            step(format!("{who} is told to stop"), &mut |state| {
                let node = &mut state.nodes[life];
                node.phase = DRAINS;
                // It is said before all that was not said yet.
                node.egress.insert(0, Entry { kind: LEAVE, a: 0, b: 0, c: 0, d: 0 });
                Ok(())
            });
        }
        if node.phase == DRAINS && !node.cut {
            step(format!("{who}: the readers' cut"), &mut |state| {
                let node = &mut state.nodes[life];
                node.cut = true;
                node.egress.push(Entry { kind: CUT_DONE, a: 0, b: 0, c: 0, d: 0 });
                Ok(())
            });
        }
        let is_handed_over = node.owed.iter().all(|owed| owed.place == HELD);
        if node.phase == DRAINS && node.cut_done && !node.release_sent && is_handed_over {
            step(format!("{who} may go"), &mut |state| {
                let node = &mut state.nodes[life];
                node.release_sent = true;
                node.egress.push(Entry { kind: RELEASE, a: 0, b: 0, c: 0, d: 0 });
                Ok(())
            });
        }
        if node.phase == CLOSES && node.egress.is_empty() && node.tell == [0; LIVES] {
            step(format!("{who} ends"), &mut |state| {
                state.down(self, life);
                Ok(())
            });
        }
    }

    fn client_steps(
        &self,
        old: &State,
        life: usize,
        client: usize,
        step: &mut dyn FnMut(String, Change<'_>),
    ) {
        let (node, me, who) = (&old.nodes[life], &old.clients[client], NAMES[client]);
        let (session, mine) = (node.sessions[client], bit(client as u8));
        if me.at == 0 && me.sessions < SESSIONS && node.phase == RUNS && session.id == 0 {
            step(format!("{who} logs in at {}", NODES[life]), &mut |state| {
                let me = &mut state.clients[client];
                me.sessions += 1;
                let id = client as u8 * 8 + me.sessions;
                (me.at, me.session) = (life as u8 + 1, id);
                let node = &mut state.nodes[life];
                node.sessions[client] = Session { id, state: CLAIMING };
                node.egress.push(Entry { kind: CLAIM, a: client as u8, b: id, c: 0, d: 0 });
                Ok(())
            });
        }
        if session.state != ACTIVE || !old.reads(life, client) || node.cut {
            return;
        }
        if self.joins & mine != 0 && node.members & mine == 0 && node.phase == RUNS {
            step(format!("{who} comes to the room"), &mut |state| {
                let node = &mut state.nodes[life];
                node.members |= mine;
                node.egress.push(Entry { kind: JOIN, a: client as u8, b: session.id, c: 0, d: 0 });
                Ok(())
            });
        }
        let next = usize::from(me.next);
        let waits = node.members & !node.joined & mine != 0;
        if next < self.says[client].len() && !waits {
            let line = line_of(client, next as u8);
            let to_room = self.says[client][next] == ROOM;
            if !to_room || node.joined & mine != 0 {
                step(format!("{who} says {}", self.tell(line)), &mut |state| {
                    state.clients[client].next += 1;
                    state.route(self, life, line)
                });
            }
        }
        if me.moves > 0 && !waits {
            step(format!("{who} leaves {}", NODES[life]), &mut |state| {
                state.clients[client].moves -= 1;
                state.leave(life, client);
                Ok(())
            });
        }
    }
}

impl Model for Rooms {
    type State = State;

    fn first(&self) -> State {
        let mut state = State::default();
        for life in 0..self.nodes {
            let node = &mut state.nodes[life];
            (node.phase, node.has_entered) = (RUNS, true);
            state.engine.state[life] = HERE;
        }
        for client in 0..CLIENTS {
            state.clients[client].moves = self.moves[client];
            let Some(home) = self.homes[client] else {
                state.clients[client].sessions = SESSIONS;
                continue;
            };
            let (life, id) = (usize::from(home), client as u8 * 8 + 1);
            let me = &mut state.clients[client];
            (me.at, me.session, me.sessions) = (home + 1, id, 1);
            state.engine.names[client] = Session { id, state: home };
            state.nodes[life].sessions[client] = Session { id, state: ACTIVE };
            state.nodes[life].members |= self.members & bit(client as u8);
        }
        let mut lives = 0;
        for life in 0..self.nodes {
            let node = &mut state.nodes[life];
            node.joined = node.members;
            state.engine.seats[life] = node.members;
            lives |= u8::from(node.members != 0) << life;
        }
        for node in state.nodes.iter_mut().filter(|node| node.members != 0) {
            node.lives = lives;
        }
        state
    }

    fn steps(&self, old: &State, each: &mut dyn FnMut(String, Step)) {
        let mut step = |name: String, change: Change<'_>| {
            let mut state = old.clone();
            each(name, change(&mut state).map(|()| state));
        };
        for life in 0..self.nodes {
            if old.nodes[life].phase < ENDED {
                self.node_steps(old, life, &mut step);
            }
        }
        if old.forgets < self.forgets && !old.is_early {
            step("the engine forgets".to_string(), &mut |state| {
                state.forget();
                Ok(())
            });
        }
        let all = (0..self.nodes).all(|life| old.nodes[life].has_entered);
        if old.is_early && all {
            step("all have entered".to_string(), &mut |state| {
                state.open(self);
                Ok(())
            });
        }
    }

    fn at_end(&self, state: &State) -> Result<(), String> {
        for (life, node) in state.nodes.iter().enumerate().take(self.nodes) {
            if [DRAINS, CLOSES].contains(&node.phase) {
                return Err(format!("the drain of {} does not end", NODES[life]));
            }
            if node.members & !node.joined != 0 {
                return Err("a client that comes to the room is never answered".to_string());
            }
            // What is held for a client is so until that comes back, or until the hold is over.
            if node.owed.iter().any(|owed| owed.place != HELD || owed.to & AT != 0) {
                return Err(format!("{} never hears of what it has sent", NODES[life]));
            }
        }
        for (from, lines) in state.must.iter().enumerate() {
            for (number, must) in lines.iter().enumerate() {
                if let Some(member) = bits(must & !state.received[from][number]).next() {
                    let line = self.tell(line_of(from, number as u8));
                    return Err(format!("{} does not get {line}", NAMES[member]));
                }
            }
        }
        Ok(())
    }

    fn pack(state: &State) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(384);
        state.put(&mut bytes);
        bytes
    }
    fn unpack(mut bytes: &[u8]) -> State {
        State::get(&mut bytes)
    }
}
