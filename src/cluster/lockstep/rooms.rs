//! The same state with rooms, `/sync`, losses and budgets: in any order of steps each member gets a line
//! once and in order or its sender is told, and a `/sync` confirms only what is true; at the end no
//! account is open, no client waits, and every charge on a budget is given back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::cluster::answers::Answer;
use crate::cluster::engine::{ALL_MEMBERS, Recipient};
use crate::wire::loss::{LossReason, LostLines};
use crate::wire::protocol;
use crate::wire::room::Room;

/// Enough for two of them to be all that may be on its way for one recipient.
const LARGE: usize = 150 * 1024;

#[derive(Clone, Copy, Debug)]
enum Act {
    /// A line from one client to another one, or to the room if that is itself.
    Say {
        from: usize,
        to: usize,
        is_large: bool,
    },
    Sync(usize),
    /// Into the room, or out of it.
    Room(usize),
    Bring(usize),
    BringWithoutReply(usize),
    Read(usize),
    Write(usize),
    Acknowledge(usize),
    /// A client's connection breaks.
    Fail(usize),
    /// The last node's stop is forced: it says what it has to say, and that it ends.
    Force,
}

fn act() -> impl Strategy<Value = Act> {
    let (node, client) = (0..NODES, 0..CLIENTS);
    let say = (client.clone(), client.clone(), prop::bool::weighted(0.2));
    prop_oneof![
        60 => say.prop_map(|(from, to, is_large)| Act::Say { from, to, is_large }),
        10 => client.clone().prop_map(Act::Sync),
        4 => client.clone().prop_map(Act::Room),
        60 => node.clone().prop_map(Act::Bring),
        10 => node.clone().prop_map(Act::BringWithoutReply),
        60 => node.clone().prop_map(Act::Read),
        40 => node.clone().prop_map(Act::Write),
        40 => node.prop_map(Act::Acknowledge),
        2 => client.prop_map(Act::Fail),
        1 => Just(Act::Force),
    ]
}

#[derive(Debug)]
struct Line {
    from: usize,
    to_room: bool,
    /// The clients that have to get it, and those that have.
    must: BTreeSet<usize>,
    received: BTreeSet<usize>,
    /// Its sender was told of a loss, or that no client has the name.
    was_told: bool,
}

/// A delivery to one client, which its kernel has not acknowledged.
#[derive(Debug)]
struct Item {
    origin: Life,
    number: u64,
    client: usize,
    line: usize,
    is_written: bool,
}

/// Each client stays at the node of its number; its session is one more.
struct Walk {
    base: World,
    is_here: [bool; CLIENTS],
    is_member: [bool; CLIENTS],
    /// The question whose answer says that it is one.
    joins: [Option<u64>; CLIENTS],
    queues: [Vec<Item>; NODES],
    lines: Vec<Line>,
    last: [[Option<usize>; CLIENTS]; CLIENTS],
    /// How many lines each client had said when it asked.
    asks: [Option<usize>; CLIENTS],
    /// Something is not known, and cannot be told.
    is_unsure: [bool; CLIENTS],
    parked: [VecDeque<(usize, bool)>; CLIENTS],
    waiting: BTreeMap<String, VecDeque<usize>>,
    is_forced: bool,
}

fn session(client: usize) -> Session {
    client as Session + 1
}

fn client_of(session: Session) -> usize {
    usize::try_from(session - 1).expect("small")
}

fn room() -> Room {
    Room::new("#dev").expect("a room")
}

fn name(client: usize) -> Name {
    Name::new(NAMES[client]).expect("a name")
}

fn only(number: u64) -> Ranges {
    let mut numbers = Ranges::default();
    numbers.insert(number);
    numbers
}

impl Walk {
    fn new(engine: &TestEngine, cluster: &str) -> Self {
        let mut walk = Self {
            base: World::new(engine, cluster),
            is_here: [true; CLIENTS],
            is_member: [false; CLIENTS],
            joins: [None; CLIENTS],
            queues: Default::default(),
            lines: Vec::new(),
            last: Default::default(),
            asks: [None; CLIENTS],
            is_unsure: [false; CLIENTS],
            parked: Default::default(),
            waiting: BTreeMap::new(),
            is_forced: false,
        };
        for client in 0..CLIENTS {
            let now = Instant::now();
            walk.base.nodes[client].node.log_in(session(client), name(client), now);
            walk.take(Act::Room(client));
        }
        for act in [Act::Bring, Act::Read, Act::Read] {
            (0..NODES).for_each(|node| walk.take(act(node)));
        }
        walk
    }

