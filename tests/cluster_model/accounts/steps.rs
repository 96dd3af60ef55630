//! What may happen, and what must hold.

use super::state::*;
use super::{A, Accounts, B, Rule};
use crate::pack::Pack;
use crate::search::Model;

type Step = Result<State, String>;
type Change<'a> = &'a mut dyn FnMut(&mut State) -> Result<(), String>;

const SENDERS: [&str; 2] = ["alice", "dave"];
const NAMES: [&str; RECIPIENTS] = ["bob", "carol", "#room"];

impl Accounts {
    fn tell(&self, state: &State, number: u8) -> String {
        let line = &state.lines[usize::from(number)];
        format!("{number} to {}", NAMES[usize::from(line.to)])
    }

    fn a_steps(&self, old: &State, step: &mut dyn FnMut(String, Change<'_>)) {
        let a = &old.a;
        let speaks = !old.is_early && !a.is_paused && a.has_entered;
        if let (Some(number), true) = (a.egress.first().copied(), speaks) {
            step(format!("A sends {}", self.tell(old, number)), &mut |state| {
                state.a.egress.remove(0);
                state.a.sent = state.a.sent.max(number + 1);
                state.send(number);
                Ok(())
            });
        }
        if let (Some(entry), true) = (old.inbox_a.first(), a.has_entered) {
            let told = match entry.kind {
                PLACED => format!(
                    "that {} is {}",
                    self.tell(old, entry.a),
                    ["", "at B", "held", "refused"][usize::from(entry.b)]
                ),
                ACK => format!(
                    "that B has handled {:b}, settled {:b}, finished {:b}, lost {:b}",
                    entry.a, entry.b, entry.c, entry.d
                ),
                EVENT => format!("that B is {}", ["", "", "down", "reaped"][usize::from(entry.a)]),
                HOLD_OVER => format!("that nobody came for {}", self.tell(old, entry.a)),
                _ => "that all have entered".to_string(),
            };
            step(format!("A reads {told}"), &mut |state| state.read(self));
        }
        if !a.has_entered {
            step("A enters".to_string(), &mut |state| {
                state.enter_a(self);
                Ok(())
            });
        }
        for sender in 0..2 {
            let me = &a.senders[sender];
            let next = usize::from(me.next);
            // The reader of a client that has asked waits for the answer.
            let has_asked = me.parked.iter().any(|at| self.says[sender][usize::from(*at)] == SYNC);
            if a.phase == RUNS && next < self.says[sender].len() && !me.asks && !has_asked {
                let what = self.says[sender][next];
                let to = NAMES
                    .get(usize::from(what))
                    .map_or("/sync".to_string(), |to| format!("to {to}"));
                step(format!("{} says {to}", SENDERS[sender]), &mut |state| {
                    state.a.senders[sender].next += 1;
                    state.hear(self, sender, next as u8)
                });
            }
            if a.phase == RUNS && self.thrown_out & bit(sender as u8) != 0 && !me.parked.is_empty()
            {
                step(format!("{} is thrown out", SENDERS[sender]), &mut |state| {
                    let me = &mut state.a.senders[sender];
                    me.parked.clear();
                    me.next = self.says[sender].len() as u8;
                    Ok(())
                });
            }
        }
        if a.phase == RUNS && self.drains & A != 0 {
            step("A is told to stop".to_string(), &mut |state| {
                state.a.phase = LEAVES;
                for sender in &mut state.a.senders {
                    sender.asks = false; // "shutting down"
                }
                state.all_go_on(self)?;
                state.give_back_holds();
                Ok(())
            });
        }
        let is_handed_over = a.accounts.iter().all(|it| it.is_handled || it.place == HELD);
        if a.phase == LEAVES && speaks && a.egress.is_empty() && is_handed_over {
            step("A ends".to_string(), &mut |state| state.finish(self));
        }
        if a.phase == LEAVES && self.forced & A != 0 {
            step("A is forced to stop".to_string(), &mut |state| state.finish(self));
        }
        if old.fences < self.fences && a.phase == RUNS && speaks {
            step("A is taken for dead, and begins a new life".to_string(), &mut |state| {
                state.fences += 1;
                state.fenced(self)
            });
        }
        let is_dead = old.b.phase >= ENDED && [HERE, LEAVING].contains(&old.state);
        if is_dead && !old.is_early && speaks {
            step("A reaps B".to_string(), &mut |state| {
                state.reap();
                Ok(())
            });
        }
        if old.state == DOWN && !old.is_early && speaks && a.phase == RUNS {
            step("A ends the hold of B's names".to_string(), &mut |state| {
                state.end_hold();
                Ok(())
            });
        }
    }

    fn b_steps(&self, old: &State, step: &mut dyn FnMut(String, Change<'_>)) {
        let b = &old.b;
        let is_here = [HERE, LEAVING].contains(&old.state);
        if b.has_entered && is_here && !old.inbox_b.is_empty() {
            let told = self.tell(old, old.inbox_b[0]);
            step(format!("B reads {told}"), &mut |state| {
                state.receive();
                Ok(())
            });
        }
        for (at, item) in b.items.iter().enumerate() {
            let before = &b.items[..at];
            let mine = |other: &&Item| other.member == item.member;
            let told = format!("{} of {}", item.number, NAMES[usize::from(item.member)]);
            if !item.is_written && before.iter().filter(mine).all(|other| other.is_written) {
                step(format!("B writes {told}"), &mut |state| {
                    state.write(at);
                    Ok(())
                });
            }
            if item.is_written && !before.iter().any(|other| other.member == item.member) {
                step(format!("{told} is acknowledged"), &mut |state| {
                    state.acknowledge(self, at);
                    Ok(())
                });
            }
        }
        for member in [BOB, CAROL] {
            if old.failures < self.failures && b.gone & bit(member) == 0 {
                step(format!("{} fails", NAMES[usize::from(member)]), &mut |state| {
                    state.failures += 1;
                    state.fail(self, member);
                    Ok(())
                });
            }
        }
        let Told { handled, settled, finished, lost } = b.tell;
        let has_told = handled | settled | finished | lost == 0;
        let speaks = b.has_entered && !old.is_early;
        if speaks && !has_told {
            step("B acknowledges".to_string(), &mut |state| {
                state.acknowledge_to_a();
                Ok(())
            });
        }
        if speaks && b.late != 0 {
            step("B tells losses".to_string(), &mut |state| {
                let late = std::mem::take(&mut state.b.late);
                state.tell_a(ACK, 0, 0, 0, late);
                Ok(())
            });
        }
        if !b.has_entered {
            step("B enters".to_string(), &mut |state| {
                state.enter_b(self);
                Ok(())
            });
        }
        if b.phase == RUNS && self.drains & B != 0 && speaks {
            step("B is told to stop".to_string(), &mut |state| {
                (state.b.phase, state.state) = (LEAVES, LEAVING);
                state.give_back_holds();
                Ok(())
            });
        }
        // It waits for the last lines of one that stops at the same time.
        let is_last = old.a.phase != LEAVES || old.a.egress.is_empty() && !old.a.is_paused;
        let is_done = old.inbox_b.is_empty() && b.items.is_empty() && has_told && b.late == 0;
        if b.phase == LEAVES && speaks && is_last && is_done {
            step("B ends".to_string(), &mut |state| {
                state.down();
                Ok(())
            });
        }
        if b.phase == LEAVES && self.forced & B != 0 {
            if speaks {
                step("B is forced to stop, and says so".to_string(), &mut |state| {
                    state.force_b(false);
                    Ok(())
                });
            }
            step("B is forced to stop, and says nothing".to_string(), &mut |state| {
                state.force_b(true);
                Ok(())
            });
        }
        if self.kills > 0 {
            step("SIGKILL of B".to_string(), &mut |state| {
                state.kill_b();
                Ok(())
            });
        }
    }
}

impl Model for Accounts {
    type State = State;

    fn first(&self) -> State {
        let mut state = State::default();
        (state.a.knows_b, state.a.has_entered, state.b.has_entered) = (true, true, true);
        state
    }

    fn steps(&self, old: &State, each: &mut dyn FnMut(String, Step)) {
        let mut step = |name: String, change: Change<'_>| {
            let mut state = old.clone();
            let next = change(&mut state).and_then(|()| {
                adds_up(self, &state)?;
                Ok(state)
            });
            each(name, next);
        };
        let (a_lives, b_lives) = (old.a.phase <= LEAVES, old.b.phase <= LEAVES);
        if a_lives {
            self.a_steps(old, &mut step);
        }
        if b_lives {
            self.b_steps(old, &mut step);
        }
        if old.forgets < self.forgets && !old.is_early {
            step("the engine forgets".to_string(), &mut |state| {
                state.forget();
                Ok(())
            });
        }
        if old.is_early && (!a_lives || old.a.has_entered) && (!b_lives || old.b.has_entered) {
            step("all have entered".to_string(), &mut |state| {
                state.open();
                Ok(())
            });
        }
    }

    fn at_end(&self, state: &State) -> Result<(), String> {
        let a = &state.a;
        if a.phase == LEAVES || state.b.phase == LEAVES {
            return Err("a drain does not end".to_string());
        }
        if a.phase == RUNS {
            for (sender, me) in a.senders.iter().enumerate() {
                let who = SENDERS[sender];
                if me.asks {
                    return Err(format!("the /sync of {who} is never answered"));
                }
                if !me.parked.is_empty() || usize::from(me.next) < self.says[sender].len() {
                    return Err(format!("{who} waits forever"));
                }
            }
            if !a.accounts.is_empty() || a.used != [0; RECIPIENTS] {
                return Err("what is on its way is never settled".to_string());
            }
        }
        for (number, line) in state.lines.iter().enumerate() {
            judge(state, line).map_err(|why| format!("{why}: line {number}"))?;
        }
        Ok(())
    }

    fn pack(state: &State) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        state.put(&mut bytes);
        bytes
    }
    fn unpack(mut bytes: &[u8]) -> State {
        State::get(&mut bytes)
    }
}

/// The sums of A's report, and its budget: at any moment.
fn adds_up(s: &Accounts, state: &State) -> Result<(), String> {
    let a = &state.a;
    let open = a.accounts.iter().filter(|account| !account.is_handled).count() as u8;
    if a.owed != a.handed_over + a.in_doubt + a.lost + open {
        return Err("the sums of A's report do not add up".to_string());
    }
    let paid = a.accounts.iter().filter(|account| account.is_paid).count() as u8;
    if a.used.iter().sum::<u8>() != paid && s.has(Rule::EndsGiveBack) {
        return Err("what is on its way is not what is charged".to_string());
    }
    Ok(())
}

/// What must be known of a line when nothing more happens.
fn judge(state: &State, line: &Line) -> Result<(), String> {
    let is_whole = line.received == line.of || line.lost_at_b || state.is_silent;
    match line.account {
        OPEN_YET => Err("nobody names it".to_string()),
        FINISHED if !line.handled_at_b || !is_whole => Err("its end was no end".to_string()),
        LOST | REFUSED if line.handled_at_b => Err("lost, and taken over as well".to_string()),
        UNCONFIRMED if line.handled_at_b && !is_whole => Err("B does not name it".to_string()),
        _ => Ok(()),
    }
}
