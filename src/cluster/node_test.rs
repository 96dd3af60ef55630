//! What a node makes of the entries of its inbox, without an engine.
#![allow(clippy::pedantic, reason = "small numbers")]

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::answers::Answer;
use crate::cluster::engine::{Entry, Life, LifeState, Place, Recipient};
use crate::cluster::node::{Effect, Node, Order, Payload};
use crate::cluster::outbox::Outbox;
use crate::cluster::outgoing::Sums;
use crate::wire::loss::LossReason;
use crate::wire::name::Name;
use crate::wire::room::Room;

const ALICE: u64 = 7;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn life(text: &str) -> Life {
    Life::new(text)
}

fn payload(room: Option<&Room>) -> Payload<()> {
    let frames = Arc::new(b"from alice: x\n".to_vec());
    Payload { from: name("alice"), room: room.cloned(), frames, range: 0..14, charge: () }
}

/// One message of alice's for each of these, whose places are told.
fn forward(node: &mut Node<(), ()>, line: u64, to: &[(&str, Place)]) {
    let first = node.outgoing.next_number();
    let names = to.iter().map(|(text, _)| name(text)).collect();
    node.forward(ALICE, names, line..line + 1, Vec::new(), payload(None));
    let places = to.iter().map(|(text, place)| (name(text).into(), Some(place.clone())));
    let places = places.collect::<Vec<(Recipient, _)>>();
    let last = first + places.len() as u64 - 1;
    read(node, Entry::Placed { first, last, places });
}

fn read(node: &mut Node<(), ()>, entry: Entry) -> Vec<Effect> {
    let mut effects = Vec::new();
    node.read(entry, &mut effects);
    effects
}

/// What a node is told of losses, and that everything is accounted for.
fn told(effects: &[Effect]) -> Vec<String> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Unsettled(it) => {
            Some(format!("line {} to {} in doubt", it.first_line, it.name.text()))
        }
        Effect::Unconfirmed(it) => {
            Some(format!("line {} to {} unconfirmed", it.first_line, it.name.text()))
        }
        Effect::Accounted { session } => Some(format!("all of {session} is accounted for")),
        _ => None,
    });
    told.collect()
}

/// A second signal, or a drain that is over, ends a node before it has taken over what it was sent.
#[test]
fn a_life_that_ends_leaves_no_account_open() {
    let mut node = Node::new(life("a.1"));
    let (c, d) = (life("c.1"), life("d.1"));
    let at_c = || Place::At(c.clone());
    forward(&mut node, 1, &[("bob", at_c())]);
    forward(&mut node, 2, &[("bob", at_c()), ("dave", Place::At(d.clone()))]);
    let room = Room::new("#dev").expect("a room");
    node.join_room(ALICE, room.clone(), name("alice"));
    read(&mut node, Entry::Room { room: room.clone(), lives: vec![c.clone()], moved: None });
    node.forward_to_room(ALICE, &room, Vec::new(), 3..4, payload(Some(&room)));
    let copy = (Recipient::Room(room, c.clone()), Some(at_c()));
    read(&mut node, Entry::Placed { first: 4, last: 4, places: vec![copy] });
    // The first line is taken over, and nothing of it is told after that.
    read(&mut node, Entry::Ack { from: c.clone(), text: "1 - - - -".to_owned() });
    assert!(node.ask_about(ALICE) && !node.outgoing.is_handed_over());
    let effects = read(&mut node, Entry::Event { life: c.clone(), state: LifeState::Down });
    assert_eq!(
        told(&effects),
        ["line 1 to bob unconfirmed", "line 2 to bob in doubt", "line 3 to #dev@c.1 in doubt"]
    );
    // What lies with others goes on as before, and then alice's question has its answer.
    assert!(!node.outgoing.is_handed_over() && node.outgoing.is_open(ALICE));
    let effects = read(&mut node, Entry::Ack { from: d, text: "3 3 3 - -".to_owned() });
    assert_eq!(told(&effects), [format!("all of {ALICE} is accounted for")]);
    assert!(node.outgoing.is_handed_over());
    assert_eq!(node.outgoing.budget.total(), 0);
    // Each message has one owner: the life that ended accounts for what it had taken over.
    let (unsettled, unconfirmed) = node.finish(u64::MAX);
    assert_eq!(unsettled, []);
    assert_eq!(unconfirmed.into_iter().collect::<Vec<_>>(), [(Some(c), 1)]);
    let tally = node.tally();
    assert_eq!(tally.clients, Sums { owed: 3, handed_over: 2, in_doubt: 1, lost: 0 });
    assert_eq!(tally.rooms, Sums { owed: 1, handed_over: 0, in_doubt: 1, lost: 0 });
}

/// The answer to a `/sync` stands behind the notice of what is in doubt.
#[test]
fn senders_are_told_of_a_life_that_ended_before_their_question_is_answered() {
    let mut node = Node::new(life("a.1"));
    let c = life("c.1");
    forward(&mut node, 1, &[("bob", Place::At(c.clone()))]);
    forward(&mut node, 2, &[("bob", Place::At(c.clone()))]);
    read(&mut node, Entry::Ack { from: c.clone(), text: "1 - - - -".to_owned() });
    assert!(node.ask_about(ALICE));
    let down = || Entry::Event { life: c.clone(), state: LifeState::Down };
    let expected =
        ["line 1 to bob unconfirmed", "line 2 to bob in doubt", "all of 7 is accounted for"];
    assert_eq!(told(&read(&mut node, down())), expected);
    assert_eq!(told(&read(&mut node, down())), [""; 0], "the second time");
    // So a drain waits for nothing.
    node.cut(Instant::now());
    assert!(node.outgoing.is_handed_over());
}

/// Her room's lines go to a member by name while something for that member is on its way.
#[test]
fn a_line_to_a_room_answers_no_other_line() {
    let mut node = Node::new(life("a.1"));
    let bob = || vec![name("bob")];
    node.forward(ALICE, bob(), 1..2, Vec::new(), payload(None));
    let room = Room::new("#dev").expect("a room");
    node.forward_to_room(ALICE, &room, bob(), 2..3, payload(Some(&room)));
    // Whatever becomes of that one, the first has no answer yet.
    let absent = |number| Entry::Placed {
        first: number,
        last: number,
        places: vec![(name("bob").into(), None)],
    };
    read(&mut node, absent(2));
    assert_eq!(node.ready_answers(ALICE), []);
    read(&mut node, absent(1));
    let answers = node.ready_answers(ALICE);
    let names = vec![b"bob".to_vec()];
    assert_eq!(answers, [Answer::Absent { lines: 1..2, names, charge: () }]);
}

/// An acknowledgement whose reply was lost is told once more.
#[test]
fn a_loss_that_is_told_twice_is_told_to_the_sender_once() {
    let mut node = Node::new(life("a.1"));
    let c = life("c.1");
    forward(&mut node, 1, &[("bob", Place::At(c.clone()))]);
    let mut outbox = Outbox::new(c.clone());
    let (origin, reason) = (life("a.1"), LossReason::Left);
    outbox.take(Order::Lost { origin, number: 1, messages: 1, reason });
    let mut losses = 0;
    for (_, told) in outbox.next_cycle().acks {
        for _ in 0..2 {
            let effects = read(&mut node, Entry::Ack { from: c.clone(), text: told.to_string() });
            losses += effects.iter().filter(|it| matches!(it, Effect::Lost(_))).count();
        }
    }
    assert_eq!(losses, 1);
}