    fn take(&mut self, act: Act) {
        match act {
            Act::Say { from, to, is_large } => {
                if self.is_here[from] && self.is_up(from) && self.asks[from].is_none() {
                    self.parked[from].push_back((to, is_large));
                    if self.parked[from].len() == 1 {
                        self.go_on(from);
                    }
                }
            }
            Act::Sync(client) => self.ask(client),
            Act::Room(client) => self.change_room(client),
            Act::Bring(node) => self.bring(node, true),
            Act::BringWithoutReply(node) => self.bring(node, false),
            Act::Read(node) => self.read(node),
            Act::Write(node) => self.write(node),
            Act::Acknowledge(node) => self.acknowledge(node),
            Act::Fail(client) => self.fail(client),
            Act::Force => self.force(),
        }
        for node in &mut self.base.nodes {
            for order in node.node.take_orders() {
                node.outbox.take(order);
            }
        }
    }

    fn is_up(&self, node: usize) -> bool {
        self.base.nodes[node].phase == Phase::Runs
    }

    // ---- clients --------------------------------------------------------------------------------

    /// What a client has said goes out, as far as there is room for it.
    fn go_on(&mut self, from: usize) {
        while let Some((to, is_large)) = self.parked[from].front().copied() {
            let node = &mut self.base.nodes[from].node;
            let recipients: Vec<Recipient> = if to == from {
                node.copies_of(room().as_str().as_bytes()).collect()
            } else {
                vec![name(to).into()]
            };
            let budget = &mut node.outgoing.budget;
            let full = recipients.iter().find(|it| !budget.is_ample() && !budget.has_room(it));
            if let Some(full) = full {
                budget.wait(full);
                self.waiting.entry(format!("{full:?}")).or_default().push_back(from);
                return;
            }
            self.parked[from].pop_front();
            self.route(from, to, is_large);
        }
    }

    fn route(&mut self, from: usize, to: usize, is_large: bool) {
        let to_room = to == from;
        if to_room && !self.is_member[from] {
            return;
        }
        let number = self.lines.len();
        let node = &mut self.base.nodes[from];
        let life = |at: usize| Life::new(&format!("{}.{at}", ["a", "b", "c"][at]));
        let copies: Vec<Recipient> = node.node.copies_of(room().as_str().as_bytes()).collect();
        let is_there = |client: &usize| {
            let copy = Recipient::Room(room(), life(*client));
            let is_in = self.is_member[*client] && self.joins[*client].is_none();
            *client != from && is_in && copies.contains(&copy)
        };
        let must =
            if to_room { (0..CLIENTS).filter(is_there).collect() } else { BTreeSet::from([to]) };
        self.lines.push(Line { from, to_room, must, received: BTreeSet::new(), was_told: false });
        let mut frames = protocol::message_prefix(&name(from));
        if to_room {
            frames = protocol::room_prefix(&frames, room().as_str().as_bytes());
        }
        frames.resize(if is_large { LARGE } else { 40 }, b'x');
        frames.push(b'\n');
        let range = 0..u32::try_from(frames.len()).expect("small");
        let room = to_room.then(room);
        let (frames, charge) = (Arc::new(frames), ());
        let payload = Payload { from: name(from), room: room.clone(), frames, range, charge };
        let lines = number as u64..number as u64 + 1;
        match room {
            Some(room) => {
                node.node.forward_to_room(session(from), &room, Vec::new(), lines, payload);
            }
            None => node.node.forward(session(from), vec![name(to)], lines, Vec::new(), payload),
        }
    }

    fn ask(&mut self, client: usize) {
        let may_ask = self.asks[client].is_none() && self.parked[client].is_empty();
        if self.is_here[client] && self.is_up(client) && may_ask {
            self.asks[client] = Some(self.lines.len());
            if !self.base.nodes[client].node.ask_about(session(client)) {
                self.answer(client);
            }
        }
    }

    /// Everything before a `/sync` is accounted for.
    fn answer(&mut self, client: usize) {
        let count = self.asks[client].take().expect("a question");
        if std::mem::take(&mut self.is_unsure[client]) {
            return;
        }
        for line in self.lines[..count].iter().filter(|line| line.from == client) {
            let is_known = line.was_told || line.must.is_subset(&line.received);
            assert!(is_known, "confirmed: {line:?}");
        }
    }

    fn change_room(&mut self, client: usize) {
        if !self.is_here[client] || !self.is_up(client) {
            return;
        }
        let node = &mut self.base.nodes[client].node;
        if self.is_member[client] {
            node.part_room(&room(), &name(client));
            self.left(client);
        } else {
            self.joins[client] = Some(node.join_room(session(client), room(), name(client)));
        }
        self.is_member[client] = !self.is_member[client];
    }

