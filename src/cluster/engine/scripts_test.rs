//! Each script against a real engine: what it does, that it does nothing the second time, and nothing
//! when a closed connection brings it late.
#![allow(clippy::pedantic, reason = "small numbers, and long tests")]

use std::time::Duration;

use super::testing::TestEngine;
use super::*;
use crate::cluster::parcel::{self, Origin};

const SOON: Duration = Duration::from_secs(5);

/// A node's two connections, and what it has said.
struct Talker {
    life: Life,
    wire: Box<dyn Wire>,
    incarnation: Arc<str>,
    last: u64,
    position: String,
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
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

impl Talker {
    /// A life that has entered; the first one opens the engine.
    fn enter(engine: &TestEngine, cluster: &str, life: &str) -> Self {
        let life = Life::new(life);
        let mut wire = engine.dialled(cluster).dial(SOON).expect("an engine");
        let hello = wire.hello(&life, 7).expect("an answer");
        let incarnation = Arc::clone(&hello.incarnation);
        let mut talker = Self { life, wire, incarnation, last: 0, position: "0-0".to_owned() };
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
    fn say(&mut self, engine: &TestEngine, cluster: &str, command: &Command) -> Reply {
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

    fn read(&mut self) -> Vec<Entry> {
        self.wire.read(&self.life, &mut self.position, Duration::ZERO, SOON).expect("an inbox")
    }
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
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    let claim = |session| Command::Claim { name: name("bob"), session };
    b.say(&engine, "x", &claim(4));
    let mark = Entry::Mark { session: 4, name: name("bob"), claim: 1 };
    assert!(b.read().contains(&mark));
    a.say(&engine, "x", &claim(9));
    assert!(a.read().contains(&Entry::Taken { session: 9 }));
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["bob"]), piece(2, &["carol", "bob"])]));
    let at_b = Some(Place::At(Life::new("b.2")));
    assert_eq!(places(&a.read()), [("bob".to_owned(), at_b), ("carol".to_owned(), None)]);
    assert_eq!(numbers(&b.read()), [(1, 4), (3, 4)]);
    let who = Command::Who { question: 5, names: vec![name("bob"), name("carol")] };
    a.say(&engine, "x", &who);
    let answer = Entry::Who { question: 5, count: 1, names: vec![name("bob")] };
    assert!(a.read().contains(&answer));
    b.say(&engine, "x", &Command::Free { name: name("bob"), session: 5, claim: None });
    a.say(&engine, "x", &claim(10));
    assert!(a.read().contains(&Entry::Taken { session: 10 }), "another session's name is not free");
    b.say(&engine, "x", &Command::Free { name: name("bob"), session: 4, claim: Some(1) });
    a.say(&engine, "x", &claim(11));
    assert!(a.read().contains(&Entry::Mark { session: 11, name: name("bob"), claim: 2 }));
}

#[test]
fn lines_for_a_client_that_moves_are_held_and_follow_it_in_front_of_its_login() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::Leave);
    a.read();
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["bob"])]));
    assert_eq!(places(&a.read()), [("bob".to_owned(), Some(Place::Held))]);
    a.say(&engine, "x", &Command::Claim { name: name("bob"), session: 9 });
    assert!(a.read().contains(&Entry::ClaimLater { session: 9 }), "it may still speak there");
    b.say(&engine, "x", &Command::Cut);
    b.say(&engine, "x", &Command::Release { regardless: false });
    assert!(b.read().contains(&Entry::Released));
    a.say(&engine, "x", &Command::Send(vec![piece(2, &["bob"])]));
    a.read();
    a.say(&engine, "x", &Command::Claim { name: name("bob"), session: 10 });
    let entries = a.read();
    assert_eq!(numbers(&entries), [(1, 10), (2, 10)]);
    let at = |wanted: fn(&Entry) -> bool| entries.iter().position(wanted).expect("an entry");
    let message = at(|entry| matches!(entry, Entry::Message { .. }));
    assert!(message < at(|entry| matches!(entry, Entry::Mark { .. })), "first what was held");
    at(|entry| matches!(entry, Entry::Moved { .. }));
}

