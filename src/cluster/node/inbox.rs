//! What the entries of a node's inbox mean for its state. Runs on the broker's thread.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{Login, Node, Standing};
use crate::cluster::engine::{ALL_MEMBERS, Entry, Life, LifeState, Place, Recipient};
use crate::cluster::orders::{Delivery, Effect, Order};
use crate::cluster::outgoing::{Ended, LostElsewhere, Unsettled};
use crate::cluster::parcel::Arrived;
use crate::cluster::ranges::{Acknowledgement, Ranges};
use crate::wire::batch::Frames;
use crate::wire::loss::LossReason;
use crate::wire::name::Name;

impl<R, C: Clone> Node<R, C> {
    /// Reads one entry of the inbox.
    pub(crate) fn read(&mut self, entry: Entry, effects: &mut Vec<Effect>) {
        match entry {
            Entry::Message { origin, pieces, frames } => {
                self.receive(origin, pieces, &frames, effects);
            }
            Entry::Placed { first, last, places } => self.placed(first, last, &places, effects),
            Entry::Moved { life, numbers } => self.outgoing.moved(&life, &numbers),
            Entry::Ack { from, text } => self.acknowledged(&from, &text, effects),
            Entry::Mark { session, claim, .. } => {
                if let Some(login) = self.logins.get_mut(&session) {
                    let before = std::mem::replace(&mut login.standing, Standing::Active { claim });
                    self.claiming -= usize::from(matches!(before, Standing::Claiming { .. }));
                    effects.push(Effect::LoggedIn { session });
                }
            }
            Entry::Taken { session } => {
                if let Some(Login { standing, .. }) = self.logins.remove(&session) {
                    self.claiming -= usize::from(matches!(standing, Standing::Claiming { .. }));
                    effects.push(Effect::LoginRefused { session, is_reachable: true });
                }
            }
            Entry::ClaimLater { session } => {
                if let Some(Login { standing: Standing::Claiming { again, .. }, .. }) =
                    self.logins.get_mut(&session)
                {
                    *again = true;
                }
            }
            Entry::Released => self.drain.released = true,
            Entry::ReleaseLater => self.drain.asked = false,
            Entry::Who { question, count, names } => {
                if let Some((session, _)) = self.questions.remove(&question) {
                    effects.push(Effect::Who { session, question, count, names });
                }
            }
            Entry::Room { room, lives, moved } => {
                self.seats.note(&room, lives);
                if let Some((name, has_joined)) = moved {
                    effects.push(Effect::Moved { room, name, has_joined });
                }
            }
            Entry::Event { life, state } => self.heard_of(life, state, effects),
            Entry::Open { lives } => self.opened(lives, effects),
            Entry::HoldOver { name, origin, pieces } => {
                self.hold_over(&name, &origin, pieces, effects);
            }
            // A ping is ingress' own; what cannot be read changes nothing.
            Entry::Ping { .. } | Entry::Unreadable => {}
        }
        self.note_changes(effects);
    }

    /// Notes where deliveries are, and answers their senders.
    fn placed(
        &mut self,
        first: u64,
        last: u64,
        places: &[(Recipient, Option<Place>)],
        effects: &mut Vec<Effect>,
    ) {
        for (number, account) in self.outgoing.placed(first, last, places) {
            let Recipient::Client(name) = &account.name else { continue };
            let name = name.as_str().as_bytes();
            if !account.was_answered {
                self.answers.answered(account.sender, number, Some(name));
                effects.push(Effect::Answered { session: account.sender });
            }
        }
        self.answered(first..=last, effects);
    }

    /// What a change of accounts means for senders that wait.
    fn note_changes(&mut self, effects: &mut Vec<Effect>) {
        for session in self.outgoing.take_closed() {
            // It may have sent more in the meantime.
            if !self.outgoing.is_open(session) && self.asking.remove(&session) {
                effects.push(Effect::Accounted { session });
            }
        }
        effects.extend(self.outgoing.budget.take_freed().into_iter().map(Effect::Freed));
    }

    /// Answers the senders of deliveries whose place was just told.
    fn answered(&mut self, numbers: RangeInclusive<u64>, effects: &mut Vec<Effect>) {
        if self.answers.is_empty() {
            return;
        }
        let mut senders = Vec::new();
        for (number, sender) in self.outgoing.newly_placed(numbers) {
            self.answers.answered(sender, number, None);
            senders.push(sender);
        }
        // Many lines of few clients are told together, and each client once.
        senders.sort_unstable();
        senders.dedup();
        effects.extend(senders.into_iter().map(|session| Effect::Answered { session }));
    }

