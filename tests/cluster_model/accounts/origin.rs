//! A: its senders, its accounts and its budget.

use super::state::*;
use super::{Accounts, Rule};

type Done = Result<(), String>;

impl State {
    // ---- budget ---------------------------------------------------------------------------------

    fn has_room(&self, s: &Accounts, to: usize) -> bool {
        let total: u8 = self.a.used.iter().sum();
        let used = self.a.used[to];
        let share = s.of_one.min(s.in_all.saturating_sub(total) / 2);
        used < share || used == 0 && s.has(Rule::AlwaysOne)
    }

    /// Gives back what a line has taken, and tells whether somebody may go on.
    fn give_back(&mut self, to: usize) -> Done {
        if self.a.used[to] == 0 {
            return Err("more is given back than was taken".to_string());
        }
        self.a.used[to] -= 1;
        Ok(())
    }

    /// There is room again: senders that wait for it go on, as far as it suffices.
    fn go_on(&mut self, s: &Accounts, to: usize) -> Done {
        loop {
            let is_over = self.a.phase == LEAVES && s.has(Rule::DrainGoesOn);
            if self.a.waiting[to].is_empty() || !is_over && !self.has_room(s, to) {
                return Ok(());
            }
            let sender = usize::from(self.a.waiting[to].remove(0));
            for index in std::mem::take(&mut self.a.senders[sender].parked) {
                if s.has(Rule::LooksAgain) {
                    self.hear(s, sender, index)?;
                } else {
                    self.route(s, sender, index)?;
                }
            }
            if !s.has(Rule::WakesWhileRoom) {
                return Ok(());
            }
        }
    }

    pub fn all_go_on(&mut self, s: &Accounts) -> Done {
        (0..RECIPIENTS).try_for_each(|to| self.go_on(s, to))
    }

    // ---- senders --------------------------------------------------------------------------------

    /// The broker hears what a sender says.
    pub fn hear(&mut self, s: &Accounts, sender: usize, index: u8) -> Done {
        let what = s.says[sender][usize::from(index)];
        if !self.a.senders[sender].parked.is_empty() && s.has(Rule::ParkedBehind) {
            self.a.senders[sender].parked.push(index);
            return Ok(());
        }
        if what == SYNC {
            return self.ask(s, sender, index);
        }
        let waits = self.a.phase == RUNS || !s.has(Rule::DrainGoesOn);
        if waits && !self.has_room(s, usize::from(what)) {
            self.a.waiting[usize::from(what)].push(sender as u8);
            self.a.senders[sender].parked.push(index);
            return Ok(());
        }
        self.route(s, sender, index)
    }

    fn in_order(&mut self, sender: usize, index: u8) -> Done {
        if index < self.a.senders[sender].routed {
            return Err("a line overtakes one that waits for room".to_string());
        }
        self.a.senders[sender].routed = index + 1;
        Ok(())
    }

    fn route(&mut self, s: &Accounts, sender: usize, index: u8) -> Done {
        let to = s.says[sender][usize::from(index)];
        if to == SYNC {
            return self.ask(s, sender, index);
        }
        self.in_order(sender, index)?;
        let number = self.lines.len() as u8;
        self.lines.push(Line {
            sender: sender as u8,
            to,
            account: OPEN_YET,
            received: 0,
            of: 0,
            lost_at_b: false,
            handled_at_b: false,
            told: false,
            excused: false,
        });
        self.a.accounts.push(Account { number, place: UNKNOWN, is_handled: false, is_paid: true });
        self.a.egress.push(number);
        self.a.owed += 1;
        self.a.used[usize::from(to)] += 1;
        let total: u8 = self.a.used.iter().sum();
        let is_too_much = self.a.used[usize::from(to)] > s.of_one;
        if self.a.phase == RUNS && (is_too_much || total > s.in_all + RECIPIENTS as u8) {
            return Err("more is on its way than may be".to_string());
        }
        Ok(())
    }

    fn ask(&mut self, s: &Accounts, sender: usize, index: u8) -> Done {
        self.in_order(sender, index)?;
        self.a.senders[sender].asks = true;
        self.answer(s, sender)
    }

    fn is_open(&self, s: &Accounts, sender: usize) -> bool {
        self.a.accounts.iter().any(|account| {
            usize::from(self.lines[usize::from(account.number)].sender) == sender
                && (s.has(Rule::WaitsForEnds) || !account.is_handled)
        })
    }

