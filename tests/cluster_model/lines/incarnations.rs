//! An engine that has forgotten: every life enters its new incarnation, and then it is opened.

use crate::lines::rules::{Rule, Scenario};
use crate::lines::state::*;

impl State {
    pub fn fail_over(&mut self, s: &Scenario) {
        self.engine = if s.has(Rule::Clear) {
            Engine::default()
        } else {
            self.replica.pop().unwrap_or_default()
        };
        self.replica.clear();
        // What a life handed over may be forgotten with it.
        self.staggered |= (0..LIVES).any(|life| self.nodes[life].phase == CLOSING);
        self.engine.entered = 0;
        self.incarnation += 1;
        self.early = true;
        self.failovers += 1;
    }

    pub fn enter(&mut self, s: &Scenario, life: usize) -> Result<(), String> {
        let node = &mut self.nodes[life];
        node.incarnation = self.incarnation;
        node.paused = true;
        self.engine.entered |= bit(life as u8);
        self.engine.state[life] = match node.phase {
            CLOSING => RELEASED,
            _ if node.cut_done && !s.has(Rule::CutAnew) => CUT,
            _ if node.leave_done => LEAVING,
            _ => HERE,
        };
        node.position = 0;
        self.engine.last[life] = node.head;
        self.engine.handled[life] = node.handled;
        self.engine.done[life] = node.done;
        if s.has(Rule::Clear) {
            self.engine.inbox[life].clear();
        }
        for client in 0..CLIENTS {
            if usize::from(self.engine.names[client].life) == life {
                self.engine.names[client] = Name::default();
            }
            let mut session = self.nodes[life].sessions[client];
            let freed = self.nodes[life]
                .egress
                .iter()
                .find(|c| c.kind == FREE && usize::from(c.a) == client && c.c != 0);
            if let Some(free) = freed
                && s.has(Rule::FreeInOrder)
            {
                session = Session { id: free.b, state: MOVED, claim: free.c };
            }
            if session.state == ACTIVE || session.state == MOVED {
                self.enter_name(s, life, client, session);
            }
        }
        let node = &mut self.nodes[life];
        if s.has(Rule::CutAnew) && node.phase == DRAINING && node.cut_done {
            node.cut_done = false;
            let at =
                node.egress.iter().position(|c| c.kind == RELEASE).unwrap_or(node.egress.len());
            node.egress.insert(at, Entry { kind: CUT_DONE, a: 0, b: 0, c: 0, d: 0 });
        }
        if s.has(Rule::ClaimAgain)
            && node.release_sent
            && node.phase == DRAINING
            && !node.egress.iter().any(|c| c.kind == RELEASE)
        {
            node.egress.push(Entry { kind: RELEASE, a: 0, b: 0, c: 0, d: 0 });
        }
        if !s.has(Rule::HandledFirst) {
            self.send_again(s, life, 0xff)?;
        }
        Ok(())
    }

    pub fn enter_name(&mut self, s: &Scenario, life: usize, client: usize, session: Session) {
        let held = self.engine.names[client];
        if held.session == 0 || (held.claim < session.claim && s.has(Rule::LargerClaim)) {
            if held.session != 0 {
                self.append(
                    usize::from(held.life),
                    Entry { kind: TAKEN, a: held.session, b: 0, c: 0, d: 0 },
                );
            }
            self.engine.names[client] =
                Name { life: life as u8, session: session.id, claim: session.claim };
        } else {
            self.append(life, Entry { kind: TAKEN, a: session.id, b: 0, c: 0, d: 0 });
        }
        self.engine.claims = self.engine.claims.max(session.claim);
    }

    /// All who live have entered: the first moment at which lines may be sent again.
    pub fn open(&mut self, s: &Scenario) {
        self.early = false;
        for life in 0..LIVES {
            if self.engine.entered & bit(life as u8) == 0 || !s.has(Rule::HandledFirst) {
                continue;
            }
            for from in 0..LIVES {
                let (handled, done) =
                    (self.engine.handled[from][life], self.engine.done[from][life]);
                if handled != 0 {
                    self.append(
                        life,
                        Entry { kind: ACK, a: from as u8, b: handled, c: done, d: 0 },
                    );
                }
            }
            self.append(life, Entry { kind: OPEN, a: self.engine.entered, b: 0, c: 0, d: 0 });
        }
        self.engine.handled = Default::default();
        self.engine.done = Default::default();
        self.hold_back(s);
    }
}