/// Whatever is put together for the engine's sake, what one client gets is in order.
#[test]
fn pieces_for_one_client_stay_in_order_beside_those_for_several_and_for_rooms() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::Claim { name: name("carol"), session: 5 });
    let room = Room::new("#dev").expect("a room");
    b.say(&engine, "x", &Command::JoinRoom { question: 1, room, name: name("bob") });
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
    a.say(&engine, "x", &Command::Send(pieces));
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
    b.say(&engine, "x", &Command::Leave);
    a.say(&engine, "x", &Command::Send(vec![piece(9, &["bob"]), piece(10, &["bob"])]));
    a.say(&engine, "x", &Command::Send(vec![piece(11, &["bob"])]));
    a.read();
    b.say(&engine, "x", &Command::Cut);
    b.say(&engine, "x", &Command::Release { regardless: false });
    a.say(&engine, "x", &Command::Claim { name: name("bob"), session: 9 });
    let entries = a.read();
    assert_eq!(numbers(&entries), [(9, 9), (10, 9), (11, 9)]);
    let moved = Entry::Moved { life: Life::new("a.1"), numbers: vec![9, 10, 11] };
    assert!(entries.contains(&moved), "{entries:?}");
}

#[test]
fn when_all_leave_what_is_held_comes_back() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::Leave);
    b.read();
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["bob"])]));
    b.say(&engine, "x", &Command::Cut);
    assert_eq!(numbers(&b.read()), []);
    a.say(&engine, "x", &Command::Leave);
    assert_eq!(numbers(&b.read()), [(1, 4)]);
    b.say(&engine, "x", &Command::Release { regardless: false });
    assert!(b.read().contains(&Entry::ReleaseLater), "a may have lines to send");
    a.say(&engine, "x", &Command::Send(vec![piece(2, &["bob"])]));
    assert_eq!(numbers(&b.read()), [(2, 4)], "both leave, so it comes at once");
    a.say(&engine, "x", &Command::Cut);
    b.say(&engine, "x", &Command::Release { regardless: false });
    assert!(b.read().contains(&Entry::Released));
}

#[test]
fn the_last_life_to_end_gets_what_is_still_held() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::Leave);
    b.say(&engine, "x", &Command::Cut);
    b.say(&engine, "x", &Command::Release { regardless: false });
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["bob"])]));
    assert_eq!(b.say(&engine, "x", &Command::Down), Reply::Done);
    a.say(&engine, "x", &Command::Leave);
    a.say(&engine, "x", &Command::Cut);
    a.say(&engine, "x", &Command::Release { regardless: false });
    let Reply::Left(left) = a.say(&engine, "x", &Command::Down) else { panic!("nothing is left") };
    let origins: Vec<_> =
        left.iter().map(|(origin, to, _)| (origin.as_str(), to.as_str())).collect();
    assert_eq!(origins, [("a.1", "bob")]);
    assert_eq!(a.call(&Call::Forget), Reply::Done);
    assert_eq!(a.call(&Call::Forget), Reply::Done, "the second time");
}

#[test]
fn a_hold_that_is_over_is_named_by_who_ends_it() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    for command in [Command::Leave, Command::Cut, Command::Release { regardless: false }] {
        b.say(&engine, "x", &command);
    }
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["bob"])]));
    b.say(&engine, "x", &Command::Down);
    a.read();
    a.say(&engine, "x", &Command::EndHold { life: Life::new("b.2") });
    let over = a.read();
    let over: Vec<_> = over.iter().filter(|it| matches!(it, Entry::HoldOver { .. })).collect();
    assert_eq!(over.len(), 1);
    a.say(&engine, "x", &Command::Claim { name: name("bob"), session: 9 });
    assert!(a.read().iter().any(|entry| matches!(entry, Entry::Mark { session: 9, .. })));
}

#[test]
fn a_reaped_life_is_refused_and_its_names_are_free() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
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
    a.say(&engine, "x", &Command::Claim { name: name("bob"), session: 9 });
    assert!(a.read().iter().any(|entry| matches!(entry, Entry::Mark { session: 9, .. })));
}

#[test]
fn a_life_that_was_taken_for_dead_while_it_left_says_nothing_more() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::Leave);
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
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
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
    b.say(&engine, "y", &Command::Claim { name: name("bob"), session: 4 });
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["bob"])]));
    assert_eq!(places(&a.read()), [("bob".to_owned(), None)]);
}