    /// Answers a `/sync`, if nothing of its sender is open.
    fn answer(&mut self, s: &Accounts, sender: usize) -> Done {
        if !self.a.senders[sender].asks || self.is_open(s, sender) {
            return Ok(());
        }
        let me = &mut self.a.senders[sender];
        me.asks = false;
        let outcome = if std::mem::take(&mut me.unsure) {
            NOT_CONFIRMED
        } else if std::mem::take(&mut me.lost) {
            OR_LOST
        } else {
            DELIVERED
        };
        if outcome == NOT_CONFIRMED && s.is_calm() {
            return Err("a /sync is not confirmed, though all is known".to_string());
        }
        for line in self.lines.iter_mut().filter(|line| usize::from(line.sender) == sender) {
            let is_received = line.handled_at_b && line.received == line.of;
            let is_known = is_received || line.excused || line.told && outcome == OR_LOST;
            if outcome != NOT_CONFIRMED && !is_known {
                return Err("a /sync confirms what is lost or on its way".to_string());
            }
            line.excused |= outcome != DELIVERED;
        }
        Ok(())
    }

    /// What a change of accounts means for senders that wait.
    fn note_changes(&mut self, s: &Accounts) -> Done {
        self.answer(s, 0)?;
        self.answer(s, 1)?;
        self.all_go_on_as_far(s)
    }

    fn all_go_on_as_far(&mut self, s: &Accounts) -> Done {
        (0..RECIPIENTS).try_for_each(|to| {
            let is_freed = std::mem::take(&mut self.a.freed[to]);
            if is_freed { self.go_on(s, to) } else { Ok(()) }
        })
    }

    // ---- accounts -------------------------------------------------------------------------------

    fn settle(&mut self, s: &Accounts, to: usize) -> Done {
        self.give_back(to)?;
        self.a.freed[to] |= !self.a.waiting[to].is_empty() && self.has_room(s, to);
        Ok(())
    }

    fn close(&mut self, s: &Accounts, number: u8, end: u8) -> Done {
        let Some(at) = self.a.accounts.iter().position(|account| account.number == number) else {
            return Ok(());
        };
        let account = self.a.accounts.remove(at);
        let line = &mut self.lines[usize::from(number)];
        line.account = end;
        let to = usize::from(line.to);
        let is_owed = account.is_paid || !s.has(Rule::GivenBackOnce);
        if is_owed && (end == FINISHED || s.has(Rule::EndsGiveBack)) {
            self.settle(s, to)?;
        }
        Ok(())
    }

    /// A sender hears that its line is in doubt, or lost.
    fn tell(&mut self, s: &Accounts, number: u8) {
        let line = &mut self.lines[usize::from(number)];
        let sender = &mut self.a.senders[usize::from(line.sender)];
        if line.to == ROOM {
            sender.unsure |= s.has(Rule::RoomDoubt);
        } else {
            line.told = true;
            sender.lost = true;
        }
    }

    fn give_up(&mut self, s: &Accounts, account: Account, in_doubt: bool) -> Done {
        if account.is_handled && s.has(Rule::GivenUpOnce) {
            self.a.handed_over -= 1;
        }
        if in_doubt {
            self.a.in_doubt += 1;
        } else {
            self.a.lost += 1;
        }
        if s.has(Rule::GoneTells) {
            self.tell(s, account.number);
        }
        self.close(s, account.number, if in_doubt { DOUBT } else { LOST })
    }

    fn at_b(&self) -> Vec<Account> {
        self.a.accounts.iter().copied().filter(|account| account.place == AT_B).collect()
    }

    /// A reads one entry of its inbox.
    pub fn read(&mut self, s: &Accounts) -> Done {
        let entry = self.inbox_a.remove(0);
        match entry.kind {
            PLACED => {
                let place = entry.b;
                let account = self.a.accounts.iter_mut().find(|it| it.number == entry.a);
                match account.filter(|it| !it.is_handled) {
                    Some(account) if place != ABSENT => account.place = place,
                    Some(_) => {
                        // "no such peer"; or a room without members.
                        self.lines[usize::from(entry.a)].excused = true;
                        self.a.owed -= 1;
                        self.close(s, entry.a, REFUSED)?;
                    }
                    None => {}
                }
            }
            ACK => self.acknowledged(s, entry)?,
            EVENT => {
                self.a.knows_b = false;
                for account in self.at_b() {
                    if entry.a == REAPED || !account.is_handled {
                        if entry.a == REAPED || s.has(Rule::DownCloses) {
                            self.give_up(s, account, true)?;
                        }
                    } else if s.has(Rule::DownCloses) {
                        self.tell(s, account.number);
                        self.close(s, account.number, UNCONFIRMED)?;
                    }
                }
            }
            HOLD_OVER => {
                // It takes the line over from itself, and names it.
                let line = &mut self.lines[usize::from(entry.a)];
                (line.handled_at_b, line.lost_at_b) = (true, true);
                if self.a.accounts.iter().any(|it| it.number == entry.a) {
                    self.a.handed_over += 1;
                    self.tell(s, entry.a);
                    self.close(s, entry.a, FINISHED)?;
                }
            }
            _ => self.opened(s, entry.a != 0)?,
        }
        self.note_changes(s)
    }

