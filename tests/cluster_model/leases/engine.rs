//! What a node says to the engine, what the engine's scripts do with it, and what time does.

use super::*;

pub fn reads(state: u8) -> bool {
    state == HERE || state == LEAVING
}

impl State {
    pub fn append(&mut self, life: usize, kind: u8, counter: u8) {
        if reads(self.engine.state[life]) {
            self.engine.inbox[life].push(Entry { kind, counter });
        }
    }

    /// Whether a machine brings something to the engine.
    pub fn speaks(&self, at: usize) -> bool {
        let machine = &self.machines[at];
        machine.process == RUNS && !machine.away && !self.engine.stands_still
    }

    /// `claim.lua` and `free.lua`. False if the life is not known.
    pub fn run(&mut self, s: &Leases, life: usize, kind: u8) -> Result<bool, String> {
        let state = self.engine.state[life];
        if !reads(state) {
            if s.has(Rule::Fenced) {
                return Ok(false);
            }
            return Err("a command of a life that was taken for dead has run".to_string());
        }
        let client = (life % NODES) as u8 + 1;
        if kind == FREE {
            if self.engine.owner == client && usize::from(self.engine.life) == life {
                self.engine.owner = 0;
            }
            return Ok(true);
        }
        let holder = usize::from(self.engine.life);
        if self.engine.owner != 0 && !(self.engine.owner == client && holder == life) {
            let seen = self.machines[life % NODES].seen[holder];
            let is_overdue = seen.known && seen.still >= OVERDUE && s.has(Rule::Overdue);
            match self.engine.state[holder] {
                LEAVING => {
                    self.append(life, LATER, 0);
                    return Ok(true);
                }
                HERE if is_overdue => {
                    self.append(life, LATER, 0);
                    return Ok(true);
                }
                HERE => {
                    let is_prompt = s.stops + s.cuts + s.freezes == 0;
                    if is_prompt && self.silent[holder] >= LEASE {
                        return Err("a dead node's name is refused, as if it lived".to_string());
                    }
                    self.append(life, TAKEN, 0);
                    return Ok(true);
                }
                _ => {}
            }
        }
        (self.engine.life, self.engine.owner) = (life as u8, client);
        self.append(life, MARK, 0);
        Ok(true)
    }

    /// `renew.lua`, and the look at the others.
    pub fn renew(&mut self, s: &Leases, at: usize) {
        let life = usize::from(self.machines[at].life);
        self.machines[at].renewed = true;
        if !reads(self.engine.state[life]) {
            self.machines[at].fenced = self.engine.state[life] != DOWN || s.has(Rule::Told);
            return;
        }
        if self.machines[at].pinged == self.machines[at].counter || !s.has(Rule::Hears) {
            self.engine.counter[life] += 1;
            let counter = self.engine.counter[life];
            self.append(life, PING, counter);
            self.silent[life] = 0;
            self.machines[at].counter = counter;
        }
        let is_late = self.machines[at].looked >= LATE && s.has(Rule::LateLook);
        self.machines[at].looked = 0;
        for other in 0..LIVES {
            let seen = &mut self.machines[at].seen[other];
            if other == life || !reads(self.engine.state[other]) {
                *seen = Seen::default();
                continue;
            }
            let counter = self.engine.counter[other];
            if is_late || !seen.known || seen.counter != counter {
                *seen = Seen { known: true, counter, still: 0 };
            }
            if seen.still > LEASE {
                self.machines[at].reaps.push(Late { life: other as u8, kind: counter });
            }
        }
    }

    /// `reap.lua`.
    pub fn reap(&mut self, s: &Leases, at: usize) -> Result<(), String> {
        let Late { life, kind: counter } = self.machines[at].reaps.remove(0);
        let life = usize::from(life);
        if !reads(self.engine.state[usize::from(self.machines[at].life)]) {
            self.machines[at].fenced = true;
            return Ok(());
        }
        let is_seen = self.engine.counter[life] == counter || !s.has(Rule::Counter);
        if !reads(self.engine.state[life]) || !is_seen {
            return Ok(());
        }
        if self.silent[life] < LEASE {
            return Err("a node that renews its lease is taken for dead".to_string());
        }
        self.engine.inbox[life].clear();
        if self.engine.state[life] == LEAVING {
            self.engine.state[life] = DOWN;
        } else {
            self.engine.state[life] = GONE;
            if usize::from(self.engine.life) == life && s.has(Rule::Freed) {
                self.engine.owner = 0;
            }
        }
        Ok(())
    }

    pub fn read(&mut self, at: usize) {
        let life = usize::from(self.machines[at].life);
        let entry = self.engine.inbox[life].remove(0);
        let machine = &mut self.machines[at];
        match entry.kind {
            PING => machine.pinged = entry.counter,
            MARK if machine.client == CLAIMING => machine.client = ACTIVE,
            TAKEN if machine.client == CLAIMING => machine.client = REFUSED,
            LATER if machine.client == CLAIMING => machine.again = true,
            _ => {}
        }
    }

    /// A node that was fenced begins a new life, in which its client claims its name again.
    pub fn begin_again(&mut self, s: &Leases, at: usize) -> Result<(), String> {
        let machine = &mut self.machines[at];
        machine.life += NODES as u8;
        let life = usize::from(machine.life);
        if life >= LIVES {
            return Err("a node was fenced twice for one fault".to_string());
        }
        (machine.fenced, machine.counter, machine.pinged) = (false, 0, 0);
        machine.egress.clear();
        machine.again = false;
        if [CLAIMING, ACTIVE].contains(&machine.client) && s.has(Rule::ClaimAgain) {
            machine.client = CLAIMING;
            machine.egress.push(CLAIM);
        }
        self.engine.state[life] = if machine.leaving { LEAVING } else { HERE };
        Ok(())
    }

    /// An interval passes, on the clocks of those too that are stopped.
    pub fn tick(&mut self) {
        self.now += 1;
        for machine in &mut self.machines {
            machine.renewed = false;
            machine.looked = (machine.looked + 1).min(LATE);
            for seen in &mut machine.seen {
                seen.still = (seen.still + u8::from(seen.known)).min(LEASE + 1);
            }
            if std::mem::take(&mut machine.again) && machine.client == CLAIMING {
                machine.egress.push(CLAIM);
            }
        }
        for life in 0..LIVES {
            let is_heard = !self.engine.stands_still;
            self.silent[life] = (self.silent[life] + u8::from(is_heard)).min(END);
        }
    }
}
