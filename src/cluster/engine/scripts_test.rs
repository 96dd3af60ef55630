//! Each script against a real engine: what it does, that it does nothing the second time, and nothing
//! when a closed connection brings it late.
#![allow(clippy::pedantic, reason = "small numbers, and long tests")]

mod entrances;
mod holds;
mod rooms;

use std::time::Duration;

use super::testing::TestEngine;
use super::*;
use crate::cluster::parcel::{self, Origin};

const SOON: Duration = Duration::from_secs(5);

/// A node's two connections, and what it has said.
struct Talker<'a> {
    engine: &'a TestEngine,
    cluster: &'a str,
    life: Life,
    wire: Box<dyn Wire>,
    incarnation: Arc<str>,
    last: u64,
    position: String,
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn room() -> Room {
    Room::new("#dev").expect("a room")
}

fn piece(first: u64, names: &[&str]) -> Piece {
    let sender = name("alice");
    let names: Vec<_> = names.iter().map(|it| Recipient::parse(it).expect("a recipient")).collect();
    let room = match &names[0] {
        Recipient::Room(room, _) => Some(room),
        Recipient::Client(_) => None,
    };
    let origin =
        Origin { sender: &sender, room, from: 1, lowest: 1, first_line: first, messages: 1 };
    let to = room.map(|room| format!(" {room}")).unwrap_or_default();
    let body = parcel::write_piece(origin, format!("from alice{to}: {first}\n").as_bytes()).into();
    Piece { first, names, body }
}

impl<'a> Talker<'a> {
    /// A life that has entered; the first one opens the engine.
    fn enter(engine: &'a TestEngine, cluster: &'a str, life: &str) -> Self {
        let life = Life::new(life);
        let mut wire = engine.dialled(cluster).dial(SOON).expect("an engine");
        let hello = wire.hello(&life, 7).expect("an answer");
        let incarnation = Arc::clone(&hello.incarnation);
        let position = "0-0".to_owned();
        let mut talker = Self { engine, cluster, life, wire, incarnation, last: 0, position };
        let entrance = Entrance {
            incarnation: hello.incarnation,
            fresh: true,
            state: LifeState::Here,
            names: Vec::new(),
            seats: Vec::new(),
            known: Vec::new(),
        };
        let enter = Call::Enter { entrance: &entrance, last: 0 };
        assert_eq!(talker.call(&enter), Reply::Done);
        assert_eq!(talker.call(&enter), Reply::Done, "the second time");
        assert_eq!(talker.call(&Call::Open), Reply::Done);
        assert_eq!(talker.call(&Call::Open), Reply::Done, "the second time");
        talker.read();
        talker
    }

    fn call(&mut self, call: &Call<'_>) -> Reply {
        let calls = std::slice::from_ref(call);
        let replies = self.wire.run(&self.incarnation, &self.life, calls, SOON);
        replies.expect("replies").pop().expect("one reply")
    }

    /// Says it twice: the second time it changes nothing, and neither it does late, from the
    /// connection before.
    fn say(&mut self, command: &Command) -> Reply {
        let (engine, cluster) = (self.engine, self.cluster);
        self.last += 1;
        let call = Call::Run { number: self.last, command, overdue: " " };
        let reply = self.call(&call);
        let before = dump(engine, cluster);
        let again = self.call(&call);
        let same = matches!((&reply, &again), (Reply::Left(_), Reply::Left(_)));
        assert!(again == Reply::Done || same, "{again:?}");
        let mut old = engine.dialled(cluster).dial(SOON).expect("an engine");
        std::mem::swap(&mut old, &mut self.wire);
        old.run(&self.incarnation, &self.life, std::slice::from_ref(&call), SOON)
            .expect("a connection that is not closed yet");
        assert_eq!(dump(engine, cluster), before, "{command:?} is run twice");
        let early = Call::Run { number: self.last + 2, command, overdue: " " };
        assert!(!matches!(self.call(&early), Reply::Left(_)), "a number is left out");
        assert_eq!(dump(engine, cluster), before, "{command:?} is run out of order");
        reply
    }

    fn claim(&mut self, text: &str, session: Session) {
        self.say(&Command::Claim { name: name(text), session });
    }

    fn join(&mut self, text: &str, question: u64) {
        self.say(&Command::JoinRoom { question, room: room(), name: name(text) });
    }

