//! Nodes, clients and the engine between them; [`docs/cluster.md`] tells the same in words.
//!
//! A script and its answer are one step, except where a reply is lost or a command is late. A
//! line that its broker has routed is one that was accepted. No timeout passes: what waits, waits
//! until it may go on, so a state in which no step is left is an end or a deadlock. A lease is
//! over when its process is dead, or by `fences` while it lives.

use crate::lines::rules::{Rule, Scenario};
use crate::lines::state::*;

/// What a step does to a state.
pub type Change<'a> = &'a mut dyn FnMut(&mut State) -> Result<(), String>;

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
                    let mine = &mut state.nodes[life];
                    mine.tried = mine.tried.max(number + 1);
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
        // The broker of a closing node has exited; acks that still come change nothing.
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
                    state.nodes[life].log_out(client as u8, session);
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
}