/// An origin of which something is told may have died with the engine.
#[test]
fn what_is_told_of_an_origin_that_does_not_come_is_deleted_when_the_engine_is_open() {
    let Some(engine) = TestEngine::start() else { return };
    let life = Life::new("a.1");
    let mut wire = engine.dialled("x").dial(SOON).expect("an engine");
    let incarnation = wire.hello(&life, 7).expect("an answer").incarnation;
    let known = vec![(Life::new("gone.9"), "1-2 - - - -".to_owned())];
    let entrance = Entrance {
        incarnation: Arc::clone(&incarnation),
        fresh: false,
        state: LifeState::Here,
        names: Vec::new(),
        seats: Vec::new(),
        known,
    };
    let mut call = |call| wire.run(&incarnation, &life, &[call], SOON).expect("replies");
    assert_eq!(call(Call::Enter { entrance: &entrance, last: 0 }), [Reply::Done]);
    let told = |all: Vec<String>| all.iter().filter(|key| key.contains("told:")).count();
    assert_eq!(told(dump(&engine, "x")), 1);
    assert_eq!(call(Call::Open), [Reply::Done]);
    assert_eq!(told(dump(&engine, "x")), 0);
}

/// Room and lives that an entry tells of, and who came or left.
fn rooms(entries: &[Entry]) -> Vec<(usize, Option<(String, bool)>)> {
    let told = entries.iter().filter_map(|entry| match entry {
        Entry::Room { lives, moved, .. } => Some((lives.len(), moved)),
        _ => None,
    });
    told.map(|(lives, moved)| {
        let moved = moved.as_ref().map(|(name, has_joined)| (name.to_string(), *has_joined));
        (lives, moved)
    })
    .collect()
}

#[test]
fn a_room_is_joined_asked_about_and_left_once() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    let room = Room::new("#dev").expect("a room");
    let join =
        |text, question| Command::JoinRoom { question, room: room.clone(), name: name(text) };
    let part = |text| Command::PartRoom { room: room.clone(), name: name(text) };
    let moved = |text: &str, has_joined| Some((text.to_owned(), has_joined));
    let answer = |question, count, names: &[&str]| {
        let names = names.iter().map(|text| name(text)).collect();
        Entry::Who { question, count, names }
    };
    a.say(&engine, "x", &join("alice", 1));
    let entries = a.read();
    assert_eq!(rooms(&entries), [(1, moved("alice", true))]);
    assert!(entries.contains(&answer(1, 1, &[])), "{entries:?}");
    b.say(&engine, "x", &join("bob", 2));
    let entries = b.read();
    assert_eq!(rooms(&entries), [(2, moved("bob", true))]);
    assert!(entries.contains(&answer(2, 2, &[])), "{entries:?}");
    assert_eq!(rooms(&a.read()), [(2, moved("bob", true))]);
    // A copy for each life with members, and none where there is nobody.
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["#dev@b.2"])]));
    assert_eq!(places(&a.read()), [("#dev@b.2".to_owned(), Some(Place::At(Life::new("b.2"))))]);
    a.say(&engine, "x", &Command::WhoIn { question: 3, room: room.clone() });
    assert_eq!(a.read(), [answer(3, 2, &["alice", "bob"])]);
    b.read();
    b.say(&engine, "x", &part("bob"));
    assert_eq!(rooms(&b.read()), [], "nobody is left there who would be told");
    assert_eq!(rooms(&a.read()), [(1, moved("bob", false))]);
    a.say(&engine, "x", &Command::Send(vec![piece(2, &["#dev@b.2"])]));
    assert_eq!(places(&a.read()), [("#dev@b.2".to_owned(), None)]);
    b.say(&engine, "x", &part("bob"));
    assert_eq!(rooms(&a.read()), [], "he has left already");
    a.say(&engine, "x", &part("alice"));
    assert!(!dump(&engine, "x").iter().any(|key| key.contains("#dev")), "{:?}", dump(&engine, "x"));
}