    fn receive(
        &mut self,
        origin: Life,
        pieces: Vec<Arrived>,
        frames: &Frames,
        effects: &mut Vec<Effect>,
    ) {
        let handled = self.handled.entry(origin.clone()).or_default();
        let (mut numbers, mut lowest) = (Ranges::default(), 0);
        for piece in pieces {
            lowest = lowest.max(piece.lowest);
            let piece = Arc::new(piece);
            for &(number, session) in &piece.deliveries {
                // Also when it came before: the acknowledgement may be lost with the engine.
                numbers.insert(number);
                if !handled.insert(number) {
                    continue;
                }
                let delivery = Delivery {
                    session,
                    origin: origin.clone(),
                    number,
                    piece: Arc::clone(&piece),
                    frames: Arc::clone(frames),
                };
                effects.push(if session == ALL_MEMBERS {
                    self.room_copies += u64::from(piece.messages);
                    Effect::Spread(delivery)
                } else {
                    self.arrived += u64::from(piece.messages);
                    Effect::Deliver(delivery)
                });
            }
        }
        handled.forget_below(lowest);
        self.orders.push(Order::Handled { origin, numbers, lowest });
    }

    fn acknowledged(&mut self, from: &Life, text: &str, effects: &mut Vec<Effect>) {
        let Some(told) = Acknowledgement::parse(text) else { return };
        for number in told.handled.iter().flatten() {
            if let Some(account) = self.outgoing.get(number).filter(|it| !it.was_answered) {
                self.answers.answered(account.sender, number, None);
                effects.push(Effect::Answered { session: account.sender });
            }
        }
        let known = self.told.entry(from.clone()).or_default();
        for lost in &told.told {
            if lost.serial > *known {
                *known = lost.serial;
                effects.push(Effect::Lost(LostElsewhere {
                    sender: lost.session,
                    name: lost.recipient.clone(),
                    lines: lost.lines,
                    reason: lost.reason.clone(),
                }));
            }
        }
        let lost = self.outgoing.acknowledged(from, &told);
        effects.extend(lost.into_iter().map(Effect::Lost));
    }

    fn hold_over(
        &mut self,
        name: &Name,
        origin: &Life,
        pieces: Vec<Arrived>,
        effects: &mut Vec<Effect>,
    ) {
        for piece in pieces {
            for (number, _) in piece.deliveries {
                let handled = self.handled.entry(origin.clone()).or_default();
                if handled.insert(number) {
                    self.arrived += u64::from(piece.messages);
                    effects.push(Effect::HoldOver {
                        name: name.clone(),
                        origin: origin.clone(),
                        messages: piece.messages,
                    });
                }
                let mut numbers = Ranges::default();
                numbers.insert(number);
                let lowest = piece.lowest;
                self.orders.push(Order::Handled { origin: origin.clone(), numbers, lowest });
                let (origin, messages) = (origin.clone(), piece.messages);
                self.orders.push(Order::Settled { origin: origin.clone(), number });
                let reason = LossReason::DidNotComeBack;
                self.orders.push(Order::Lost { origin, number, messages, reason });
            }
        }
    }

    fn heard_of(&mut self, life: Life, state: LifeState, effects: &mut Vec<Effect>) {
        match state {
            LifeState::Here | LifeState::Leaving | LifeState::Cut | LifeState::Released => {
                self.known.insert(life);
            }
            LifeState::Down => {
                self.known.remove(&life);
                self.told.remove(&life);
                let Ended { unconfirmed, in_doubt } = self.outgoing.ended(&life);
                // Before it is said that everything is accounted for.
                effects.extend(unconfirmed.into_iter().map(Effect::Unconfirmed));
                self.unsettled(in_doubt, effects);
            }
            LifeState::Reaped => {
                self.known.remove(&life);
                self.told.remove(&life);
                let gone = self.outgoing.gone(&life);
                self.unsettled(gone, effects);
            }
        }
    }

    pub(super) fn unsettled(&mut self, gone: Vec<(u64, Unsettled)>, effects: &mut Vec<Effect>) {
        for (number, unsettled) in gone {
            let session = unsettled.sender;
            if !unsettled.was_answered {
                self.answers.answered(session, number, None);
                effects.push(Effect::Answered { session });
            }
            effects.push(Effect::Unsettled(unsettled));
        }
        self.note_changes(effects);
    }
}
