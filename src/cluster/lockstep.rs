//! The pure state of several nodes against a real engine, one step at a time and without a thread: any
//! order of steps must deliver each line once and in order, or name it, exactly one node each.
#![allow(clippy::pedantic, reason = "small numbers, and long tests")]

mod rooms;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::cluster::engine::testing::TestEngine;
use crate::cluster::engine::{
    Call, Command, Engine, Entrance, Entry, Life, LifeState, Reply, Session, Wire,
};
use crate::cluster::node::Node;
use crate::cluster::orders::{Delivery, Effect, Order, Payload};
use crate::cluster::outbox::Outbox;
use crate::cluster::ranges::Ranges;
use crate::wire::name::Name;

const SOON: Duration = Duration::from_secs(5);
const NODES: usize = 3;
const CLIENTS: usize = 3;
const NAMES: [&str; CLIENTS] = ["alice", "bob", "carol"];

struct TestNode {
    node: Node<(), ()>,
    outbox: Outbox,
    wire: Box<dyn Wire>,
    inbox: Box<dyn Wire>,
    incarnation: Arc<str>,
    position: String,
    /// Who is connected, and whether it has its name.
    sessions: HashMap<Session, (usize, bool)>,
    /// Lines that wait for their sender's name.
    parked: HashMap<Session, Vec<usize>>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Runs,
    Leaves,
    Cut,
    Released,
    Ended,
}

/// What became of lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    accepted: u64,
    received: u64,
    refused: u64,
    lost: u64,
}

struct World {
    nodes: Vec<TestNode>,
    /// Where each client is.
    clients: [Option<(usize, Session)>; CLIENTS],
    last_session: Session,
    /// The last number said and heard, by sender and recipient.
    said: [[u64; CLIENTS]; CLIENTS],
    heard: [[u64; CLIENTS]; CLIENTS],
    tally: Tally,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Say(usize, usize),
    Move(usize, usize),
    Bring(usize),
    /// The commands run, and the connection breaks before the replies.
    BringWithoutReply(usize),
    Read(usize),
    Stop(usize),
    Cut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (node, client) = (0..NODES, 0..CLIENTS);
    prop_oneof![
        6 => (client.clone(), client.clone()).prop_map(|(from, to)| Step::Say(from, to)),
        1 => (client, node.clone()).prop_map(|(client, node)| Step::Move(client, node)),
        6 => node.clone().prop_map(Step::Bring),
        1 => node.clone().prop_map(Step::BringWithoutReply),
        6 => node.clone().prop_map(Step::Read),
        1 => node.clone().prop_map(Step::Stop),
        2 => node.prop_map(Step::Cut),
    ]
}