/// What is said without a number: at the beginning of an incarnation, and at the end of the last life.
#[test]
fn an_entrance_that_is_repeated_or_late_changes_nothing() {
    let Some(engine) = TestEngine::start() else { return };
    let life = Life::new("a.1");
    let mut wire = engine.dialled("x").dial(SOON).expect("an engine");
    let incarnation = wire.hello(&life, 7).expect("an answer").incarnation;
    let mut late = engine.dialled("x").dial(SOON).expect("an engine");
    let entrance = |incarnation: &Arc<str>| Entrance {
        incarnation: Arc::clone(incarnation),
        fresh: false,
        state: LifeState::Here,
        names: vec![(name("bob"), 4, 3)],
        seats: vec![(Room::new("#dev").expect("a room"), name("bob"))],
        known: vec![(life.clone(), "1-2 - - - -".to_owned())],
    };
    let own = entrance(&incarnation);
    let enter = Call::Enter { entrance: &own, last: 5 };
    let mut said = Vec::new();
    for call in [&enter, &Call::Open] {
        let run = |wire: &mut Box<dyn Wire>| {
            wire.run(&incarnation, &life, std::slice::from_ref(call), SOON).expect("replies")
        };
        assert_eq!(run(&mut wire), [Reply::Done]);
        said.push(call);
        let before = dump(&engine, "x");
        assert_eq!(run(&mut wire), [Reply::Done], "the second time");
        for call in &said {
            let calls = std::slice::from_ref(*call);
            late.run(&incarnation, &life, calls, SOON)
                .expect("a connection that is not closed yet");
        }
        assert_eq!(wire.hello(&life, 8).expect("an answer").incarnation, incarnation);
        late.run(&incarnation, &life, &[Call::Forget], SOON).expect("replies");
        assert_eq!(dump(&engine, "x"), before, "{call:?}");
    }
    // Nor does what is meant for another incarnation.
    let before = dump(&engine, "x");
    let other = entrance(&"0-0".into());
    for call in [Call::Enter { entrance: &other, last: 9 }, Call::Open, Call::Forget] {
        let reply = late.run("0-0", &life, &[call], SOON).expect("replies");
        assert_eq!(reply, [Reply::Unknown]);
    }
    assert_eq!(dump(&engine, "x"), before);
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

/// Who leaves may send to who leaves, but not past what is held already.
#[test]
fn a_line_behind_a_hold_is_held_whoever_sends_it() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b, mut c] = ["a.1", "b.2", "c.3"].map(|life| Talker::enter(&engine, "x", life));
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::Claim { name: name("bill"), session: 5 });
    b.say(&engine, "x", &Command::Leave);
    b.read();
    a.read();
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["bob"])]));
    assert_eq!(places(&a.read()), [("bob".to_owned(), Some(Place::Held))]);
    a.say(&engine, "x", &Command::Leave);
    a.say(&engine, "x", &Command::Send(vec![piece(2, &["bob", "bill"])]));
    let at_b = Some(Place::At(Life::new("b.2")));
    let expected = [("bob".to_owned(), Some(Place::Held)), ("bill".to_owned(), at_b)];
    assert_eq!(places(&a.read()), expected);
    assert_eq!(numbers(&b.read()), [(3, 5)], "nothing overtakes the first line");
    // The last that could have taken him in leaves, too.
    c.say(&engine, "x", &Command::Leave);
    assert_eq!(numbers(&b.read()), [(1, 4), (2, 4)]);
}

/// A room's member gets no line that overtakes one to its name, and misses none before a later one.
#[test]
fn lines_to_a_room_wait_behind_what_is_held_for_its_members() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    let room = Room::new("#dev").expect("a room");
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::JoinRoom { question: 1, room, name: name("bob") });
    b.say(&engine, "x", &Command::Leave);
    b.read();
    a.read();
    let place = |entries: &[Entry]| places(entries)[0].1.clone();
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["#dev@b.2"])]));
    assert_eq!(place(&a.read()), Some(Place::At(Life::new("b.2"))), "nothing is held yet");
    for (number, piece) in
        [(2, piece(2, &["bob"])), (3, piece(3, &["#dev@b.2"])), (4, piece(4, &["bob"]))]
    {
        a.say(&engine, "x", &Command::Send(vec![piece]));
        assert_eq!(place(&a.read()), Some(Place::Held), "{number}");
    }
    assert_eq!(numbers(&b.read()), [(1, 0)]);
    a.say(&engine, "x", &Command::Leave);
    assert_eq!(
        numbers(&b.read()),
        [(2, 4), (3, 0), (4, 4)],
        "in the order in which they were said"
    );
    let moved = a.read();
    let moved = moved.iter().find_map(|entry| match entry {
        Entry::Moved { numbers, .. } => Some(numbers.clone()),
        _ => None,
    });
    assert_eq!(moved, Some(vec![2, 3, 4]));
}

