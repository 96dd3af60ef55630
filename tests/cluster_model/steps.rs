//! Nodes, clients and the engine between them; `CLUSTER-SIMPLER.md` tells the same in words.
//!
//! A script and its answer are one step, except where a reply is lost or a command is late. A
//! line that its broker has routed is one that was accepted. No time-out passes: what waits, waits
//! until it may go on, so a state in which no step is left is an end or a deadlock. A lease is
//! over when its process is dead, or by `fences` while it lives.

use crate::pack::Pack;
use crate::rules::{Rule, Scenario};
use crate::search::Model;
use crate::state::*;

/// What a step does to a state.
type Change<'a> = &'a mut dyn FnMut(&mut State) -> Result<(), String>;

impl Scenario {
    pub fn tell_command(&self, life: usize, command: Entry) -> String {
        let (who, name) = (self.life_name(life), NAMES[usize::from(command.a) % CLIENTS]);
        match command.kind {
            SEND => format!("{who} sends {}: {}", command.a, self.tell(command.b)),
            CLAIM => format!("{who} claims {name} ({})", command.b),
            FREE => format!("{who} frees {name} ({})", command.b),
            LEAVE => format!("{who}: leave"),
            CUT_DONE => format!("{who}: cut"),
            _ => format!("{who}: release"),
        }
    }

    /// What egress of a life does next, and what may go wrong with it.
    pub fn egress(&self, old: &State, life: usize, each: &mut dyn FnMut(String, Step)) {
        let node = &old.nodes[life];
        if node.incarnation != old.incarnation || old.early || node.paused || old.fenced(life) {
            return;
        }
        let unanswered = self.lost_replies + self.late_commands + self.failovers > 0;
        let position = usize::from(node.position);
        if let Some(command) = node.egress.get(position).copied()
            && !old.is_later(self, life, command)
        {
            let mut state = old.clone();
            state.bring(self, life, node.head + node.position, command);
            let mine = &mut state.nodes[life];
            mine.position += 1;
            mine.tried = mine.tried.max(mine.head + mine.position);
            if !unanswered {
                self.answered(&mut state, life);
            }
            each(self.tell_command(life, command), Ok(state));
            if old.late_commands < self.late_commands {
                let mut state = old.clone();
                state.late_commands += 1;
                for (ahead, command) in node.egress_from(position).iter().take(2).enumerate() {
                    let number = node.head + node.position + ahead as u8;
                    state.late.push(Late {
                        life: life as u8,
                        number,
                        incarnation: old.incarnation,
                        command: *command,
                    });
                }
                state.nodes[life].position = 0;
                each(
                    format!(
                        "{} dials again, two commands are on their way in the old connection",
                        self.life_name(life)
                    ),
                    Ok(state),
                );
            }
        }
        if node.position > 0 {
            let mut state = old.clone();
            self.answered(&mut state, life);
            each(format!("{} has a reply", self.life_name(life)), Ok(state));
            if old.lost_replies < self.lost_replies {
                let mut state = old.clone();
                state.lost_replies += 1;
                state.nodes[life].position = 0;
                each(
                    format!(
                        "{} dials again, {} replies are lost",
                        self.life_name(life),
                        node.position
                    ),
                    Ok(state),
                );
            }
        }
    }

    /// A reply says that the first command has run.
    pub fn answered(&self, state: &mut State, life: usize) {
        let node = &mut state.nodes[life];
        let command = node.egress.remove(0);
        node.position -= 1;
        node.head += 1;
        match command.kind {
            CLAIM if !self.has(Rule::LoginMark) => {
                let client = usize::from(command.a);
                let name = state.engine.names[client];
                if node.sessions[client].id == command.b && name.session == command.b {
                    node.sessions[client].state = ACTIVE;
                    node.sessions[client].claim = name.claim;
                }
            }
            LEAVE => node.leave_done = true,
            CUT_DONE => node.cut_done = true,
            RELEASE if !self.has(Rule::ReadBack) => {
                state.released(life);
                state.engine.inbox[life].clear();
            }
            _ => {}
        }
    }