impl World {
    fn new(engine: &TestEngine, cluster: &str) -> Self {
        let nodes = (0..NODES).map(|at| {
            let life = Life::new(&format!("{}.{at}", ["a", "b", "c"][at]));
            let mut wire = engine.dialled(cluster).dial(SOON).expect("an engine");
            let hello = wire.hello(&life, 1).expect("an answer");
            let mut outbox = Outbox::new(life.clone());
            let entrance = Entrance {
                incarnation: Arc::clone(&hello.incarnation),
                fresh: true,
                state: LifeState::Here,
                names: Vec::new(),
                seats: Vec::new(),
                known: Vec::new(),
            };
            let calls = [Call::Enter { entrance: &entrance, last: 0 }, Call::Open];
            wire.run(&hello.incarnation, &life, &calls, SOON).expect("replies");
            outbox.drop_entrance();
            TestNode {
                node: Node::new(life.clone()),
                outbox,
                wire,
                inbox: engine.dialled(cluster).dial(SOON).expect("an engine"),
                incarnation: hello.incarnation,
                position: "0-0".to_owned(),
                sessions: HashMap::new(),
                parked: HashMap::new(),
                phase: Phase::Runs,
            }
        });
        Self {
            nodes: nodes.collect(),
            clients: [None; CLIENTS],
            last_session: 0,
            said: Default::default(),
            heard: Default::default(),
            tally: Tally::default(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Say(from, to) => self.say(from, to),
            Step::Move(client, node) => self.go(client, node),
            Step::Bring(node) => self.bring(node, true),
            Step::BringWithoutReply(node) => self.bring(node, false),
            Step::Read(node) => self.read(node),
            Step::Stop(node) => {
                let it = &mut self.nodes[node];
                if it.phase == Phase::Runs {
                    it.phase = Phase::Leaves;
                    it.node.leave(Instant::now());
                }
            }
            Step::Cut(node) => {
                let it = &mut self.nodes[node];
                if it.phase == Phase::Leaves {
                    it.phase = Phase::Cut;
                    it.node.cut(Instant::now());
                }
            }
        }
        for node in &mut self.nodes {
            for order in node.node.take_orders() {
                node.outbox.take(order);
            }
        }
    }

    /// A client's next line to another one.
    fn say(&mut self, from: usize, to: usize) {
        let Some((at, session)) = self.clients[from] else { return };
        let node = &mut self.nodes[at];
        if !matches!(node.phase, Phase::Runs | Phase::Leaves) {
            return;
        }
        if let Some((_, true)) = node.sessions.get(&session) {
            self.route(at, session, from, to);
        } else if let Some(parked) = node.parked.get_mut(&session) {
            parked.push(to);
        }
    }

    fn route(&mut self, at: usize, session: Session, from: usize, to: usize) {
        self.said[from][to] += 1;
        self.tally.accepted += 1;
        let number = self.said[from][to];
        let node = &mut self.nodes[at];
        let local = node.sessions.iter().find(|(_, (who, named))| *who == to && *named);
        let name = NAMES[to].as_bytes();
        if local.is_some() && !node.node.is_on_the_way(name) {
            self.hear(from, to, number);
            return;
        }
        let frames = format!("from {}: {number}\n", NAMES[from]).into_bytes();
        let end = u32::try_from(frames.len()).expect("small");
        let sender = Name::new(NAMES[from]).expect("a name");
        let (frames, room) = (Arc::new(frames), None);
        let payload = Payload { from: sender, room, frames, range: 0..end, charge: () };
        let names = vec![Name::new(name).expect("a name")];
        node.node.forward(session, names, number..number + 1, Vec::new(), payload);
    }

    fn hear(&mut self, from: usize, to: usize, number: u64) {
        assert!(number > self.heard[from][to], "{} {number} to {}", NAMES[from], NAMES[to]);
        self.heard[from][to] = number;
        self.tally.received += 1;
    }

    /// A client leaves where it is, and logs in somewhere.
    fn go(&mut self, client: usize, to: usize) {
        if let Some((at, session)) = self.clients[client].take() {
            let node = &mut self.nodes[at];
            if node.sessions.remove(&session).is_some() && node.phase < Phase::Released {
                node.node.log_out(session);
            }
            node.parked.remove(&session);
        }
        let node = &mut self.nodes[to];
        if node.phase != Phase::Runs {
            return;
        }
        self.last_session += 1;
        let session = self.last_session;
        node.sessions.insert(session, (client, false));
        node.parked.insert(session, Vec::new());
        node.node.log_in(session, Name::new(NAMES[client]).expect("a name"), Instant::now());
        self.clients[client] = Some((to, session));
    }

    fn bring(&mut self, at: usize, with_reply: bool) {
        let node = &mut self.nodes[at];
        if node.phase == Phase::Ended {
            return;
        }
        let cycle = node.outbox.next_cycle(true);
        let texts: Vec<_> =
            cycle.acks.iter().map(|(origin, told)| (origin, told.to_string())).collect();
        let mut calls: Vec<_> =
            texts.iter().map(|(origin, text)| Call::Ack { origin, text }).collect();
        let commands = node.outbox.commands().take(cycle.commands);
        calls.extend(commands.map(|(number, command)| Call::Run { number, command, overdue: " " }));
        let life = node.outbox.life.clone();
        let replies = node.wire.run(&node.incarnation, &life, &calls, SOON).expect("replies");
        drop(calls);
        if with_reply {
            assert!(replies.iter().all(|reply| *reply == Reply::Done), "{replies:?}");
            (0..cycle.commands).for_each(|_| node.outbox.command_ran());
        } else {
            for (origin, told) in cycle.acks {
                node.outbox.tell_again(origin, &told);
            }
        }
    }

    fn read(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.phase == Phase::Ended {
            return;
        }
        let life = node.outbox.life.clone();
        let entries =
            node.inbox.read(&life, &mut node.position, Duration::ZERO, SOON).expect("an inbox");
        for entry in entries {
            if matches!(entry, Entry::Message { .. }) {
                assert!(self.nodes[at].phase < Phase::Released, "a message behind the release");
            }
            let is_release = entry == Entry::Released;
            let mut effects = Vec::new();
            self.nodes[at].node.read(entry, &mut effects);
            for effect in effects {
                self.react(at, effect);
            }
            if is_release {
                self.release(at);
            }
        }
        let mut effects = Vec::new();
        // As long after everything else as is waited for.
        self.nodes[at].node.tick(Instant::now() + SOON / 2, SOON, &mut effects);
    }

    /// The closing notices: the clients are nowhere, and may go elsewhere.
    fn release(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.phase = Phase::Released;
        for (session, (client, _)) in node.sessions.drain() {
            if self.clients[client] == Some((at, session)) {
                self.clients[client] = None;
            }
        }
    }

    fn react(&mut self, at: usize, effect: Effect) {
        let node = &mut self.nodes[at];
        match effect {
            Effect::Deliver(Delivery { session, origin, number, piece, frames }) => {
                assert_eq!(piece.messages, 1);
                let mut numbers = Ranges::default();
                numbers.insert(number);
                node.outbox.take(Order::Settled { origin: origin.clone(), number });
                node.outbox.take(Order::Finished { origin, numbers });
                let Some((client, _)) = node.sessions.get(&session).copied() else {
                    self.tally.lost += 1;
                    return;
                };
                let range = piece.frames.start as usize..piece.frames.end as usize;
                let text = String::from_utf8_lossy(&frames[range]);
                let (from, number) = text
                    .strip_prefix("from ")
                    .and_then(|text| text.trim_end().split_once(": "))
                    .expect("a message");
                let from = NAMES.iter().position(|name| *name == from).expect("a client");
                self.hear(from, client, number.parse().expect("a number"));
            }
            Effect::LoggedIn { session } => {
                let Some((client, named)) = node.sessions.get_mut(&session) else { return };
                *named = true;
                let client = *client;
                for to in node.parked.remove(&session).unwrap_or_default() {
                    self.route(at, session, client, to);
                }
            }
            Effect::LoginRefused { session, .. } => {
                if let Some((client, _)) = node.sessions.remove(&session) {
                    self.clients[client] = None;
                }
                node.parked.remove(&session);
            }
            Effect::Answered { session } => {
                for answer in node.node.ready_answers(session) {
                    if let crate::cluster::answers::Answer::Absent { names, .. } = answer {
                        self.tally.refused += names.len() as u64;
                    }
                }
            }
            Effect::HoldOver { messages, .. } => self.tally.lost += u64::from(messages),
            Effect::Unsettled(it) => self.tally.lost += u64::from(it.messages),
            Effect::Unconfirmed(it) => panic!("a drain tells the end of everything: {it:?}"),
            Effect::Who { .. }
            | Effect::Spread(_)
            | Effect::Lost(_)
            | Effect::Accounted { .. }
            | Effect::Freed(_)
            | Effect::Moved { .. } => {}
        }
    }

    /// All stop, and everything is brought and read until nothing is left.
    fn end(&mut self) {
        for node in 0..NODES {
            self.take(Step::Stop(node));
        }
        for _ in 0..40 {
            for node in 0..NODES {
                self.take(Step::Bring(node));
                self.take(Step::Read(node));
                if self.nodes.iter().all(|it| it.phase != Phase::Runs) {
                    self.take(Step::Cut(node));
                }
            }
        }
        for at in 0..NODES {
            assert_eq!(self.nodes[at].phase, Phase::Released, "the drain of {at} does not end");
            let node = &mut self.nodes[at];
            let number = node.outbox.ran() + 1;
            let call = Call::Run { number, command: &Command::Down, overdue: " " };
            let life = node.outbox.life.clone();
            let replies = node.wire.run(&node.incarnation, &life, &[call], SOON).expect("replies");
            node.phase = Phase::Ended;
            if let Some(Reply::Left(left)) = replies.into_iter().next() {
                assert_eq!(at, NODES - 1, "others still live");
                let pieces = left.iter().flat_map(|(_, _, pieces)| pieces);
                self.tally.lost += pieces.map(|piece| u64::from(piece.messages)).sum::<u64>();
            }
        }
    }
}

fn check(engine: &TestEngine, cluster: &str, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(engine, cluster);
    for client in 0..CLIENTS {
        world.take(Step::Move(client, client));
    }
    for node in 0..NODES {
        world.take(Step::Bring(node));
        world.take(Step::Read(node));
    }
    for step in steps {
        world.take(step);
    }
    world.end();
    let Tally { accepted, received, refused, lost } = world.tally;
    prop_assert_eq!(accepted, received + refused + lost);
    // By node too: what was handed over has arrived.
    let (mut handed_over, mut arrived) = (0, 0);
    for node in &mut world.nodes {
        let (unsettled, _) = node.node.finish(u64::MAX);
        prop_assert_eq!(unsettled, Vec::new());
        handed_over += node.node.tally().clients.handed_over;
        arrived += node.node.arrived();
    }
    prop_assert!(handed_over >= arrived);
    Ok(())
}

#[test]
fn any_order_of_steps_delivers_each_line_once_and_in_order_or_names_it() {
    let Some(engine) = TestEngine::start() else { return };
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, ..ProptestConfig::default() });
    let number = std::cell::Cell::new(0);
    let any_order = prop::collection::vec(step(), 0..120);
    let outcome = runner.run(&any_order, |steps| {
        // One engine for all of them, and a cluster for each.
        number.set(number.get() + 1);
        check(&engine, &format!("lockstep-{}", number.get()), steps)
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