/// Also in one command: something is held for somebody else, so a line to the room waits, and with it
/// what is behind it for a member's name.
#[test]
fn lines_to_a_members_name_do_not_overtake_those_to_its_room_in_the_same_command() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    let mut c = Talker::enter(&engine, "x", "c.3");
    let room = Room::new("#dev").expect("a room");
    for (session, text) in [(4, "bob"), (5, "carol")] {
        b.say(&engine, "x", &Command::Claim { name: name(text), session });
    }
    b.say(&engine, "x", &Command::JoinRoom { question: 1, room, name: name("bob") });
    b.say(&engine, "x", &Command::Leave);
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["carol"])]));
    // As long as another node runs, carol may move to it.
    a.say(&engine, "x", &Command::Leave);
    a.read();
    b.read();
    let pieces = vec![piece(2, &["bob"]), piece(3, &["#dev@b.2"]), piece(4, &["bob"])];
    a.say(&engine, "x", &Command::Send(pieces));
    let placed = places(&a.read());
    assert!(placed.iter().all(|(_, place)| *place == Some(Place::Held)), "{placed:?}");
    assert_eq!(numbers(&b.read()), []);
    c.say(&engine, "x", &Command::Leave);
    assert_eq!(numbers(&b.read()), [(1, 5), (2, 4), (3, 0), (4, 4)]);
}

#[test]
fn what_is_held_for_a_room_ends_with_its_members() {
    let Some(engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    let room = Room::new("#dev").expect("a room");
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::JoinRoom { question: 1, room, name: name("bob") });
    b.say(&engine, "x", &Command::Leave);
    let pieces = vec![piece(1, &["bob"]), piece(2, &["#dev@b.2"]), piece(3, &["#dev@b.2"])];
    a.say(&engine, "x", &Command::Send(pieces));
    a.read();
    b.say(&engine, "x", &Command::Cut);
    b.say(&engine, "x", &Command::Release { regardless: false });
    let entries = a.read();
    let dropped = entries.iter().find_map(|entry| match entry {
        Entry::Placed { first, last, places } => Some((*first, *last, places.clone())),
        _ => None,
    });
    let copies = Recipient::parse("#dev@b.2").expect("a recipient");
    assert_eq!(dropped, Some((2, 3, vec![(copies, None)])));
    // What is held for him by name follows him.
    a.say(&engine, "x", &Command::Claim { name: name("bob"), session: 9 });
    assert_eq!(numbers(&a.read()), [(1, 9)]);
    assert!(!dump(&engine, "x").iter().any(|key| key.contains(":hold")));
}

/// The engine comes back with a tail of what it had: none of it is read on.
#[test]
fn what_an_engine_has_left_of_a_former_incarnation_is_deleted_before_anything_is_said() {
    let Some(mut engine) = TestEngine::start() else { return };
    let (mut a, mut b) = (Talker::enter(&engine, "x", "a.1"), Talker::enter(&engine, "x", "b.2"));
    let room = Room::new("#dev").expect("a room");
    b.say(&engine, "x", &Command::Claim { name: name("bob"), session: 4 });
    b.say(&engine, "x", &Command::JoinRoom { question: 1, room, name: name("bob") });
    a.say(&engine, "x", &Command::Send(vec![piece(1, &["bob"])]));
    b.say(&engine, "x", &Command::Leave);
    a.say(&engine, "x", &Command::Send(vec![piece(2, &["bob"])]));
    engine.restart_from_a_copy();
    assert!(dump(&engine, "x").len() > 5, "it has come back with all of it");
    let mut wire = engine.dialled("x").dial(SOON).expect("an engine");
    let hello = wire.hello(&b.life, 9).expect("an answer");
    assert!(hello.incarnation != b.incarnation && !hello.open && hello.state.is_none());
    let left = dump(&engine, "x");
    assert_eq!(left.len(), 1, "only which incarnation it is: {left:?}");
    let mut position = "0-0".to_owned();
    assert_eq!(wire.read(&b.life, &mut position, Duration::ZERO, SOON).expect("an inbox"), []);
}
