//! What is held for clients of nodes that leave: it follows them, comes back, or is named.

use super::*;

/// Two lives, of which b has ended, and what the first has sent to b's client is held.
fn held_for_bob(engine: &TestEngine, pieces: Vec<Piece>) -> [Talker<'_>; 2] {
    let [mut a, mut b] = two(engine);
    b.claim("bob", 4);
    b.stop();
    a.send(pieces);
    assert_eq!(b.say(&Command::Down), Reply::Done);
    a.read();
    [a, b]
}

#[test]
fn lines_for_a_client_that_moves_are_held_and_follow_it_in_front_of_its_login() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    b.say(&Command::Leave);
    a.read();
    a.send(vec![piece(1, &["bob"])]);
    assert_eq!(places(&a.read()), [("bob".to_owned(), Some(Place::Held))]);
    a.claim("bob", 9);
    assert!(a.read().contains(&Entry::ClaimLater { session: 9 }), "it may still speak there");
    b.say(&Command::Cut);
    b.say(&Command::Release { regardless: false });
    assert!(b.read().contains(&Entry::Released));
    a.send(vec![piece(2, &["bob"])]);
    a.read();
    a.claim("bob", 10);
    let entries = a.read();
    assert_eq!(numbers(&entries), [(1, 10), (2, 10)]);
    let at = |wanted: fn(&Entry) -> bool| entries.iter().position(wanted).expect("an entry");
    let message = at(|entry| matches!(entry, Entry::Message { .. }));
    assert!(message < at(|entry| matches!(entry, Entry::Mark { .. })), "first what was held");
    at(|entry| matches!(entry, Entry::Moved { .. }));
}

#[test]
fn when_all_leave_what_is_held_comes_back() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    b.say(&Command::Leave);
    b.read();
    a.send(vec![piece(1, &["bob"])]);
    b.say(&Command::Cut);
    assert_eq!(numbers(&b.read()), []);
    a.say(&Command::Leave);
    assert_eq!(numbers(&b.read()), [(1, 4)]);
    b.say(&Command::Release { regardless: false });
    assert!(b.read().contains(&Entry::ReleaseLater), "a may have lines to send");
    a.send(vec![piece(2, &["bob"])]);
    assert_eq!(numbers(&b.read()), [(2, 4)], "both leave, so it comes at once");
    a.say(&Command::Cut);
    b.say(&Command::Release { regardless: false });
    assert!(b.read().contains(&Entry::Released));
}

#[test]
fn the_last_life_to_end_gets_what_is_still_held() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, _b] = held_for_bob(&engine, vec![piece(1, &["bob"])]);
    a.stop();
    let Reply::Left(left) = a.say(&Command::Down) else { panic!("nothing is left") };
    let origins: Vec<_> =
        left.iter().map(|(origin, to, _)| (origin.as_str(), to.as_str())).collect();
    assert_eq!(origins, [("a.1", "bob")]);
    assert_eq!(a.call(&Call::Forget), Reply::Done);
    assert_eq!(a.call(&Call::Forget), Reply::Done, "the second time");
}

/// It was held for a client, and would be delivered to it, or named a second time.
#[test]
fn a_life_that_enters_while_the_last_one_names_what_is_held_finds_nothing_of_it() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, b] = held_for_bob(&engine, vec![piece(1, &["bob"])]);
    a.stop();
    let left = a.say(&Command::Down);
    assert!(matches!(&left, Reply::Left(held) if held.len() == 1), "{left:?}");
    let mut c = Talker::enter(&engine, "x", "c.3");
    let down = Call::Run { number: a.last, command: &Command::Down, overdue: " " };
    assert_eq!(a.call(&down), left, "though somebody is there now");
    c.claim("bob", 9);
    c.send(vec![piece(1, &["bob"])]);
    let entries = c.read();
    assert_eq!(numbers(&entries), [(1, 9)], "only its own line");
    assert_eq!(a.call(&Call::Forget), Reply::Done);
    for life in [a.life.clone(), b.life.clone()] {
        c.say(&Command::EndHold { life });
    }
    assert!(!c.read().iter().any(|entry| matches!(entry, Entry::HoldOver { .. })));
    let keys = dump(&engine, "x");
    assert!(!keys.iter().any(|key| key.contains(":left") || key.contains(":hold")), "{keys:?}");
    c.stop();
    c.say(&Command::Down);
    c.call(&Call::Forget);
    let keys = dump(&engine, "x");
    assert_eq!(keys.len(), 1, "only which incarnation it is: {keys:?}");
}