    /// The lines of its room are no longer owed to it.
    fn left(&mut self, client: usize) {
        for line in self.lines.iter_mut().filter(|line| line.to_room) {
            line.must.remove(&client);
        }
    }

    fn fail(&mut self, client: usize) {
        if !std::mem::take(&mut self.is_here[client]) || !self.is_up(client) {
            return;
        }
        let node = &mut self.base.nodes[client];
        node.node.log_out(session(client));
        node.node.forget(session(client));
        if std::mem::take(&mut self.is_member[client]) {
            node.node.part_room(&room(), &name(client));
        }
        self.parked[client].clear();
        self.asks[client] = None;
        let (lost, rest) = std::mem::take(&mut self.queues[client])
            .into_iter()
            .partition(|item| item.client == client);
        self.queues[client] = rest;
        let lost: Vec<Item> = lost;
        for Item { origin, number, line, is_written, .. } in lost {
            let from = self.lines[line].from;
            let lines = LostLines { first: line as u64, last: line as u64, count: 1 };
            let (outbox, life) = (&mut self.base.nodes[client].outbox, origin.clone());
            if !is_written {
                outbox.take(Order::Settled { origin: life.clone(), number });
            }
            let (recipient, reason) = (name(client), LossReason::ConnectionBroken);
            let session = session(from);
            outbox.take(Order::LostLines { origin: life, session, lines, recipient, reason });
            outbox.take(Order::Finished { origin, numbers: only(number) });
        }
        self.left(client);
    }

    // ---- nodes ----------------------------------------------------------------------------------

    fn bring(&mut self, node: usize, with_reply: bool) {
        self.base.bring(node, with_reply);
    }

    fn read(&mut self, at: usize) {
        if !self.is_up(at) {
            return;
        }
        let node = &mut self.base.nodes[at];
        let life = node.outbox.life.clone();
        let entries =
            node.inbox.read(&life, &mut node.position, Duration::ZERO, SOON).expect("an inbox");
        for entry in entries {
            let mut effects = Vec::new();
            self.base.nodes[at].node.read(entry, &mut effects);
            for effect in effects {
                self.react(at, effect);
            }
        }
    }

