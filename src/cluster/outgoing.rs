//! What this node has forwarded to names that are not local: one account for each delivery, from the
//! moment its line is routed until its receiver has told what became of it. Pure state, owned by the
//! broker.
//!
//! At every moment one node answers for a delivery: the origin until the receiver's broker has
//! handled it, the receiver from then on. What is kept here after that is for notices, windows and
//! for the case that the receiver dies.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::cluster::budget::Budget;
use crate::cluster::engine::{Life, Place, Recipient, Session};
use crate::cluster::pages::Pages;
use crate::cluster::ranges::{Acknowledgement, Ranges};
use crate::wire::loss::{LossReason, LostLines};
use crate::wire::name::{Name, NameKey};

/// One delivery. `P` is what has to be kept to send it, and holds its sender's charge.
#[derive(Debug)]
pub(crate) struct Account<P> {
    pub(crate) name: Recipient,
    /// The session that sent it.
    pub(crate) sender: Session,
    pub(crate) first_line: u64,
    pub(crate) messages: u32,
    pub(crate) bytes: usize,
    /// Until it is settled.
    pub(crate) payload: Option<P>,
    pub(crate) place: Place,
    pub(crate) is_handled: bool,
    /// A later delivery for the same name was handled before this one.
    pub(crate) was_passed: bool,
    /// Its sender's replies do not wait for it any more.
    pub(crate) was_answered: bool,
}

impl<P> Account<P> {
    fn is_at(&self, life: &Life) -> bool {
        matches!(&self.place, Place::At(at) | Place::Moved(at) if at == life)
    }
}

/// What has become of deliveries, in messages: those to clients, and the copies of rooms' messages
/// for other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) clients: Sums,
    pub(crate) rooms: Sums,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Owed to a session of another node, or to one that moves.
    pub(crate) owed: u64,
    /// The account is another node's, or a hold's.
    pub(crate) handed_over: u64,
    /// They may have arrived.
    pub(crate) in_doubt: u64,
    /// They were never sent.
    pub(crate) lost: u64,
}

impl Tally {
    fn of(&mut self, recipient: &Recipient) -> &mut Sums {
        match recipient {
            Recipient::Client(_) => &mut self.clients,
            Recipient::Room(..) => &mut self.rooms,
        }
    }
}

/// Lines that another node has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostElsewhere {
    pub(crate) sender: Session,
    pub(crate) name: Name,
    pub(crate) lines: LostLines,
    pub(crate) reason: LossReason,
}

/// A delivery that nobody will answer for any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsettled {
    pub(crate) name: Recipient,
    pub(crate) sender: Session,
    pub(crate) first_line: u64,
    pub(crate) messages: u32,
    /// The life that may have it.
    pub(crate) at: Option<Life>,
    /// False if it was never sent: then it is lost for certain.
    pub(crate) in_doubt: bool,
    /// Its sender's replies did not wait for it any more.
    pub(crate) was_answered: bool,
}

/// What a life has left that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// It had taken these over, and accounts for them.
    pub(crate) unconfirmed: Vec<Unsettled>,
    pub(crate) in_doubt: Vec<(u64, Unsettled)>,
}

/// Messages that were handed over and are not known to be delivered or lost, by the life that has
/// them; `None` stands for a hold.
pub(crate) type Unconfirmed = BTreeMap<Option<Life>, u64>;

/// All accounts.
#[derive(Debug)]
pub(crate) struct Outgoing<P> {
    next: u64,
    accounts: Pages<Account<P>>,
    /// By name, the deliveries that are not handled, in order.
    on_the_way: HashMap<NameKey, VecDeque<u64>, RandomState>,
    /// All of those.
    unhandled: Ranges,
    /// How many of them have no known place.
    unplaced: usize,
    tally: Tally,
    /// Of lives that have ended: what they had taken over and have told no end of.
    unconfirmed: Unconfirmed,
    /// How many accounts each session has.
    open: HashMap<Session, usize, RandomState>,
    /// Sessions that have none since this was last asked.
    closed: Vec<Session>,
    pub(crate) budget: Budget,
}

impl<P> Default for Outgoing<P> {
    fn default() -> Self {
        Self {
            next: 1,
            accounts: Pages::default(),
            on_the_way: HashMap::default(),
            unhandled: Ranges::default(),
            unplaced: 0,
            tally: Tally::default(),
            unconfirmed: Unconfirmed::new(),
            open: HashMap::default(),
            closed: Vec::new(),
            budget: Budget::default(),
        }
    }
}