    fn send(&mut self, pieces: Vec<Piece>) {
        self.say(&Command::Send(pieces));
    }

    /// Leaves, has no more to send, and asks for its release.
    fn stop(&mut self) {
        for command in [Command::Leave, Command::Cut, Command::Release { regardless: false }] {
            self.say(&command);
        }
    }

    fn read(&mut self) -> Vec<Entry> {
        self.wire.read(&self.life, &mut self.position, Duration::ZERO, SOON).expect("an inbox")
    }
}

/// Two lives of the cluster `x`.
fn two(engine: &TestEngine) -> [Talker<'_>; 2] {
    ["a.1", "b.2"].map(|life| Talker::enter(engine, "x", life))
}

/// All that the engine holds for a cluster.
fn dump(engine: &TestEngine, cluster: &str) -> Vec<String> {
    let mut all = engine.dialled(cluster).dump(SOON).expect("an engine that tells everything");
    all.sort();
    all
}

fn places(entries: &[Entry]) -> Vec<(String, Option<Place>)> {
    let placed = entries.iter().find_map(|entry| match entry {
        Entry::Placed { places, .. } => Some(places),
        _ => None,
    });
    placed
        .expect("an answer")
        .iter()
        .map(|(name, place)| (name.text().into_owned(), place.clone()))
        .collect()
}

fn numbers(entries: &[Entry]) -> Vec<(u64, Session)> {
    let pieces = entries.iter().filter_map(|entry| match entry {
        Entry::Message { pieces, .. } => Some(pieces),
        _ => None,
    });
    pieces.flatten().flat_map(|piece| piece.deliveries.clone()).collect()
}

#[test]
fn a_name_is_claimed_once_and_lines_reach_the_life_that_has_it() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    let claim = |session| Command::Claim { name: name("bob"), session };
    b.say(&claim(4));
    let mark = Entry::Mark { session: 4, name: name("bob"), claim: 1 };
    assert!(b.read().contains(&mark));
    a.say(&claim(9));
    assert!(a.read().contains(&Entry::Taken { session: 9 }));
    a.send(vec![piece(1, &["bob"]), piece(2, &["carol", "bob"])]);
    let at_b = Some(Place::At(Life::new("b.2")));
    assert_eq!(places(&a.read()), [("bob".to_owned(), at_b), ("carol".to_owned(), None)]);
    assert_eq!(numbers(&b.read()), [(1, 4), (3, 4)]);
    let who = Command::Who { question: 5, names: vec![name("bob"), name("carol")] };
    a.say(&who);
    let answer = Entry::Who { question: 5, count: 1, names: vec![name("bob")] };
    assert!(a.read().contains(&answer));
    b.say(&Command::Free { name: name("bob"), session: 5, claim: None });
    a.say(&claim(10));
    assert!(a.read().contains(&Entry::Taken { session: 10 }), "another session's name is not free");
    b.say(&Command::Free { name: name("bob"), session: 4, claim: Some(1) });
    a.say(&claim(11));
    assert!(a.read().contains(&Entry::Mark { session: 11, name: name("bob"), claim: 2 }));
}

/// Whatever is put together for the engine's sake, what one client gets is in order.
#[test]
fn pieces_for_one_client_stay_in_order_beside_those_for_several_and_for_rooms() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    b.claim("carol", 5);
    b.join("bob", 1);
    b.read();
    a.read();
    let pieces = vec![
        piece(1, &["bob"]),
        piece(2, &["carol"]),
        piece(3, &["bob"]),
        piece(4, &["carol", "bob"]),
        piece(6, &["bob"]),
        piece(7, &["#dev@b.2"]),
        piece(8, &["bob"]),
    ];
    a.send(pieces);
    let arrived = numbers(&b.read());
    let of = |wanted: &[Session]| -> Vec<u64> {
        let it = arrived.iter().filter(|(_, session)| wanted.contains(session));
        it.map(|(number, _)| *number).collect()
    };
    assert_eq!(of(&[4, ALL_MEMBERS]), [1, 3, 5, 6, 7, 8]);
    assert_eq!(of(&[5]), [2, 4]);
    let placed = a.read();
    let range = placed.iter().find_map(|entry| match entry {
        Entry::Placed { first, last, .. } => Some((*first, *last)),
        _ => None,
    });
    assert_eq!(range, Some((1, 8)));
    // What is held is kept in order, too, and its origin hears of each where it went.
    b.say(&Command::Leave);
    a.send(vec![piece(9, &["bob"]), piece(10, &["bob"])]);
    a.send(vec![piece(11, &["bob"])]);
    a.read();
    b.say(&Command::Cut);
    b.say(&Command::Release { regardless: false });
    a.claim("bob", 9);
    let entries = a.read();
    assert_eq!(numbers(&entries), [(9, 9), (10, 9), (11, 9)]);
    let moved = Entry::Moved { life: Life::new("a.1"), numbers: vec![9, 10, 11] };
    assert!(entries.contains(&moved), "{entries:?}");
}

