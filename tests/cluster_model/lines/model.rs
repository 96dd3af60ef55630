//! The first state, what clients and the engine do by themselves, and what must hold.

use crate::lines::rules::{Rule, Scenario};
use crate::lines::state::*;
use crate::pack::Pack;
use crate::search::Model;

impl Model for Scenario {
    type State = State;

    fn first(&self) -> State {
        let mut state = State { incarnation: 1, ..State::default() };
        let all = (0..self.nodes).fold(0, |lives, life| lives | bit(life as u8));
        for life in 0..self.nodes {
            state.nodes[life].phase = RUNNING;
            state.nodes[life].incarnation = 1;
            state.nodes[life].known = all;
            state.engine.state[life] = HERE;
        }
        for client in 0..CLIENTS {
            let id = client as u8 * 8 + 1;
            state.clients[client].moves = self.moves[client];
            if let Some(home) = self.homes[client] {
                state.engine.claims += 1;
                let claim = state.engine.claims;
                state.engine.names[client] = Name { life: home, session: id, claim };
                state.nodes[usize::from(home)].sessions[client] =
                    Session { id, state: ACTIVE, claim };
                state.clients[client] = Client {
                    at: home + 1,
                    session: id,
                    sessions: 1,
                    ..state.clients[client].clone()
                };
            } else {
                state.clients[client].sessions = SESSIONS;
            }
        }
        state
    }

    fn steps(&self, old: &State, each: &mut dyn FnMut(String, Step)) {
        let mut each = |name: String, next: Step| {
            let next = next.and_then(|state| {
                one_of_a_name(self, &state)?;
                Ok(state)
            });
            each(name, next);
        };
        for life in 0..LIVES {
            if old.nodes[life].phase == OFF {
                continue;
            }
            if old.alive(life) {
                self.egress(old, life, &mut each);
                self.node_steps(old, life, &mut each);
            }
            self.life_steps(old, life, &mut each);
        }
        for client in 0..CLIENTS {
            let me = &old.clients[client];
            if me.at != 0
                || me.sessions >= SESSIONS
                || old.early
                || old.is_taken(self, client)
                || (self.stay_away & bit(client as u8) != 0 && me.sessions > 0)
            {
                continue;
            }
            for life in 0..LIVES {
                let node = &old.nodes[life];
                if node.phase != RUNNING
                    || node.sessions[client].id != 0
                    || node.incarnation != old.incarnation
                {
                    continue;
                }
                let mut state = old.clone();
                let id = client as u8 * 8 + me.sessions + 1;
                state.clients[client].sessions += 1;
                state.clients[client].at = life as u8 + 1;
                state.clients[client].session = id;
                state.nodes[life].sessions[client] = Session { id, state: CLAIMING, claim: 0 };
                state.nodes[life].egress.push(Entry {
                    kind: CLAIM,
                    a: client as u8,
                    b: id,
                    c: 0,
                    d: 0,
                });
                each(
                    format!("{} logs in at {} ({id})", NAMES[client], self.life_name(life)),
                    Ok(state),
                );
            }
        }
        for (at, late) in old.late.iter().enumerate() {
            let life = usize::from(late.life);
            if old.late[..at].iter().any(|before| before.life == late.life) {
                continue; // a connection keeps its order
            }
            let mut state = old.clone();
            state.late.remove(at);
            let told = self.tell_command(life, late.command);
            let refused = (late.incarnation != old.incarnation && self.has(Rule::Once))
                || old.early
                || old.fenced(life);
            if !refused && !old.is_later(self, life, late.command) {
                state.bring(self, life, late.number, late.command);
            }
            each(format!("late: {told}"), Ok(state));
        }
        if self.failovers > old.failovers && !old.early {
            if self.suffix && !self.has(Rule::Clear) && old.replica.is_empty() {
                let mut state = old.clone();
                state.replica.push(old.engine.clone());
                each("the replica hears nothing any more".to_string(), Ok(state));
            }
            if !self.suffix || self.has(Rule::Clear) || !old.replica.is_empty() {
                let mut state = old.clone();
                state.fail_over(self);
                each("the engine loses what came since".to_string(), Ok(state));
            }
        }
        let entered = (0..LIVES)
            .all(|life| !old.alive(life) || old.nodes[life].incarnation == old.incarnation);
        if old.early && entered {
            let mut state = old.clone();
            state.open(self);
            each("open".to_string(), Ok(state));
        }
    }