impl<P> Outgoing<P> {
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether something for this name is not handled: then whatever follows has to go the same way.
    pub(crate) fn is_on_the_way(&self, name: &[u8]) -> bool {
        !self.on_the_way.is_empty() && self.on_the_way.contains_key(name)
    }

    /// The lowest number that may have to be sent again.
    pub(crate) fn lowest(&self) -> u64 {
        self.unhandled.first().unwrap_or(self.next)
    }

    /// The next delivery's number.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// Whether something that this session has sent is not known to be delivered or lost.
    pub(crate) fn is_open(&self, session: Session) -> bool {
        self.open.contains_key(&session)
    }

    /// The sessions of which everything is known since this was last asked.
    pub(crate) fn take_closed(&mut self) -> Vec<Session> {
        std::mem::take(&mut self.closed)
    }

    /// Takes an account out, and its share of all sums that it is part of.
    fn close(&mut self, number: u64) -> Option<Account<P>> {
        let account = self.accounts.remove(number)?;
        if account.payload.is_some() {
            self.budget.release(&account.name, account.bytes);
        }
        if let Some(open) = self.open.get_mut(&account.sender) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&account.sender);
                self.closed.push(account.sender);
            }
        }
        Some(account)
    }

    /// True if nothing waits to be handled but what is held for clients that move.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.unplaced == 0
            && self.unhandled.iter().flatten().all(|number| {
                self.accounts.get(number).is_none_or(|account| account.place == Place::Held)
            })
    }

    /// Opens an account, and returns its number. `is_awaited` says whether replies to its sender wait
    /// for its place.
    pub(crate) fn open(
        &mut self,
        name: Recipient,
        sender: Session,
        first_line: u64,
        messages: u32,
        (bytes, payload): (usize, P),
        is_awaited: bool,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        if let Some(name) = name.client() {
            self.on_the_way.entry(NameKey(name.clone())).or_default().push_back(number);
        }
        self.unhandled.insert(number);
        self.unplaced += 1;
        *self.open.entry(sender).or_default() += 1;
        self.budget.charge(&name, bytes);
        // Taken back if nobody has the name.
        self.tally.of(&name).owed += u64::from(messages);
        let account = Account {
            name,
            sender,
            first_line,
            messages,
            bytes,
            payload: Some(payload),
            place: Place::Unknown,
            is_handled: false,
            was_passed: false,
            was_answered: !is_awaited,
        };
        self.accounts.insert(number, account);
        number
    }

    /// Notes where deliveries are; returns those for whose name there is nobody.
    pub(crate) fn placed(
        &mut self,
        first: u64,
        last: u64,
        places: &[(Recipient, Option<Place>)],
    ) -> Vec<(u64, Account<P>)> {
        let places: HashMap<&Recipient, &Option<Place>, RandomState> =
            places.iter().map(|(name, place)| (name, place)).collect();
        let mut absent: Vec<u64> = Vec::new();
        if first > last {
            return Vec::new();
        }
        for (number, account) in self.accounts.range_mut(first..=last) {
            if account.is_handled {
                continue;
            }
            match places.get(&account.name) {
                None => {}
                // Word of the move overtook this answer.
                Some(Some(Place::Held)) if matches!(account.place, Place::Moved(_)) => {}
                Some(Some(place)) => {
                    self.unplaced -= usize::from(account.place == Place::Unknown);
                    account.place = place.clone();
                }
                Some(None) => absent.push(number),
            }
        }
        absent.into_iter().filter_map(|number| Some((number, self.refuse(number)?))).collect()
    }

    /// The deliveries in this range that have a place now and had none when this was last asked, and
    /// their senders.
    pub(crate) fn newly_placed(
        &mut self,
        numbers: std::ops::RangeInclusive<u64>,
    ) -> Vec<(u64, Session)> {
        if numbers.is_empty() {
            return Vec::new();
        }
        let accounts = self.accounts.range_mut(numbers);
        let placed = accounts.filter_map(|(number, account)| {
            let is_new = account.place != Place::Unknown && !account.was_answered;
            account.was_answered |= is_new;
            is_new.then_some((number, account.sender))
        });
        placed.collect()
    }

    fn refuse(&mut self, number: u64) -> Option<Account<P>> {
        self.arrived_somewhere(number);
        let account = self.close(number)?;
        self.tally.of(&account.name).owed -= u64::from(account.messages);
        Some(account)
    }

    /// Notes that deliveries which were held lie with this life now.
    pub(crate) fn moved(&mut self, life: &Life, numbers: &[u64]) {
        for number in numbers {
            if let Some(account) = self.accounts.get_mut(*number) {
                if !account.is_handled {
                    self.unplaced -= usize::from(account.place == Place::Unknown);
                    account.place = Place::Moved(life.clone());
                }
            }
        }
    }

    /// Takes a delivery off its name's way. Those before it for the same name are somewhere else,
    /// and would be out of order if they were sent again.
    fn arrived_somewhere(&mut self, number: u64) {
        if !self.unhandled.remove(number) {
            return;
        }
        let Some(account) = self.accounts.get_mut(number) else { return };
        self.unplaced -= usize::from(account.place == Place::Unknown);
        let Some(name) = account.name.client().map(|name| name.as_str().as_bytes()) else { return };
        let Some(queue) = self.on_the_way.get_mut(name) else { return };
        let Some(at) = queue.iter().position(|waiting| *waiting == number) else { return };
        queue.remove(at);
        let before: Vec<u64> = queue.iter().take(at).copied().collect();
        if queue.is_empty() {
            self.on_the_way.remove(name);
        }
        for number in before {
            if let Some(account) = self.accounts.get_mut(number) {
                account.was_passed = true;
            }
        }
    }

    /// Notes what a life has told; returns the lines that it has lost.
    pub(crate) fn acknowledged(
        &mut self,
        from: &Life,
        told: &Acknowledgement,
    ) -> Vec<LostElsewhere> {
        let lost = told.lost.iter().filter_map(|(number, messages, reason)| {
            let account = self.accounts.get(*number)?;
            let (first, count) = (account.first_line, u64::from(*messages));
            let name = account.name.client()?.clone();
            let last = first + u64::from(account.messages.max(1)) - 1;
            let lines = LostLines { first, last, count };
            Some(LostElsewhere { sender: account.sender, name, lines, reason: reason.clone() })
        });
        let lost = lost.collect();
        // What is finished was handled, whichever is told first.
        for number in told.handled.iter().chain(told.finished.iter()).flatten() {
            self.arrived_somewhere(number);
            if let Some(account) = self.accounts.get_mut(number) {
                if !account.is_at(from) {
                    account.place = Place::At(from.clone());
                }
                account.was_answered = true;
                if !std::mem::replace(&mut account.is_handled, true) {
                    self.tally.of(&account.name).handed_over += u64::from(account.messages);
                }
            }
        }
        for number in told.settled.iter().flatten() {
            if let Some(account) = self.accounts.get_mut(number) {
                if account.payload.take().is_some() {
                    self.budget.release(&account.name, account.bytes);
                }
            }
        }
        for number in told.finished.iter().flatten() {
            self.close(number);
        }
        lost
    }

    /// A life was reaped: what lies with it, and is not known to be delivered or lost, is in doubt.
    pub(crate) fn gone(&mut self, life: &Life) -> Vec<(u64, Unsettled)> {
        let numbers = self.numbers(|it| it.is_at(life));
        numbers.into_iter().filter_map(|number| self.give_up(number, true)).collect()
    }

    /// A life has ended by itself: it accounts for what it had taken over, so that stays handed over,
    /// without word of its end. What it had not is in doubt, as if it was reaped.
    pub(crate) fn ended(&mut self, life: &Life) -> Ended {
        let taken_over = self.numbers(|it| it.is_at(life) && it.is_handled);
        let unconfirmed =
            taken_over.into_iter().filter_map(|number| self.leave_unconfirmed(number)).collect();
        Ended { unconfirmed, in_doubt: self.gone(life) }
    }

    fn numbers(&self, is_wanted: impl Fn(&Account<P>) -> bool) -> Vec<u64> {
        let wanted = self.accounts.iter().filter(|(_, account)| is_wanted(account));
        wanted.map(|(number, _)| number).collect()
    }

    /// Closes the account of something that was handed over, and whose end will not be heard of.
    fn leave_unconfirmed(&mut self, number: u64) -> Option<Unsettled> {
        let account = self.close(number)?;
        let Account { name, sender, first_line, messages, place, was_answered, .. } = account;
        let at = place.life();
        *self.unconfirmed.entry(at.clone()).or_default() += u64::from(messages);
        let in_doubt = true;
        Some(Unsettled { name, sender, first_line, messages, at, in_doubt, was_answered })
    }

    /// Ends an account about which nothing more will be heard.
    fn give_up(&mut self, number: u64, in_doubt: bool) -> Option<(u64, Unsettled)> {
        self.arrived_somewhere(number);
        let account = self.close(number)?;
        let messages = u64::from(account.messages);
        let sums = self.tally.of(&account.name);
        if account.is_handled {
            sums.handed_over -= messages;
        }
        let total = if in_doubt { &mut sums.in_doubt } else { &mut sums.lost };
        *total += messages;
        let Account { name, sender, first_line, messages, place, was_answered, .. } = account;
        let at = place.life();
        let unsettled =
            Unsettled { name, sender, first_line, messages, at, in_doubt, was_answered };
        Some((number, unsettled))
    }

    /// A new incarnation of the engine is open: returns what to send again, in order, and what cannot
    /// be sent again since nobody knows whether it has arrived.
    ///
    /// `lives` have entered, and `all_known` says whether these are all of which this node knew.
    /// Deliveries above `sent` have never left this node. `is_here` says whether a session still
    /// speaks here.
    pub(crate) fn send_again(
        &mut self,
        lives: &BTreeSet<Life>,
        all_known: bool,
        sent: u64,
        is_here: impl Fn(Session) -> bool,
    ) -> (Vec<u64>, Vec<(u64, Unsettled)>) {
        let (mut again, mut doubtful) = (Vec::new(), Vec::new());
        for (number, account) in self.accounts.iter_mut() {
            let was_sent = number <= sent;
            let may_be_gone = match &account.place {
                Place::At(life) | Place::Moved(life) => !lives.contains(life),
                Place::Unknown | Place::Held => !all_known && was_sent,
            };
            let has_left = was_sent && !account.is_handled && !is_here(account.sender);
            let passed = account.was_passed && !account.is_handled;
            if may_be_gone || has_left || passed {
                doubtful.push(number);
            } else if !account.is_handled {
                again.push(number);
                if account.place != Place::Unknown {
                    account.place = Place::Unknown;
                    self.unplaced += 1;
                }
            }
        }
        let doubtful = doubtful.into_iter().filter_map(|number| self.give_up(number, true));
        (again, doubtful.collect())
    }

    /// This life was fenced: nobody will acknowledge anything to it any more.
    pub(crate) fn fenced(&mut self, sent: u64) -> Vec<(u64, Unsettled)> {
        for number in self.numbers(|it| it.is_handled) {
            self.leave_unconfirmed(number);
        }
        let numbers = self.numbers(|_| true);
        numbers.into_iter().filter_map(|number| self.give_up(number, number <= sent)).collect()
    }

    /// The end of this node: what is not handled is lost if it was never sent, in doubt if it may lie
    /// anywhere, and handed over if it is held. Returns the first two, and by place how many messages
    /// were handed over and are not known to be delivered or lost; `None` stands for a hold.
    pub(crate) fn finish(&mut self, sent: u64) -> (Vec<(u64, Unsettled)>, Unconfirmed) {
        let mut unconfirmed = std::mem::take(&mut self.unconfirmed);
        let (mut open, mut dropped) = (Vec::new(), Vec::new());
        for (number, account) in self.accounts.iter_mut() {
            let messages = u64::from(account.messages);
            match &account.place {
                Place::At(life) | Place::Moved(life) if account.is_handled => {
                    *unconfirmed.entry(Some(life.clone())).or_default() += messages;
                }
                // For members of a room, who were in it until their node let them go.
                Place::Held if account.name.client().is_none() => dropped.push(number),
                Place::Held => {
                    self.tally.of(&account.name).handed_over += messages;
                    account.is_handled = true;
                    *unconfirmed.entry(None).or_default() += messages;
                }
                Place::Moved(life) => {
                    self.tally.of(&account.name).handed_over += messages;
                    account.is_handled = true;
                    *unconfirmed.entry(Some(life.clone())).or_default() += messages;
                }
                Place::At(_) | Place::Unknown => open.push(number),
            }
        }
        for number in dropped {
            self.refuse(number);
        }
        let unsettled =
            open.into_iter().filter_map(|number| self.give_up(number, number <= sent)).collect();
        (unsettled, unconfirmed)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Account<P>> {
        self.accounts.get(number)
    }
}