#[test]
fn a_reaped_life_is_refused_and_its_names_are_free() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    let Reply::Lives { open: true, lives } = b.call(&Call::Renew { ping: true }) else {
        panic!("no lives");
    };
    assert_eq!(lives.len(), 2);
    let life = Life::new("b.2");
    a.read();
    a.call(&Call::Reap { life: &life, counter: 0 });
    assert!(!a.read().iter().any(|it| matches!(it, Entry::Event { .. })), "it was renewed since");
    let reap = Call::Reap { life: &life, counter: 1 };
    a.call(&reap);
    let reaped = Entry::Event { life: life.clone(), state: LifeState::Reaped };
    assert!(a.read().contains(&reaped));
    a.call(&reap);
    assert!(a.read().is_empty(), "the second time");
    let command = Command::Claim { name: name("bob"), session: 5 };
    let call = Call::Run { number: 2, command: &command, overdue: " " };
    assert_eq!(b.call(&call), Reply::Unknown);
    a.claim("bob", 9);
    assert!(a.read().iter().any(|entry| matches!(entry, Entry::Mark { session: 9, .. })));
}

#[test]
fn a_life_that_was_taken_for_dead_while_it_left_says_nothing_more() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    b.say(&Command::Leave);
    a.call(&Call::Reap { life: &Life::new("b.2"), counter: 0 });
    a.read();
    let before = dump(&engine, "x");
    let ack = Call::Ack { origin: &Life::new("a.1"), text: "1-2 - - - -" };
    let reap = Call::Reap { life: &Life::new("a.1"), counter: 0 };
    for call in [ack, reap, Call::Renew { ping: true }] {
        assert_eq!(b.call(&call), Reply::Unknown);
    }
    assert_eq!((dump(&engine, "x"), a.read()), (before, Vec::new()));
}

#[test]
fn acknowledgements_reach_the_origin_and_a_stale_incarnation_is_refused() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    let ack = Call::Ack { origin: &Life::new("a.1"), text: "1-2 - - - -" };
    assert_eq!(b.call(&ack), Reply::Done);
    let text = "1-2 - - - -".to_owned();
    assert!(a.read().contains(&Entry::Ack { from: Life::new("b.2"), text }));
    b.incarnation = "0-0".into();
    assert_eq!(b.call(&ack), Reply::Unknown);
    let command = Command::Leave;
    let leave = Call::Run { number: 1, command: &command, overdue: " " };
    assert_eq!(b.call(&leave), Reply::Unknown);
}

#[test]
fn clusters_of_different_names_do_not_meet() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "y", "b.2"));
    b.claim("bob", 4);
    a.send(vec![piece(1, &["bob"])]);
    assert_eq!(places(&a.read()), [("bob".to_owned(), None)]);
}

/// An acknowledgement and a renewal have no number: late or twice they say nothing that is not so.
#[test]
fn a_renewal_without_a_ping_renews_nothing_however_often_it_is_said() {
    let Some(engine) = TestEngine::start() else { return };
    let mut a = Talker::enter(&engine, "x", "a.1");
    a.call(&Call::Renew { ping: true });
    let before = dump(&engine, "x");
    for _ in 0..3 {
        let Reply::Lives { lives, .. } = a.call(&Call::Renew { ping: false }) else {
            panic!("no lives")
        };
        assert_eq!(lives, [(Life::new("a.1"), LifeState::Here, 1)]);
    }
    assert_eq!(dump(&engine, "x"), before);
}
