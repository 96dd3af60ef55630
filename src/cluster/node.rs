//! A node's own state in its cluster: what it has forwarded, what it has handled of others, which
//! clients log in, and how far its drain is. Pure: events go in, effects for the broker and orders for
//! egress come out. Owned by the broker.
//!
//! Here is what the node's own clients do; `inbox` has what the engine says, `incarnation` what happens
//! when it has forgotten, `drain` how the node stops.

mod drain;
mod inbox;
mod incarnation;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;

use crate::cluster::answers::{Answer, Answers};
use crate::cluster::engine::{Command, Life, Recipient, Session};
use crate::cluster::orders::{Forward, Order, Payload};
use crate::cluster::outgoing::{Outgoing, Tally};
use crate::cluster::ranges::Ranges;
use crate::cluster::seats::Seats;
use crate::wire::name::Name;
use crate::wire::room::Room;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Claiming { since: Instant, again: bool },
    Active { claim: u64 },
}

#[derive(Debug)]
struct Login {
    name: Name,
    standing: Standing,
}

/// How far the drain is.
#[expect(clippy::struct_excessive_bools, reason = "each of them comes at a time of its own")]
#[derive(Clone, Copy, Debug, Default)]
struct Drain {
    leaving: bool,
    /// Others that stop at the same time have said so by then.
    grace_until: Option<Instant>,
    /// The engine was opened anew since, and nobody has said anything in it yet.
    is_grace_due: bool,
    cut: bool,
    asked: bool,
    released: bool,
}

/// The state; `R` is a reply to a client, `C` the charge on a sender's window.
#[derive(Debug)]
pub(crate) struct Node<R, C> {
    life: Life,
    pub(crate) outgoing: Outgoing<Payload<C>>,
    pub(crate) answers: Answers<R, C>,
    /// Of each origin: what was handled here, above the lowest number that it may send again.
    handled: HashMap<Life, Ranges, RandomState>,
    logins: HashMap<Session, Login, RandomState>,
    /// How many of them have no name yet.
    claiming: usize,
    /// Who asked each question, and how.
    questions: HashMap<u64, (Session, Command), RandomState>,
    /// Rooms in which this node has members.
    pub(crate) seats: Seats,
    /// Sessions that want to hear when everything they have sent is accounted for.
    asking: BTreeSet<Session>,
    /// The last loss that each life has told.
    told: HashMap<Life, u64, RandomState>,
    last_question: u64,
    /// Lives whose end was not heard of.
    known: BTreeSet<Life>,
    drain: Drain,
    /// Between a new incarnation and its opening.
    entering: bool,
    /// The last delivery that egress has given to a connection.
    sent: u64,
    arrived: u64,
    /// Copies of rooms' messages.
    room_copies: u64,
    orders: Vec<Order>,
}