    pub fn node_steps(&self, old: &State, life: usize, each: &mut dyn FnMut(String, Step)) {
        let node = &old.nodes[life];
        let who = self.life_name(life);
        let current = node.incarnation == old.incarnation;
        let mut step = |name: String, change: Change<'_>| {
            let mut state = old.clone();
            each(name, change(&mut state).map(|()| state));
        };
        // A closing node has let its broker go: only egress reads on, for acks, which nobody awaits.
        if current && !old.engine.inbox[life].is_empty() {
            if node.phase == CLOSING && old.engine.inbox[life][0].kind == MSG {
                step(format!("{who} reads"), &mut |_| {
                    Err("a message behind the release".to_string())
                });
            } else {
                let told = self.tell_entry(old.engine.inbox[life][0]);
                step(format!("{who} reads {told}"), &mut |state| {
                    state.read(self, life)?;
                    state.close_idle(life);
                    Ok(())
                });
            }
        }
        if let Some(item) = node.queued.first().copied() {
            step(format!("{who} writes {}", self.tell(item.b)), &mut |state| {
                state.nodes[life].queued.remove(0);
                state.receive(self, item.b)?;
                state.finish(life, usize::from(item.c), item.d);
                state.close_idle(life);
                Ok(())
            });
        }
        for origin in 0..LIVES {
            let (handled, done) = (node.tell_handled[origin], node.tell_done[origin]);
            if handled | done != 0 && current && !old.early && !node.paused && !old.fenced(life) {
                step(
                    format!(
                        "{who} acks {} handled {handled:b} done {done:b}",
                        self.life_name(origin)
                    ),
                    &mut |state| {
                        state.nodes[life].tell_handled[origin] = 0;
                        state.nodes[life].tell_done[origin] = 0;
                        state.append(
                            origin,
                            Entry { kind: ACK, a: life as u8, b: handled, c: done, d: 0 },
                        );
                        Ok(())
                    },
                );
            }
        }
        if !current && !old.fenced(life) {
            step(format!("{who} enters"), &mut |state| state.enter(self, life));
        }
        for client in 0..CLIENTS {
            let session = node.sessions[client];
            let next = old.clients[client].next;
            if session.state == ACTIVE
                && old.reads(life, session.id)
                && !node.cut
                && usize::from(next) < self.lines[client].len()
            {
                let line = line_of(client, next);
                let on_its_way =
                    node.owed.iter().filter(|owed| sender(owed.line) == client).count();
                if self.window > 0 && on_its_way >= usize::from(self.window) {
                    continue;
                }
                step(format!("{who} accepts {}", self.tell(line)), &mut |state| {
                    state.clients[client].next += 1;
                    state.fate[client][usize::from(next)] = ACCEPTED;
                    state.route(self, life, line)
                });
            }
            if [CLAIMING, ACTIVE].contains(&session.state)
                && node.phase < CLOSING
                && old.reads(life, session.id)
                && old.clients[client].moves > 0
            {
                step(format!("{} leaves {who}", NAMES[client]), &mut |state| {
                    state.clients[client].moves -= 1;
                    state.drop_session(life, client)?;
                    state.nodes[life].egress.push(Entry {
                        kind: FREE,
                        a: client as u8,
                        b: session.id,
                        c: session.claim,
                        d: 0,
                    });
                    Ok(())
                });
            }
        }
        self.drain_steps(
            &old.engine,
            std::array::from_fn(|client| old.clients[client].next),
            node,
            life,
            &mut step,
        );
        if old.kills < self.kills && self.killable & bit(life as u8) != 0 {
            step(format!("SIGKILL of {who}"), &mut |state| {
                state.kills += 1;
                state.kill(life);
                Ok(())
            });
        }
    }

    pub fn drain_steps(
        &self,
        engine: &Engine,
        next: [u8; CLIENTS],
        node: &Node,
        life: usize,
        step: &mut dyn FnMut(String, Change<'_>),
    ) {
        let who = self.life_name(life);
        let command = |kind| Entry { kind, a: 0, b: 0, c: 0, d: 0 };
        let taken = self.window == 0
            || (0..CLIENTS).all(|client| {
                node.sessions[client].state != ACTIVE
                    || usize::from(next[client]) == self.lines[client].len()
                    || node
                        .owed
                        .iter()
                        .any(|owed| sender(owed.line) == client && owed.place == HOLD) // the cut's deadline
            });
        if node.phase == DRAINING && !node.cut && taken {
            step(format!("{who}: the readers' cut"), &mut |state| {
                state.nodes[life].cut = true;
                state.nodes[life].egress.push(command(CUT_DONE));
                Ok(())
            });
        }
        let settled = node.owed.iter().all(|owed| owed.handled || owed.place == HOLD);
        let first = !self.has(Rule::ForwardedFirst) || (settled && node.egress.is_empty());
        let marked = self.has(Rule::CutIsState)
            || !self.has(Rule::Cut)
            || (0..LIVES).all(|other| {
                other == life
                    || ![LEAVING, CUT].contains(&engine.state[other])
                    || engine.marks[life] & bit(other as u8) != 0
            });
        if node.phase == DRAINING
            && node.cut
            && node.cut_done
            && first
            && marked
            && !node.release_sent
            && !node.paused
        {
            step(format!("{who} asks for its release"), &mut |state| {
                state.nodes[life].release_sent = true;
                state.nodes[life].egress.push(command(RELEASE));
                Ok(())
            });
        }
    }

    /// Starting and ending of processes.
    pub fn life_steps(&self, old: &State, life: usize, each: &mut dyn FnMut(String, Step)) {
        let node = &old.nodes[life];
        let who = self.life_name(life);
        let mut step = |name: String, change: Change<'_>| {
            let mut state = old.clone();
            each(name, change(&mut state).map(|()| state));
        };
        let current =
            node.incarnation == old.incarnation && !old.early && !node.paused && !old.fenced(life);
        let told = node.tell_handled.iter().chain(&node.tell_done).all(|mask| *mask == 0);
        let settled = node.owed.iter().all(|owed| owed.handled || owed.place == HOLD);
        if node.phase == CLOSING
            && settled
            && node.queued.is_empty()
            && node.egress.is_empty()
            && told
            && current
        {
            step(format!("{who}: down"), &mut |state| state.down(self, life));
        }
        // In a rolling restart the next one begins when the one before is ready.
        let others_ready = (0..LIVES).all(|other| {
            other == life
                || [OFF, RUNNING, KILLED].contains(&old.nodes[other].phase)
                || old.nodes[other].phase == ENDED
                    && (self.restarts & bit(other as u8) == 0
                        || old.restarts & bit(other as u8) != 0)
                    && old
                        .engine
                        .names
                        .iter()
                        .all(|name| name.session == 0 || usize::from(name.life) != other)
        });
        if node.phase == RUNNING
            && self.drains & bit(life as u8) & !old.drains != 0
            && (self.restarts == 0 || !self.has(Rule::Paced) || others_ready)
        {
            step(format!("{who} is told to stop"), &mut |state| {
                state.drains |= bit(life as u8);
                state.nodes[life].phase = DRAINING;
                state.nodes[life].egress.push(Entry { kind: LEAVE, a: 0, b: 0, c: 0, d: 0 });
                Ok(())
            });
        }
        let again = life + self.nodes;
        if node.phase == ENDED
            && self.restarts & bit(life as u8) & !old.restarts != 0
            && again < LIVES
            && !old.early
        {
            step(format!("{} starts", self.life_name(again)), &mut |state| {
                state.restarts |= bit(life as u8);
                state.start(again);
                Ok(())
            });
        }
        if old.alive(life) && old.fenced(life) && !old.early {
            step(format!("{who} hears that it was reaped"), &mut |state| state.fence(self, life));
        }
        let lives = |other: &usize| old.alive(*other) && !old.fenced(*other);
        if old.fences < self.fences
            && (RUNNING..=CLOSING).contains(&node.phase)
            && !old.fenced(life)
            && !old.early
            && (0..LIVES).filter(lives).count() > 1
        {
            step(format!("the lease of {who}, which lives, is over"), &mut |state| {
                state.fences += 1;
                state.reap(self, life);
                Ok(())
            });
        }
        for (client, name) in old.engine.names.iter().enumerate() {
            let holder = usize::from(name.life);
            if self.stay_away & bit(client as u8) != 0
                && name.session != 0
                && old.engine.state[holder] == DOWN
                && lives(&life)
                && old.engine.state[life] == HERE
                && node.incarnation == old.incarnation
                && !old.early
            {
                step(format!("{who} ends the hold of {}", NAMES[client]), &mut |state| {
                    if self.has(Rule::SweeperOwns) {
                        state.move_hold(self, client, life, 0);
                    }
                    state.engine.hold[client].clear();
                    state.engine.names[client] = Name::default();
                    Ok(())
                });
            }
        }
        let someone = (0..LIVES).any(|other| old.alive(other));
        if node.phase >= ENDED
            && (HERE..=RELEASED).contains(&old.engine.state[life])
            && someone
            && !old.early
        {
            step(format!("{who} is reaped"), &mut |state| {
                state.reap(self, life);
                Ok(())
            });
        }
    }

    pub fn tell_entry(&self, entry: Entry) -> String {
        match entry.kind {
            MSG => self.tell(entry.c),
            ACK => format!(
                "ack of {}: handled {:b} done {:b}",
                self.life_name(usize::from(entry.a)),
                entry.b,
                entry.c
            ),
            MARK => format!("the login mark of {}", NAMES[usize::from(entry.a)]),
            EVENT => format!(
                "{} is {}",
                self.life_name(usize::from(entry.a)),
                ["", "here", "leaving", "cut", "released", "down", "reaped"][usize::from(entry.b)]
            ),
            PLACE => format!(
                "its {} is {}",
                entry.a,
                match entry.b {
                    HOLD => "held".to_string(),
                    ABSENT => "refused, no such peer".to_string(),
                    place => format!("in the inbox of {}", self.life_name(usize::from(place))),
                }
            ),
            OPEN => "open".to_string(),
            _ => format!("session {} has lost its name", entry.a),
        }
    }
}

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
        // Who stops after another has released its clients may hold lines for which nobody comes.
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