    fn acknowledged(&mut self, s: &Accounts, told: Entry) -> Done {
        let Entry { a: handled, b: settled, c: finished, d: lost, .. } = told;
        for number in (0..self.lines.len() as u8).filter(|number| lost & bit(*number) != 0) {
            let line = &mut self.lines[usize::from(number)];
            line.told = true;
            self.a.senders[usize::from(line.sender)].lost = true;
        }
        for account in self.a.accounts.clone() {
            let number = bit(account.number);
            let at = self.a.accounts.iter().position(|it| it.number == account.number);
            let Some(at) = at else { continue };
            if (handled | finished) & number != 0 {
                self.a.accounts[at].place = AT_B;
                if !std::mem::replace(&mut self.a.accounts[at].is_handled, true) {
                    self.a.handed_over += 1;
                }
            }
            if settled & number != 0 && std::mem::take(&mut self.a.accounts[at].is_paid) {
                self.settle(s, usize::from(self.lines[usize::from(account.number)].to))?;
            }
            if finished & number != 0 {
                self.close(s, account.number, FINISHED)?;
            }
        }
        Ok(())
    }

    /// All nodes that live have entered the new incarnation.
    fn opened(&mut self, s: &Accounts, b_is_in: bool) -> Done {
        self.a.egress.clear();
        let all_known = !self.a.knows_b || b_is_in;
        for account in self.a.accounts.clone() {
            let was_sent = account.number < self.a.sent;
            let may_be_gone = match account.place {
                AT_B => !b_is_in,
                _ => !all_known && was_sent,
            };
            if may_be_gone {
                self.give_up(s, account, true)?;
            } else if !account.is_handled {
                self.a.egress.push(account.number);
            }
        }
        for account in self.a.accounts.iter_mut().filter(|account| !account.is_handled) {
            account.place = UNKNOWN;
        }
        self.a.knows_b = b_is_in;
        self.a.is_paused = false;
        Ok(())
    }

    // ---- ends -----------------------------------------------------------------------------------

    /// The engine has forgotten, and notices may be lost with it.
    pub fn enter_a(&mut self, s: &Accounts) {
        self.a.has_entered = true;
        self.a.is_paused = true;
        for sender in 0..2 {
            let is_open = self.is_open(s, sender);
            self.a.senders[sender].unsure |= is_open && s.has(Rule::ForgottenNotices);
        }
    }

    /// A was taken for dead, and begins a new life: nothing is acknowledged to the old one.
    pub fn fenced(&mut self, s: &Accounts) -> Done {
        for account in self.a.accounts.clone() {
            if account.is_handled {
                self.close(s, account.number, UNCONFIRMED)?;
            } else {
                self.give_up(s, account, account.number < self.a.sent)?;
            }
        }
        self.a.egress.clear();
        self.inbox_a.clear();
        self.a.old = self.lines.len() as u8;
        self.a.knows_b = self.b.phase <= LEAVES;
        for sender in &mut self.a.senders {
            sender.asks = false;
            sender.unsure |= s.has(Rule::FencedUnsure);
        }
        for line in self.lines.iter_mut().filter(|_| s.has(Rule::FencedUnsure)) {
            line.excused |= line.told;
        }
        self.note_changes(s)
    }

    /// The end of A, and its report.
    pub fn finish(&mut self, s: &Accounts) -> Done {
        self.a.phase = ENDED;
        if self.a.senders.iter().any(|sender| !sender.parked.is_empty()) {
            return Err("what waits for room is lost, and nobody names it".to_string());
        }
        for account in self.a.accounts.clone() {
            match account.place {
                AT_B if account.is_handled => {
                    if s.has(Rule::Unconfirmed) {
                        self.close(s, account.number, UNCONFIRMED)?;
                    }
                }
                HELD => {
                    self.a.handed_over += 1;
                    self.close(s, account.number, UNCONFIRMED)?;
                }
                _ => {
                    let was_sent = account.number < self.a.sent && s.has(Rule::DoubtIfSent);
                    self.give_up(s, account, was_sent)?;
                }
            }
        }
        self.a.egress.clear();
        self.inbox_a.clear();
        Ok(())
    }
}