impl<R, C: Clone> Node<R, C> {
    pub(crate) fn new(life: Life) -> Self {
        Self {
            life,
            outgoing: Outgoing::default(),
            answers: Answers::default(),
            handled: HashMap::default(),
            logins: HashMap::default(),
            claiming: 0,
            questions: HashMap::default(),
            seats: Seats::default(),
            asking: BTreeSet::new(),
            told: HashMap::default(),
            last_question: 0,
            known: BTreeSet::new(),
            drain: Drain::default(),
            entering: false,
            sent: 0,
            arrived: 0,
            room_copies: 0,
            orders: Vec::new(),
        }
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// What has to go to egress since this was last asked.
    pub(crate) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Messages that other nodes have handed over to this one.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Copies of rooms' messages that other nodes have handed over.
    pub(crate) fn room_copies(&self) -> u64 {
        self.room_copies
    }

    pub(crate) fn tally(&self) -> Tally {
        self.outgoing.tally()
    }

    /// Whether something has to be done again after a while.
    pub(crate) fn wants_ticks(&self) -> bool {
        (self.drain.cut && !self.drain.released) || self.claiming > 0
    }

    /// A client wants a name; `Effect::LoggedIn` or `Effect::LoginRefused` follows.
    pub(crate) fn log_in(&mut self, session: Session, name: Name, now: Instant) {
        self.claim(session, name.clone());
        let standing = Standing::Claiming { since: now, again: false };
        self.logins.insert(session, Login { name, standing });
        self.claiming += 1;
    }

    fn claim(&mut self, session: Session, name: Name) {
        self.orders.push(Order::Command(Command::Claim { name, session }));
    }

    /// A client's name is free, also one that it has not got yet.
    pub(crate) fn log_out(&mut self, session: Session) {
        if let Some(Login { name, standing }) = self.logins.remove(&session) {
            let claim = match standing {
                Standing::Active { claim } => Some(claim),
                Standing::Claiming { .. } => {
                    self.claiming -= 1;
                    None
                }
            };
            self.orders.push(Order::Command(Command::Free { name, session, claim }));
        }
    }

    /// A client is gone: it wants no answers.
    /// Returns its questions.
    pub(crate) fn forget(&mut self, session: Session) -> Vec<u64> {
        self.answers.forget(session);
        self.asking.remove(&session);
        let of_it = self.questions.iter().filter(|(_, (asks, _))| *asks == session);
        let numbers: Vec<u64> = of_it.map(|(number, _)| *number).collect();
        for number in &numbers {
            self.questions.remove(number);
        }
        numbers
    }

    /// Whether a life is there, as far as this node has heard.
    pub(crate) fn knows(&self, life: &Life) -> bool {
        self.known.contains(life)
    }

    /// Who gets a copy of what is sent to a room, at other nodes.
    pub(crate) fn copies_of<'a>(
        &'a self,
        room: &'a [u8],
    ) -> impl Iterator<Item = Recipient> + use<'a, R, C> {
        self.seats
            .elsewhere(room, &self.life)
            .map(|(room, life)| Recipient::Room(room.clone(), life.clone()))
    }

    /// Whether lines for this name have to go to the engine, though it may be local.
    pub(crate) fn is_on_the_way(&self, name: &[u8]) -> bool {
        self.outgoing.is_on_the_way(name)
    }

    /// Sends a client's messages to names that are not here. `absent` are those of the same lines
    /// that nobody can have.
    pub(crate) fn forward(
        &mut self,
        session: Session,
        names: Vec<Name>,
        lines: Range<u64>,
        absent: Vec<Vec<u8>>,
        payload: Payload<C>,
    ) {
        let (first, count) = (self.outgoing.next_number(), names.len());
        self.answers.expect(session, first, count, lines.clone(), absent, payload.charge.clone());
        self.send(session, names.into_iter().map(Recipient::Client).collect(), lines, payload);
    }

    /// Sends a client's messages to a room: to its members at other nodes, and by name to those here
    /// for whom something is on its way. Nobody is told if they are gone.
    pub(crate) fn forward_to_room(
        &mut self,
        session: Session,
        room: &Room,
        names: Vec<Name>,
        lines: Range<u64>,
        payload: Payload<C>,
    ) {
        let mut recipients: Vec<_> = names.into_iter().map(Recipient::Client).collect();
        recipients.extend(self.copies_of(room.as_str().as_bytes()));
        if !recipients.is_empty() {
            self.send(session, recipients, lines, payload);
        }
    }

    fn send(
        &mut self,
        session: Session,
        names: Vec<Recipient>,
        lines: Range<u64>,
        payload: Payload<C>,
    ) {
        let first = self.outgoing.next_number();
        let messages = u32::try_from(lines.end - lines.start).unwrap_or(u32::MAX);
        let bytes = (payload.range.end - payload.range.start) as usize;
        // No reply of a sender waits for the members of its rooms, by whatever way they are reached.
        let is_awaited = payload.room.is_none();
        for name in &names {
            let copy = Payload {
                from: payload.from.clone(),
                room: payload.room.clone(),
                frames: Arc::clone(&payload.frames),
                range: payload.range.clone(),
                charge: payload.charge.clone(),
            };
            self.outgoing.open(
                name.clone(),
                session,
                lines.start,
                messages,
                (bytes, copy),
                is_awaited,
            );
        }
        let first_line = lines.start;
        let Payload { from, room, frames, range, .. } = payload;
        let lowest = self.outgoing.lowest();
        let forward = Forward {
            first,
            names,
            from,
            session,
            room,
            lowest,
            first_line,
            messages,
            frames,
            range,
        };
        self.orders.push(Order::Forward(forward));
    }

    /// Asks the engine who is here; the answer is `Effect::Who`.
    pub(crate) fn ask_who(&mut self, session: Session, names: Vec<Name>) -> u64 {
        self.ask(session, |question| Command::Who { question, names })
    }

    /// Asks the engine who is in a room; the answer is `Effect::Who`.
    pub(crate) fn ask_who_in(&mut self, session: Session, room: Room) -> u64 {
        self.ask(session, |question| Command::WhoIn { question, room })
    }

    /// A client enters a room; the answer, how many are in it, is `Effect::Who`.
    pub(crate) fn join_room(&mut self, session: Session, room: Room, name: Name) -> u64 {
        self.seats.join(&room, &name);
        self.ask(session, |question| Command::JoinRoom { question, room, name })
    }

    /// A client leaves a room.
    pub(crate) fn part_room(&mut self, room: &Room, name: &Name) {
        if self.seats.part(room, name) {
            let (room, name) = (room.clone(), name.clone());
            self.orders.push(Order::Command(Command::PartRoom { room, name }));
        }
    }

    /// A client is in a room that this node's former life has told the engine of.
    pub(crate) fn join_room_again(&mut self, room: &Room, name: &Name) {
        if self.seats.join(room, name) {
            let (room, name) = (room.clone(), name.clone());
            self.orders.push(Order::Command(Command::JoinRoom { question: 0, room, name }));
        }
    }

    fn ask(&mut self, session: Session, command: impl FnOnce(u64) -> Command) -> u64 {
        self.last_question += 1;
        let question = self.last_question;
        let command = command(question);
        self.questions.insert(question, (session, command.clone()));
        self.answers.ask(session, question);
        self.orders.push(Order::Command(command));
        question
    }

    /// Whether something that this client has sent to other nodes is open; if so,
    /// `Effect::Accounted` follows once it is not.
    pub(crate) fn ask_about(&mut self, session: Session) -> bool {
        let is_open = self.outgoing.is_open(session);
        if is_open {
            self.asking.insert(session);
        }
        is_open
    }

    /// The replies to a client whose turn it is.
    pub(crate) fn ready_answers(&mut self, session: Session) -> Vec<Answer<R, C>> {
        self.answers.ready(session)
    }
}
