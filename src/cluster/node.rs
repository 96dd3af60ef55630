//! A node's own state in its cluster: what it has forwarded, what it has handled of others, who logs
//! in, and how far its drain is. Pure: events go in, effects for the broker and orders for egress come
//! out. Owned by the broker.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::cluster::answers::{Answer, Answers};
use crate::cluster::engine::{
    ALL_MEMBERS, Command, Entrance, Entry, Life, LifeState, Recipient, Session,
};
use crate::cluster::outgoing::{Ended, LostElsewhere, Outgoing, Tally, Unconfirmed, Unsettled};
use crate::cluster::parcel::Arrived;
use crate::cluster::ranges::{Acknowledgement, Ranges};
use crate::cluster::seats::Seats;
use crate::wire::batch::Frames;
use crate::wire::loss::{LossReason, LostLines};
use crate::wire::name::Name;
use crate::wire::room::Room;

/// Frames on their way to other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    /// The number of the delivery to the first of `names`; the others follow.
    pub(crate) first: u64,
    pub(crate) names: Vec<Recipient>,
    pub(crate) from: Name,
    pub(crate) session: Session,
    pub(crate) room: Option<Room>,
    pub(crate) lowest: u64,
    pub(crate) first_line: u64,
    pub(crate) messages: u32,
    pub(crate) frames: Frames,
    pub(crate) range: Range<u32>,
}

/// What the broker orders from egress.
#[derive(Debug)]
pub(crate) enum Order {
    Forward(Forward),
    Command(Command),
    /// This node's broker has these deliveries of an origin, which will send nothing below `lowest`
    /// again.
    Handled {
        origin: Life,
        numbers: Ranges,
        lowest: u64,
    },
    /// Every copy of it is written or given up.
    Settled {
        origin: Life,
        number: u64,
    },
    /// Nothing more will be told of these: they are delivered, or their loss was told.
    Finished {
        origin: Life,
        numbers: Ranges,
    },
    /// All messages of a delivery are lost, and nothing more will be told of it.
    Lost {
        origin: Life,
        number: u64,
        messages: u32,
        reason: LossReason,
    },
    /// A connection has lost some of a client's lines.
    LostLines {
        origin: Life,
        session: Session,
        lines: LostLines,
        recipient: Name,
        reason: LossReason,
    },
    /// A new incarnation, or a new life, begins; nothing else is sent before `Restart`.
    Enter {
        life: Life,
        entrance: Entrance,
    },
    /// In the new incarnation: first these, then what waits and is no line.
    Restart {
        forwards: Vec<Forward>,
        claims: Vec<Command>,
    },
}

/// What a delivery needs until it is settled.
#[derive(Debug)]
pub(crate) struct Payload<C> {
    pub(crate) from: Name,
    pub(crate) room: Option<Room>,
    pub(crate) frames: Frames,
    pub(crate) range: Range<u32>,
    /// The charge on the sender's window.
    pub(crate) charge: C,
}

/// What the broker has to do.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Give these frames to a session, or count them as lost if it is gone.
    Deliver(Delivery),
    /// Give these frames to all members of the room that are here.
    Spread(Delivery),
    /// The other node has lost them: the sender is to be told.
    Lost(LostElsewhere),
    /// Everything that the session has sent to other nodes is delivered, or its loss was told.
    Accounted { session: Session },
    /// There is room again for lines to this recipient.
    Freed(Recipient),
    /// Somebody came to a room, or left it.
    Moved { room: Room, name: Name, has_joined: bool },
    /// The session has its name from now on.
    LoggedIn { session: Session },
    /// Somebody else has the name; or nobody could be asked.
    LoginRefused { session: Session, is_reachable: bool },
    /// Replies may be due.
    Answered { session: Session },
    /// The engine's answer to `/who`.
    Who { session: Session, question: u64, count: u64, names: Vec<Name> },
    /// Something that was forwarded will not be heard of again.
    Unsettled(Unsettled),
    /// The node that has taken it over has ended, and told no end of it; that node's report does.
    Unconfirmed(Unsettled),
    /// A hold has ended here, so its lines are lost here; the origin is told.
    HoldOver { name: Name, origin: Life, messages: u32 },
}

/// Frames of another node.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) session: Session,
    pub(crate) origin: Life,
    pub(crate) number: u64,
    pub(crate) piece: Arc<Arrived>,
    pub(crate) frames: Frames,
}

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

