//! What may happen, and what must hold.

use super::engine::reads;
use super::*;
use crate::search::Model;

type Step = Result<State, String>;
type Change<'a> = &'a mut dyn FnMut(&mut State) -> Result<(), String>;

const NAMES: [&str; NODES] = ["A", "B", "C"];

impl Leases {
    fn machine_steps(&self, old: &State, at: usize, step: &mut dyn FnMut(String, Change<'_>)) {
        let (machine, who) = (&old.machines[at], NAMES[at]);
        let life = usize::from(machine.life);
        // One that still hears nothing would be fenced again and again.
        if old.speaks(at) && machine.fenced && !machine.deaf {
            step(format!("{who} begins a new life"), &mut |state| state.begin_again(self, at));
        } else if old.speaks(at) && !machine.fenced {
            if !machine.renewed {
                step(format!("{who} renews"), &mut |state| {
                    state.renew(self, at);
                    Ok(())
                });
            }
            if let Some(reap) = machine.reaps.first() {
                step(format!("{who} reaps life {} at {}", reap.life, reap.kind), &mut |state| {
                    state.reap(self, at)
                });
            }
            if let Some(kind) = machine.egress.first().copied() {
                let told = if kind == CLAIM { "claims" } else { "frees" };
                step(format!("{who} {told} the name"), &mut |state| {
                    state.machines[at].egress.remove(0);
                    if !state.run(self, life, kind)? {
                        state.machines[at].fenced = true;
                    }
                    Ok(())
                });
            }
        }
        if machine.process != RUNS {
            return;
        }
        if !machine.away && !machine.deaf && !old.engine.stands_still && !machine.fenced {
            if let Some(entry) = old.engine.inbox[life].first() {
                let told = ["", "", "", "a ping", "the mark", "taken", "later"];
                step(format!("{who} reads {}", told[usize::from(entry.kind)]), &mut |state| {
                    state.read(at);
                    Ok(())
                });
            }
        }
        let comes = self.logins && at == 1 && [NOBODY, REFUSED].contains(&machine.client);
        if old.now < MENDED && comes && !machine.leaving {
            step(format!("a client logs in at {who}"), &mut |state| {
                state.machines[at].client = CLAIMING;
                state.machines[at].egress.push(CLAIM);
                Ok(())
            });
        }
        if self.logins && old.now < FAULTS && machine.client == ACTIVE && at == 0 {
            step(format!("the client leaves {who}"), &mut |state| {
                state.machines[at].client = NOBODY;
                state.machines[at].egress.push(FREE);
                Ok(())
            });
        }
    }

    fn faults(&self, old: &State, at: usize, step: &mut dyn FnMut(String, Change<'_>)) {
        let (machine, who) = (&old.machines[at], NAMES[at]);
        if machine.process == STOPPED && old.now < MENDED {
            step(format!("{who} is continued"), &mut |state| {
                state.machines[at].process = RUNS;
                Ok(())
            });
        }
        if machine.away && old.now < MENDED {
            step(format!("{who} reaches the engine again"), &mut |state| {
                state.machines[at].away = false;
                Ok(())
            });
        }
        if old.now >= FAULTS || machine.process != RUNS || machine.away || machine.deaf {
            return;
        }
        if old.kills < self.kills && !machine.leaving {
            step(format!("SIGKILL of {who}"), &mut |state| {
                state.kills += 1;
                state.machines[at].process = DEAD;
                Ok(())
            });
        }
        if old.stops < self.stops && (machine.leaving || !self.leaving) {
            step(format!("SIGSTOP of {who}"), &mut |state| {
                state.stops += 1;
                state.machines[at].process = STOPPED;
                Ok(())
            });
        }
        if old.cuts < self.cuts {
            step(format!("{who} is cut off"), &mut |state| {
                state.cuts += 1;
                let egress = state.machines[at].egress.first().copied();
                if let Some(kind) = egress.filter(|_| state.lates < self.lates) {
                    state.lates += 1;
                    state.late.push(Late { life: state.machines[at].life, kind });
                }
                state.machines[at].away = true;
                Ok(())
            });
        }
        if old.deaf < self.deaf {
            step(format!("{who} hears nothing any more"), &mut |state| {
                state.deaf += 1;
                state.machines[at].deaf = true;
                Ok(())
            });
        }
    }
}

impl Model for Leases {
    type State = State;

    fn first(&self) -> State {
        let mut state = State::default();
        for at in 0..NODES {
            let machine = &mut state.machines[at];
            machine.life = at as u8;
            machine.process = if at < self.nodes { RUNS } else { DEAD };
            machine.leaving = self.leaving && at == 1;
            if at < self.nodes {
                state.engine.state[at] = if machine.leaving { LEAVING } else { HERE };
            }
        }
        // A has the name.
        (state.engine.life, state.engine.owner) = (0, 1);
        state.machines[0].client = ACTIVE;
        state
    }

    fn steps(&self, old: &State, each: &mut dyn FnMut(String, Step)) {
        let mut step = |name: String, change: Change<'_>| {
            let mut state = old.clone();
            let next = change(&mut state).and_then(|()| {
                two_owners(&state)?;
                Ok(state)
            });
            each(name, next);
        };
        for at in 0..self.nodes {
            self.machine_steps(old, at, &mut step);
            self.faults(old, at, &mut step);
        }
        if let Some(late) = old.late.first().copied() {
            step("late: a claim of a closed connection".to_string(), &mut |state| {
                state.late.remove(0);
                let machine = &mut state.machines[usize::from(late.life) % NODES];
                if machine.life == late.life {
                    // A command that has run is not run again: its number says so.
                    if machine.egress.first() != Some(&late.kind) {
                        return Ok(());
                    }
                    machine.egress.remove(0);
                }
                state.run(self, usize::from(late.life), late.kind).map(|_| ())
            });
        }
        if old.engine.stands_still && old.now < MENDED {
            step("the engine goes on".to_string(), &mut |state| {
                state.engine.stands_still = false;
                Ok(())
            });
        }
        if old.freezes < self.freezes && old.now < FAULTS {
            step("the engine stands still".to_string(), &mut |state| {
                state.freezes += 1;
                state.engine.stands_still = true;
                Ok(())
            });
        }
        // A node that can do something does it within an interval, unless it is one that reads late.
        let is_busy = (0..self.nodes).any(|at| {
            let machine = &old.machines[at];
            let is_heard = !machine.deaf && !old.engine.inbox[usize::from(machine.life)].is_empty();
            let waits = !machine.renewed || !machine.reaps.is_empty() || is_heard;
            let is_fenced = machine.fenced && !machine.deaf;
            old.speaks(at)
                && (is_fenced || !machine.fenced && (waits || !machine.egress.is_empty()))
        });
        let is_mended = old.now + 1 < MENDED || !old.engine.stands_still;
        if old.now < END && !is_busy && is_mended && (old.now + 1 < END || old.late.is_empty()) {
            step("an interval passes".to_string(), &mut |state| {
                state.tick();
                Ok(())
            });
        }
    }

    fn at_end(&self, state: &State) -> Result<(), String> {
        if state.now < END {
            return Err("time stands still".to_string());
        }
        let is_well = |it: &Machine| it.process == RUNS && !it.away && !it.deaf;
        let machines = &state.machines[..self.nodes];
        let is_watched = machines.iter().any(is_well);
        for (at, machine) in machines.iter().enumerate() {
            let is_well = is_well(machine);
            let is_here = reads(state.engine.state[usize::from(machine.life)]);
            if is_well && !is_here {
                return Err(format!("{} lives, and nobody knows it", NAMES[at]));
            }
            if !is_well && is_here && is_watched {
                return Err(format!("{} is silent forever, and not taken for dead", NAMES[at]));
            }
            if is_well && machine.client == CLAIMING {
                return Err(format!("the client of {} is never answered", NAMES[at]));
            }
        }
        let owner = usize::from(state.engine.life);
        let is_free = state.engine.owner == 0 || state.engine.state[owner] == DOWN;
        if is_watched && !is_free && !reads(state.engine.state[owner]) {
            return Err("the name of a node that is dead is not free".to_string());
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

/// A client that has its name at a node that the engine knows is the name's owner.
fn two_owners(state: &State) -> Result<(), String> {
    for (at, machine) in state.machines.iter().enumerate() {
        let is_known =
            machine.process == RUNS && reads(state.engine.state[usize::from(machine.life)]);
        let owns = state.engine.owner == at as u8 + 1 && state.engine.life == machine.life;
        if is_known && machine.client == ACTIVE && !owns {
            return Err(format!("{} goes on with a name that is not its own", NAMES[at]));
        }
    }
    Ok(())
}