    fn at_end(&self, state: &State) -> Result<(), String> {
        for life in 0..LIVES {
            if [DRAINING, CLOSING].contains(&state.nodes[life].phase) {
                return Err(format!("the drain of {} does not end", self.life_name(life)));
            }
        }
        for (client, name) in state.engine.names.iter().enumerate() {
            let life = usize::from(name.life);
            if name.session != 0
                && state.alive(life)
                && state.nodes[life].phase < CLOSING
                && state.nodes[life].sessions[client].id != name.session
            {
                return Err(format!("{} belongs to a session that is gone", NAMES[client]));
            }
        }
        let running = (0..LIVES).any(|life| state.nodes[life].phase == RUNNING);
        for client in 0..CLIENTS {
            let me = &state.clients[client];
            if running
                && me.sessions < SESSIONS
                && self.stay_away & bit(client as u8) == 0
                && (me.at == 0
                    || state.nodes[usize::from(me.at - 1)].sessions[client].state != ACTIVE)
            {
                return Err(format!("{} does not get in", NAMES[client]));
            }
            for number in 0..usize::from(me.next) {
                let line = line_of(client, number as u8);
                self.judge(state, line).map_err(|why| format!("{why}: {}", self.tell(line)))?;
            }
        }
        Ok(())
    }

    fn pack(state: &State) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        state.put(&mut bytes);
        bytes
    }
    fn unpack(mut bytes: &[u8]) -> State {
        State::get(&mut bytes)
    }
}

impl Scenario {
    /// A line that was accepted is received or named, by one.
    fn judge(&self, state: &State, line: u8) -> Result<(), String> {
        let fate = state.fate[sender(line)][number_of(line)];
        let received = state.received[sender(line)] & bit(number_of(line) as u8) != 0;
        let named = fate & (LOST | DOUBT | REFUSED);
        let left_to_the_dead = (0..LIVES).any(|life| {
            state.nodes[life].phase == ENDED
                && state.kills + state.fences + state.failovers > 0
                && state.nodes[life]
                    .owed
                    .iter()
                    .any(|owed| owed.line == line && (owed.handled || owed.place == HOLD))
        });
        // A node that stops after another one has released its clients may hold lines for clients that
        // do not come.
        let nobody_runs = !state.nodes.iter().any(|node| node.phase == RUNNING);
        match () {
            () if received && named & (LOST | REFUSED) != 0 && state.fences == 0 => {
                Err("received and named lost".to_string())
            }
            () if !received && named == 0 && fate & EXEMPT == 0 && !left_to_the_dead => {
                Err("lost and named by nobody".to_string())
            }
            () if self.lossless && !received && !(state.staggered && nobody_runs) => {
                Err(format!("lost without a fault ({named})"))
            }
            () => Ok(()),
        }
    }
}

/// At most one node has an active session of a name; after a failover the engine has to sort it out.
fn one_of_a_name(s: &Scenario, state: &State) -> Result<(), String> {
    for client in 0..CLIENTS {
        let active = (0..LIVES).filter(|life| {
            let node = &state.nodes[*life];
            state.alive(*life)
                && node.phase != CLOSING
                && node.sessions[client].state == ACTIVE
                && state.engine.state[*life] != RELEASED
        });
        if s.failovers == 0 && active.count() > 1 {
            return Err(format!("two sessions of {}", NAMES[client]));
        }
    }
    Ok(())
}