/// How long a node that stops waits at least before its clients are released: of nodes that are stopped
/// at the same moment each must have heard of the others by then, since what is sent to a node that was
/// released is held for clients that nobody may come for.
const GRACE: Duration = Duration::from_millis(150);

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

    // ---- clients --------------------------------------------------------------------------------

    /// A client wants a name; [`Effect::LoggedIn`] or [`Effect::LoginRefused`] follows.
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

    /// Asks the engine who is here; the answer is [`Effect::Who`].
    pub(crate) fn ask_who(&mut self, session: Session, names: Vec<Name>) -> u64 {
        self.ask(session, |question| Command::Who { question, names })
    }

    /// Asks the engine who is in a room; the answer is [`Effect::Who`].
    pub(crate) fn ask_who_in(&mut self, session: Session, room: Room) -> u64 {
        self.ask(session, |question| Command::WhoIn { question, room })
    }

    /// A client enters a room; the answer, how many are in it, is [`Effect::Who`].
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
    /// [`Effect::Accounted`] follows once it is not.
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

    // ---- the inbox ------------------------------------------------------------------------------

    /// Reads one entry of the inbox.
    pub(crate) fn read(&mut self, entry: Entry, effects: &mut Vec<Effect>) {
        match entry {
            Entry::Message { origin, pieces, frames } => {
                self.receive(origin, pieces, &frames, effects);
            }
            Entry::Placed { first, last, places } => {
                for (number, account) in self.outgoing.placed(first, last, &places) {
                    let Recipient::Client(name) = &account.name else { continue };
                    let name = name.as_str().as_bytes();
                    if !account.was_answered {
                        self.answers.answered(account.sender, number, Some(name));
                        effects.push(Effect::Answered { session: account.sender });
                    }
                }
                self.answered(first..=last, effects);
            }
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
    fn answered(&mut self, numbers: std::ops::RangeInclusive<u64>, effects: &mut Vec<Effect>) {
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

    fn unsettled(&mut self, gone: Vec<(u64, Unsettled)>, effects: &mut Vec<Effect>) {
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

    // ---- a new incarnation ----------------------------------------------------------------------

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
            Drain { cut: true, .. } => LifeState::Cut,
            Drain { leaving: true, .. } => LifeState::Leaving,
            _ => LifeState::Here,
        };
        let names = names.collect();
        let seats = self.seats.all();
        let entrance = Entrance { incarnation, fresh, state, names, seats, known: Vec::new() };
        self.entering = true;
        self.orders.push(Order::Enter { life: self.life.clone(), entrance });
    }

    /// Notes the last delivery that ever left this node, before [`Entry::Open`] is read.
    pub(crate) fn note_sent(&mut self, sent: u64) {
        self.sent = sent;
    }

    /// All who live have entered the new incarnation.
    fn opened(&mut self, lives: Vec<Life>, effects: &mut Vec<Effect>) {
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

    // ---- the drain ------------------------------------------------------------------------------

    /// The drain begins: from here on, lines of running nodes to this one's names are held.
    pub(crate) fn leave(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.drain.leaving, true) {
            self.drain.grace_until = Some(now + GRACE);
            self.orders.push(Order::Command(Command::Leave));
        }
    }

    /// The readers are cut, and all their lines are routed.
    pub(crate) fn cut(&mut self, now: Instant) {
        self.leave(now);
        if !std::mem::replace(&mut self.drain.cut, true) {
            self.orders.push(Order::Command(Command::Cut));
        }
    }

    fn ask_for_release(&mut self, now: Instant) {
        if std::mem::take(&mut self.drain.is_grace_due) {
            self.drain.grace_until = Some(now + GRACE);
        }
        let Drain { cut, asked, released, grace_until, .. } = self.drain;
        let is_early = grace_until.is_some_and(|until| now < until);
        let may_ask = cut && !asked && !released && !is_early;
        if may_ask && !self.entering && self.outgoing.is_handed_over() {
            self.drain.asked = true;
            self.orders.push(Order::Command(Command::Release { regardless: false }));
        }
    }

    /// The time for the others is over: the release does not wait for them any more.
    pub(crate) fn release_regardless(&mut self) {
        if self.drain.cut && !self.drain.released && !self.entering {
            self.drain.asked = true;
            self.orders.push(Order::Command(Command::Release { regardless: true }));
        }
    }

    /// Does again what was put off, and gives up logins that wait for longer than `timeout`.
    pub(crate) fn tick(&mut self, now: Instant, timeout: Duration, effects: &mut Vec<Effect>) {
        let mut refused = Vec::new();
        let mut claims = Vec::new();
        for (session, login) in &mut self.logins {
            let Standing::Claiming { since, again } = &mut login.standing else { continue };
            if now.saturating_duration_since(*since) >= timeout {
                refused.push(*session);
            } else if std::mem::take(again) {
                claims.push((*session, login.name.clone()));
            }
        }
        for (session, name) in claims {
            self.claim(session, name);
        }
        for session in refused {
            self.log_out(session);
            effects.push(Effect::LoginRefused { session, is_reachable: false });
        }
        self.ask_for_release(now);
    }

    /// The end: what becomes of deliveries that nobody has handled, and by place how many messages
    /// were handed over without word of their end.
    pub(crate) fn finish(&mut self, sent: u64) -> (Vec<Unsettled>, Unconfirmed) {
        let (unsettled, unconfirmed) = self.outgoing.finish(sent);
        (unsettled.into_iter().map(|(_, unsettled)| unsettled).collect(), unconfirmed)
    }
}
