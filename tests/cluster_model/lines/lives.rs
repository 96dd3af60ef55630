//! Starting and ending of processes, and what an inbox holds in words.

use crate::lines::rules::{Rule, Scenario};
use crate::lines::state::*;
use crate::lines::steps::Change;

impl Scenario {
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
                let leave = Entry { kind: LEAVE, a: 0, b: 0, c: 0, d: 0 };
                state.nodes[life].push_first(leave);
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