/// It may be killed when it has taken over what is held, and before its report is written.
#[test]
fn what_the_last_life_did_not_live_to_name_is_named_by_who_ends_its_hold() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, _b] = held_for_bob(&engine, vec![piece(1, &["bob"]), piece(2, &["bob"])]);
    a.stop();
    a.say(&Command::Down);
    // Another one that comes and ends meanwhile does not make the engine forget it.
    let mut d = Talker::enter(&engine, "x", "d.4");
    d.stop();
    assert_eq!(d.say(&Command::Down), Reply::Left(Vec::new()));
    d.call(&Call::Forget);
    let mut c = Talker::enter(&engine, "x", "c.3");
    c.say(&Command::EndHold { life: a.life.clone() });
    let over = c.read();
    let over = over.iter().filter(|entry| matches!(entry, Entry::HoldOver { .. }));
    assert_eq!(over.count(), 1, "a bundle of both");
    assert_eq!(a.call(&Call::Forget), Reply::Done, "too late, and without harm");
}

#[test]
fn a_hold_that_is_over_is_named_by_who_ends_it() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, _b] = held_for_bob(&engine, vec![piece(1, &["bob"])]);
    a.say(&Command::EndHold { life: Life::new("b.2") });
    let over = a.read();
    let over: Vec<_> = over.iter().filter(|it| matches!(it, Entry::HoldOver { .. })).collect();
    assert_eq!(over.len(), 1);
    a.claim("bob", 9);
    assert!(a.read().iter().any(|entry| matches!(entry, Entry::Mark { session: 9, .. })));
}

/// Who leaves may send to who leaves, but not past what is held already.
#[test]
fn a_line_behind_a_hold_is_held_whoever_sends_it() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b, mut c] = ["a.1", "b.2", "c.3"].map(|life| Talker::enter(&engine, "x", life));
    b.claim("bob", 4);
    b.claim("bill", 5);
    b.say(&Command::Leave);
    b.read();
    a.read();
    a.send(vec![piece(1, &["bob"])]);
    assert_eq!(places(&a.read()), [("bob".to_owned(), Some(Place::Held))]);
    a.say(&Command::Leave);
    a.send(vec![piece(2, &["bob", "bill"])]);
    let at_b = Some(Place::At(Life::new("b.2")));
    let expected = [("bob".to_owned(), Some(Place::Held)), ("bill".to_owned(), at_b)];
    assert_eq!(places(&a.read()), expected);
    assert_eq!(numbers(&b.read()), [(3, 5)], "nothing overtakes the first line");
    // The last that could have taken him in leaves, too.
    c.say(&Command::Leave);
    assert_eq!(numbers(&b.read()), [(1, 4), (2, 4)]);
}

/// It has left, and its node leaves: what is held for it must not be without an owner.
#[test]
fn what_is_held_for_a_client_that_leaves_before_its_node_comes_back_to_that() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    for (session, text) in [(4, "bob"), (5, "carol")] {
        b.claim(text, session);
    }
    b.say(&Command::Leave);
    a.send(vec![piece(1, &["bob"])]);
    for (session, text) in [(4, "bob"), (5, "carol")] {
        b.say(&Command::Free { name: name(text), session, claim: None });
    }
    b.read();
    a.read();
    a.claim("carol", 9);
    assert!(a.read().iter().any(|it| matches!(it, Entry::Mark { session: 9, .. })), "it is free");
    a.say(&Command::Leave);
    assert_eq!(numbers(&b.read()), [(1, 4)]);
    b.say(&Command::Free { name: name("bob"), session: 4, claim: None });
    assert!(!dump(&engine, "x").iter().any(|key| key.contains(":hold")));
    let who = Command::Who { question: 1, names: vec![name("bob")] };
    b.say(&who);
    let nobody = Entry::Who { question: 1, count: 1, names: Vec::new() };
    assert!(b.read().contains(&nobody), "now it is free");
}

#[test]
fn a_life_that_was_released_gets_no_name() {
    let Some(engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    b.stop();
    a.send(vec![piece(1, &["bob"])]);
    b.read();
    b.claim("bob", 5);
    assert_eq!(b.read(), [Entry::Taken { session: 5 }]);
    a.claim("bob", 9);
    assert_eq!(numbers(&a.read()), [(1, 9)], "it was kept for a node that reads it");
}
