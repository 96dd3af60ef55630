//! How a node enters a new incarnation of the engine, or begins a new life, and what it sends again
//! once that is open. Runs on the broker's thread.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::{Drain, Node, Standing};
use crate::cluster::engine::{Command, Entrance, Life, LifeState};
use crate::cluster::orders::{Effect, Forward, Order};

impl<R, C: Clone> Node<R, C> {
    /// The engine has forgotten, or this life was fenced and `life` is the next one: orders egress to
    /// enter. `sent` is the last delivery that ever left this node.
    pub(crate) fn enter(
        &mut self,
        incarnation: Arc<str>,
        life: Life,
        now: Instant,
        sent: u64,
        effects: &mut Vec<Effect>,
    ) {
        let fresh = life != self.life;
        if fresh {
            let gone = self.outgoing.fenced(sent);
            self.unsettled(gone, effects);
            self.handled.clear();
            self.known.clear();
            self.told.clear();
            self.asking.clear();
            self.seats.clear();
            self.life = life;
            for login in self.logins.values_mut() {
                login.standing = Standing::Claiming { since: now, again: false };
            }
            self.claiming = self.logins.len();
        }
        let names = self.logins.iter().filter_map(|(session, login)| match login.standing {
            Standing::Active { claim } => Some((login.name.clone(), *session, claim)),
            Standing::Claiming { .. } => None,
        });
        let state = match self.drain {
            Drain { released: true, .. } => LifeState::Released,
            // Also if it was cut: its lines come once more, and nobody may be released before.
            Drain { leaving: true, .. } => LifeState::Leaving,
            _ => LifeState::Here,
        };
        let names = names.collect();
        let seats = self.seats.all();
        let entrance = Entrance { incarnation, fresh, state, names, seats, known: Vec::new() };
        self.entering = true;
        self.orders.push(Order::Enter { life: self.life.clone(), entrance });
    }

    /// Notes the last delivery that ever left this node, before `Entry::Open` is read.
    pub(crate) fn note_sent(&mut self, sent: u64) {
        self.sent = sent;
    }

    /// All who live have entered the new incarnation.
    pub(super) fn opened(&mut self, lives: Vec<Life>, effects: &mut Vec<Effect>) {
        let lives: BTreeSet<Life> = lives.into_iter().collect();
        if !std::mem::take(&mut self.entering) {
            self.known = lives;
            return;
        }
        let all_known = self.known.iter().all(|life| lives.contains(life));
        let sent = self.sent;
        let logins = &self.logins;
        let (again, doubtful) = self
            .outgoing
            .send_again(&lives, all_known, sent, |session| logins.contains_key(&session));
        self.known = lives;
        self.unsettled(doubtful, effects);
        let forwards = again.into_iter().filter_map(|number| self.forward_again(number)).collect();
        let mut claims = Vec::new();
        for (session, login) in &mut self.logins {
            if let Standing::Claiming { again, .. } = &mut login.standing {
                *again = false;
                claims.push(Command::Claim { name: login.name.clone(), session: *session });
            }
        }
        claims.extend(self.questions.values().map(|(_, command)| command.clone()));
        if self.drain.cut && !self.drain.released {
            claims.push(Command::Cut);
        }
        self.orders.push(Order::Restart { forwards, claims });
        if self.drain.asked && !self.drain.released {
            self.drain.asked = false;
        }
        self.drain.is_grace_due = self.drain.leaving;
    }

    fn forward_again(&self, number: u64) -> Option<Forward> {
        let account = self.outgoing.get(number)?;
        let payload = account.payload.as_ref()?;
        Some(Forward {
            first: number,
            names: vec![account.name.clone()],
            from: payload.from.clone(),
            session: account.sender,
            room: payload.room.clone(),
            lowest: self.outgoing.lowest(),
            first_line: account.first_line,
            messages: account.messages,
            frames: Arc::clone(&payload.frames),
            range: payload.range.clone(),
        })
    }
}
