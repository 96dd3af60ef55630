//! Rooms: who joins and leaves them, and lines to them beside those to their members.

use super::*;

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
    let [mut a, mut b] = two(&engine);
    let join = |text, question| Command::JoinRoom { question, room: room(), name: name(text) };
    let part = |text| Command::PartRoom { room: room(), name: name(text) };
    let moved = |text: &str, has_joined| Some((text.to_owned(), has_joined));
    let answer = |question, count, names: &[&str]| {
        let names = names.iter().map(|text| name(text)).collect();
        Entry::Who { question, count, names }
    };
    a.say(&join("alice", 1));
    let entries = a.read();
    assert_eq!(rooms(&entries), [(1, moved("alice", true))]);
    assert!(entries.contains(&answer(1, 1, &[])), "{entries:?}");
    b.say(&join("bob", 2));
    let entries = b.read();
    assert_eq!(rooms(&entries), [(2, moved("bob", true))]);
    assert!(entries.contains(&answer(2, 2, &[])), "{entries:?}");
    assert_eq!(rooms(&a.read()), [(2, moved("bob", true))]);
    // A copy for each life with members, and none where there is nobody.
    a.send(vec![piece(1, &["#dev@b.2"])]);
    assert_eq!(places(&a.read()), [("#dev@b.2".to_owned(), Some(Place::At(Life::new("b.2"))))]);
    a.say(&Command::WhoIn { question: 3, room: room() });
    assert_eq!(a.read(), [answer(3, 2, &["alice", "bob"])]);
    b.read();
    b.say(&part("bob"));
    assert_eq!(rooms(&b.read()), [], "nobody is left there who would be told");
    assert_eq!(rooms(&a.read()), [(1, moved("bob", false))]);
    a.send(vec![piece(2, &["#dev@b.2"])]);
    assert_eq!(places(&a.read()), [("#dev@b.2".to_owned(), None)]);
    b.say(&part("bob"));
    assert_eq!(rooms(&a.read()), [], "he has left already");
    a.say(&part("alice"));
    assert!(!dump(&engine, "x").iter().any(|key| key.contains("#dev")), "{:?}", dump(&engine, "x"));
}

/// A room's member gets no line that overtakes one to its name, and misses none before a later one.
#[test]
fn lines_to_a_room_wait_behind_what_is_held_for_its_members() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    b.join("bob", 1);
    b.say(&Command::Leave);
    b.read();
    a.read();
    let place = |entries: &[Entry]| places(entries)[0].1.clone();
    a.send(vec![piece(1, &["#dev@b.2"])]);
    assert_eq!(place(&a.read()), Some(Place::At(Life::new("b.2"))), "nothing is held yet");
    for (number, piece) in
        [(2, piece(2, &["bob"])), (3, piece(3, &["#dev@b.2"])), (4, piece(4, &["bob"]))]
    {
        a.send(vec![piece]);
        assert_eq!(place(&a.read()), Some(Place::Held), "{number}");
    }
    assert_eq!(numbers(&b.read()), [(1, 0)]);
    a.say(&Command::Leave);
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
    let [mut a, mut b] = two(&engine);
    let mut c = Talker::enter(&engine, "x", "c.3");
    for (session, text) in [(4, "bob"), (5, "carol")] {
        b.claim(text, session);
    }
    b.join("bob", 1);
    b.say(&Command::Leave);
    a.send(vec![piece(1, &["carol"])]);
    // As long as another node runs, carol may move to it.
    a.say(&Command::Leave);
    a.read();
    b.read();
    let pieces = vec![piece(2, &["bob"]), piece(3, &["#dev@b.2"]), piece(4, &["bob"])];
    a.send(pieces);
    let placed = places(&a.read());
    assert!(placed.iter().all(|(_, place)| *place == Some(Place::Held)), "{placed:?}");
    assert_eq!(numbers(&b.read()), []);
    c.say(&Command::Leave);
    assert_eq!(numbers(&b.read()), [(1, 5), (2, 4), (3, 0), (4, 4)]);
}

#[test]
fn what_is_held_for_a_room_ends_with_its_members() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    b.join("bob", 1);
    b.say(&Command::Leave);
    let pieces = vec![piece(1, &["bob"]), piece(2, &["#dev@b.2"]), piece(3, &["#dev@b.2"])];
    a.send(pieces);
    a.read();
    b.say(&Command::Cut);
    b.say(&Command::Release { regardless: false });
    let entries = a.read();
    let dropped = entries.iter().find_map(|entry| match entry {
        Entry::Placed { first, last, places } => Some((*first, *last, places.clone())),
        _ => None,
    });
    let copies = Recipient::parse("#dev@b.2").expect("a recipient");
    assert_eq!(dropped, Some((2, 3, vec![(copies, None)])));
    // What is held for him by name follows him.
    a.claim("bob", 9);
    assert_eq!(numbers(&a.read()), [(1, 9)]);
    assert!(!dump(&engine, "x").iter().any(|key| key.contains(":hold")));
}