    fn react(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Deliver(delivery) => {
                self.arrive(at, &delivery, Some(client_of(delivery.session)))
            }
            Effect::Spread(delivery) => {
                assert_eq!(delivery.session, ALL_MEMBERS);
                self.arrive(at, &delivery, self.is_member[at].then_some(at));
            }
            Effect::Lost(lost) => {
                for line in lost.lines.first..=lost.lines.last {
                    self.tell(lost.sender, line);
                }
            }
            Effect::Unsettled(it) | Effect::Unconfirmed(it) => match it.name {
                Recipient::Client(_) => self.tell(it.sender, it.first_line),
                Recipient::Room(..) => {
                    self.is_unsure[client_of(it.sender)] = true;
                    self.lines[usize::try_from(it.first_line).expect("small")].was_told = true;
                }
            },
            Effect::Answered { session } => self.answer_lines(at, session),
            Effect::Who { session, question, .. } => {
                let client = client_of(session);
                self.joins[client] = self.joins[client].filter(|asked| *asked != question);
                self.base.nodes[at].node.answers.resolved(session, question, ());
                self.answer_lines(at, session);
            }
            Effect::Accounted { session } => self.answer(client_of(session)),
            Effect::Freed(recipient) => {
                let waiting = self.waiting.get_mut(&format!("{recipient:?}"));
                for from in waiting.map(std::mem::take).unwrap_or_default() {
                    self.base.nodes[from].node.outgoing.budget.wait_no_more(&recipient);
                    self.go_on(from);
                }
            }
            Effect::LoggedIn { .. }
            | Effect::LoginRefused { .. }
            | Effect::Moved { .. }
            | Effect::HoldOver { .. } => {}
        }
    }

    /// The replies whose turn it is: no client has the name.
    fn answer_lines(&mut self, at: usize, session: Session) {
        for answer in self.base.nodes[at].node.ready_answers(session) {
            if let Answer::Absent { lines, .. } = answer {
                lines.for_each(|line| self.tell(session, line));
            }
        }
    }

    fn tell(&mut self, sender: Session, line: u64) {
        let line = &mut self.lines[usize::try_from(line).expect("small")];
        assert_eq!(session(line.from), sender);
        line.was_told = true;
    }

    /// A line comes from another node, for a client if that is still there.
    fn arrive(&mut self, at: usize, delivery: &Delivery, client: Option<usize>) {
        let Delivery { origin, number, piece, .. } = delivery;
        let line = usize::try_from(piece.first_line).expect("small");
        let (origin, number) = (origin.clone(), *number);
        let outbox = &mut self.base.nodes[at].outbox;
        let Some(client) = client.filter(|client| self.is_here[*client]) else {
            outbox.take(Order::Settled { origin: origin.clone(), number });
            let is_direct = piece.room.is_none();
            if is_direct {
                let (messages, reason) = (1, LossReason::Left);
                outbox.take(Order::Lost { origin: origin.clone(), number, messages, reason });
            }
            outbox.take(Order::Finished { origin, numbers: only(number) });
            return;
        };
        assert_eq!(client, at, "at its own node");
        let last = &mut self.last[self.lines[line].from][client];
        assert!(last.is_none_or(|last| last < line), "line {line} to {}", NAMES[client]);
        *last = Some(line);
        self.queues[at].push(Item { origin, number, client, line, is_written: false });
    }

    fn write(&mut self, at: usize) {
        if !self.is_up(at) {
            return;
        }
        if let Some(item) = self.queues[at].iter_mut().find(|item| !item.is_written) {
            item.is_written = true;
            let (origin, number) = (item.origin.clone(), item.number);
            self.base.nodes[at].outbox.take(Order::Settled { origin, number });
        }
    }

    /// A client's kernel has all that was written.
    fn acknowledge(&mut self, at: usize) {
        if !self.is_up(at) {
            return;
        }
        while self.queues[at].first().is_some_and(|item| item.is_written) {
            let Item { origin, number, client, line, .. } = self.queues[at].remove(0);
            assert!(self.lines[line].received.insert(client), "twice");
            self.base.nodes[at].outbox.take(Order::Finished { origin, numbers: only(number) });
        }
    }

    fn force(&mut self) {
        let at = NODES - 1;
        if std::mem::replace(&mut self.is_forced, true) {
            return;
        }
        // The end is said behind all else.
        while !self.base.nodes[at].outbox.is_empty() {
            self.bring(at, true);
        }
        let node = &mut self.base.nodes[at];
        let number = node.outbox.ran() + 1;
        let call = Call::Run { number, command: &Command::Down, overdue: " " };
        let life = node.outbox.life.clone();
        node.wire.run(&node.incarnation, &life, &[call], SOON).expect("replies");
        node.phase = Phase::Ended;
        (self.is_here[at], self.is_member[at]) = (false, false);
        self.queues[at].clear();
        self.parked[at].clear();
        self.asks[at] = None;
        // Whatever it had, it names by itself.
        self.left(at);
    }

    /// Everything is brought, read, written and acknowledged until nothing is left.
    fn end(&mut self) {
        if self.is_forced {
            let life = self.base.nodes[NODES - 1].outbox.life.clone();
            self.base.nodes[0].outbox.take(Order::Command(Command::EndHold { life }));
        }
        for _ in 0..60 {
            for act in [Act::Bring, Act::Read, Act::Write, Act::Write, Act::Acknowledge] {
                (0..NODES).for_each(|node| self.take(act(node)));
            }
        }
        for at in (0..NODES).filter(|at| self.is_up(*at)).collect::<Vec<_>>() {
            let node = &self.base.nodes[at].node;
            assert!(!node.outgoing.is_open(session(at)), "something of {} is open", NAMES[at]);
            assert_eq!(node.outgoing.budget.total(), 0, "given back by {}", NAMES[at]);
            assert_eq!(self.asks[at], None, "the /sync of {} is answered", NAMES[at]);
            assert!(self.parked[at].is_empty(), "{} waits forever", NAMES[at]);
            let tally = node.tally();
            for sums in [tally.clients, tally.rooms] {
                assert_eq!(sums.owed, sums.handed_over + sums.in_doubt + sums.lost);
            }
        }
        for line in &self.lines {
            let is_known = line.was_told || line.must.is_subset(&line.received);
            assert!(is_known || !self.is_here[line.from] || !self.is_up(line.from), "{line:?}");
        }
    }
}

#[test]
fn any_order_of_steps_with_rooms_settles_everything_and_confirms_no_more_than_is_so() {
    let Some(engine) = TestEngine::start() else { return };
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, ..ProptestConfig::default() });
    let number = std::cell::Cell::new(0);
    let any_order = prop::collection::vec(act(), 0..150);
    let outcome = runner.run(&any_order, |acts| {
        number.set(number.get() + 1);
        let mut walk = Walk::new(&engine, &format!("rooms-{}", number.get()));
        acts.into_iter().for_each(|act| walk.take(act));
        walk.end();
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
