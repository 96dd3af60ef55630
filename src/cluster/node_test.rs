//! What a node makes of the entries of its inbox, without an engine.
#![allow(clippy::pedantic, reason = "small numbers")]

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::answers::Answer;
use crate::cluster::engine::{Command, Entry, Life, LifeState, Place, Recipient};
use crate::cluster::node::Node;
use crate::cluster::orders::{Effect, Order, Payload};
use crate::cluster::outbox::Outbox;
use crate::cluster::outgoing::Sums;
use crate::cluster::parcel::Arrived;
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
    for (_, told) in outbox.next_cycle(true).acks {
        for _ in 0..2 {
            let effects = read(&mut node, Entry::Ack { from: c.clone(), text: told.to_string() });
            losses += effects.iter().filter(|it| matches!(it, Effect::Lost(_))).count();
        }
    }
    assert_eq!(losses, 1);
}

// ---- a new incarnation ----------------------------------------------------------------------------

/// The engine has forgotten, and is open again with these lives: what is sent again, and which claims
/// are said again.
fn reopen(node: &mut Node<(), ()>, lives: &[&str], sent: u64) -> (Vec<u64>, Vec<u64>, Vec<String>) {
    let own = node.life().clone();
    let mut effects = Vec::new();
    node.enter("new".into(), own, Instant::now(), sent, &mut effects);
    node.take_orders();
    let lives = lives.iter().map(|text| life(text)).collect();
    reopened(node, lives, sent)
}

fn reopened(
    node: &mut Node<(), ()>,
    lives: Vec<Life>,
    sent: u64,
) -> (Vec<u64>, Vec<u64>, Vec<String>) {
    node.note_sent(sent);
    let told = told(&read(node, Entry::Open { lives }));
    let orders = node.take_orders().into_iter();
    let (forwards, claims) = orders
        .filter_map(|order| match order {
            Order::Restart { forwards, claims } => Some((forwards, claims)),
            _ => None,
        })
        .next()
        .expect("a restart");
    let claims = claims.iter().filter_map(|command| match command {
        Command::Claim { session, .. } => Some(*session),
        _ => None,
    });
    (forwards.iter().map(|forward| forward.first).collect(), claims.collect(), told)
}

/// Alice is here, and so are others.
fn with_alice() -> Node<(), ()> {
    let mut node = Node::new(life("a.1"));
    read(&mut node, Entry::Open { lives: ["a.1", "b.1", "c.1"].map(life).into() });
    node.log_in(ALICE, name("alice"), Instant::now());
    read(&mut node, Entry::Mark { session: ALICE, name: name("alice"), claim: 1 });
    node.take_orders();
    node
}

fn at(text: &str) -> Place {
    Place::At(life(text))
}

const ALL: [&str; 3] = ["a.1", "b.1", "c.1"];

#[test]
fn what_others_have_is_not_sent_again_and_all_else_is_in_order() {
    let mut node = with_alice();
    forward(&mut node, 1, &[("bob", at("b.1"))]);
    forward(&mut node, 2, &[("carol", at("c.1"))]);
    forward(&mut node, 3, &[("bob", at("b.1"))]);
    let own = node.life().clone();
    node.enter("new".into(), own, Instant::now(), 3, &mut Vec::new());
    node.take_orders();
    // Who enters tells what it has handled, and that is read before the engine is open.
    read(&mut node, Entry::Ack { from: life("b.1"), text: "1 1 1 - -".to_owned() });
    let (again, _, told) = reopened(&mut node, ALL.map(life).into(), 3);
    assert_eq!((again, told), (vec![2, 3], Vec::new()));
}

#[test]
fn a_delivery_that_comes_again_is_handled_once_and_told_again() {
    let mut node = with_alice();
    let arrive = |node: &mut Node<(), ()>| {
        let piece = Arrived {
            deliveries: vec![(5, ALICE)],
            sender: name("bob"),
            room: None,
            from: 3,
            lowest: 5,
            first_line: 9,
            messages: 1,
            frames: 0..0,
        };
        let (origin, frames) = (life("b.1"), Arc::default());
        let effects = read(node, Entry::Message { origin, pieces: vec![piece], frames });
        let orders = node.take_orders();
        let is_handled = |order: &Order| matches!(order, Order::Handled { .. });
        (effects.len(), orders.iter().filter(|order| is_handled(order)).count())
    };
    assert_eq!(arrive(&mut node), (1, 1));
    reopen(&mut node, &ALL, 0);
    assert_eq!(arrive(&mut node), (0, 1));
    assert_eq!(node.arrived(), 1);
}

/// It may have been delivered, and the word of that is lost with the engine.
#[test]
fn what_lay_with_a_life_that_has_not_entered_is_in_doubt() {
    let mut node = with_alice();
    forward(&mut node, 1, &[("bob", at("b.1"))]);
    forward(&mut node, 2, &[("carol", at("c.1"))]);
    let (again, _, told) = reopen(&mut node, &["a.1", "c.1"], 2);
    assert_eq!((again, told), (vec![2], vec!["line 1 to bob in doubt".to_owned()]));
}

/// Where it was is not known, so the life that has not entered may have it.
#[test]
fn what_may_lie_with_a_life_that_has_not_entered_is_in_doubt_if_it_was_sent() {
    let mut node = with_alice();
    let forward = |node: &mut Node<(), ()>, line| {
        node.forward(ALICE, vec![name("bob")], line..line + 1, Vec::new(), payload(None));
    };
    forward(&mut node, 1);
    forward(&mut node, 2);
    let (again, _, told) = reopen(&mut node, &["a.1", "c.1"], 1);
    assert_eq!((again, told), (vec![2], vec!["line 1 to bob in doubt".to_owned()]));
}

/// Its sender may have gone on elsewhere, and a line from there would be overtaken.
#[test]
fn what_was_sent_by_a_session_that_has_left_is_in_doubt() {
    let mut node = with_alice();
    forward(&mut node, 1, &[("bob", at("b.1"))]);
    node.log_out(ALICE);
    let (again, _, told) = reopen(&mut node, &ALL, 1);
    assert_eq!((again, told), (Vec::new(), vec!["line 1 to bob in doubt".to_owned()]));
}

/// The first lay unread at one node while the second was read at another one.
#[test]
fn what_a_later_line_has_passed_is_in_doubt() {
    let mut node = with_alice();
    forward(&mut node, 1, &[("bob", at("b.1"))]);
    forward(&mut node, 2, &[("bob", at("c.1"))]);
    read(&mut node, Entry::Ack { from: life("c.1"), text: "2 2 2 - -".to_owned() });
    let (again, _, told) = reopen(&mut node, &ALL, 2);
    assert_eq!((again, told), (Vec::new(), vec!["line 1 to bob in doubt".to_owned()]));
}

#[test]
fn a_claim_whose_mark_was_not_read_is_said_again() {
    let mut node = with_alice();
    node.log_in(8, name("bill"), Instant::now());
    let (_, claims, _) = reopen(&mut node, &ALL, 0);
    assert_eq!(claims, [8]);
}

#[test]
fn a_name_is_entered_until_the_engine_has_heard_that_it_is_free() {
    let mut node = with_alice();
    let mut outbox = Outbox::new(node.life().clone());
    forward(&mut node, 1, &[("bob", at("b.1"))]);
    node.log_out(ALICE);
    let own = node.life().clone();
    node.enter("new".into(), own, Instant::now(), 1, &mut Vec::new());
    node.take_orders().into_iter().for_each(|order| outbox.take(order));
    let entrance = outbox.entrance().expect("an entrance");
    assert_eq!(entrance.names, [(name("alice"), ALICE, 1)], "her line stands before that");
}

/// The origin has heard where the line went, so it does not wait for the hold.
#[test]
fn what_was_held_is_in_doubt_when_the_node_that_it_followed_its_client_to_is_gone() {
    let mut node = with_alice();
    forward(&mut node, 1, &[("bob", Place::Held)]);
    assert!(node.outgoing.is_handed_over(), "a drain does not wait for who comes back");
    read(&mut node, Entry::Moved { life: life("c.1"), numbers: vec![1] });
    assert!(!node.outgoing.is_handed_over());
    let gone = Entry::Event { life: life("c.1"), state: LifeState::Reaped };
    assert_eq!(told(&read(&mut node, gone)), ["line 1 to bob in doubt"]);
}

/// The hold's account is not the origin's, wherever the client has got to, even if nobody hears of it.
#[test]
fn what_was_moved_out_of_a_hold_just_before_the_end_is_handed_over() {
    let mut node = with_alice();
    forward(&mut node, 1, &[("bob", Place::Held), ("carol", at("b.1"))]);
    read(&mut node, Entry::Moved { life: life("c.1"), numbers: vec![1] });
    let (unsettled, unconfirmed) = node.finish(2);
    let names: Vec<_> = unsettled.iter().map(|it| it.name.text()).collect();
    assert_eq!(names, ["carol"]);
    assert_eq!(unconfirmed.into_iter().collect::<Vec<_>>(), [(Some(life("c.1")), 1)]);
    assert_eq!(node.tally().clients.handed_over, 1);
}

/// Its lines come once more, and others would be released before they have them.
#[test]
fn a_node_that_was_cut_enters_as_one_that_leaves_and_is_cut_behind_what_it_sends_again() {
    let mut node = with_alice();
    forward(&mut node, 1, &[("bob", at("b.1"))]);
    node.cut(Instant::now());
    node.take_orders();
    let (own, mut effects) = (node.life().clone(), Vec::new());
    node.enter("new".into(), own, Instant::now(), 1, &mut effects);
    let entered = node.take_orders().into_iter().find_map(|order| match order {
        Order::Enter { entrance, .. } => Some(entrance.state),
        _ => None,
    });
    assert_eq!(entered, Some(LifeState::Leaving));
    node.note_sent(1);
    read(&mut node, Entry::Open { lives: ALL.map(life).into() });
    let mut outbox = Outbox::new(life("a.1"));
    node.take_orders().into_iter().for_each(|order| outbox.take(order));
    let commands: Vec<_> = outbox.commands().map(|(_, command)| command).collect();
    assert!(matches!(commands[..], [Command::Send(_), Command::Cut]), "{commands:?}");
}

/// What is on its way is not overtaken by a line that could be delivered here.
#[test]
fn a_name_is_on_the_way_until_everything_for_it_is_handled() {
    let mut node = with_alice();
    forward(&mut node, 1, &[("bob", at("b.1"))]);
    forward(&mut node, 2, &[("bob", at("b.1"))]);
    for (text, is_on_the_way) in [("2 - - - -", true), ("1 - - - -", false)] {
        read(&mut node, Entry::Ack { from: life("b.1"), text: text.to_owned() });
        assert_eq!(node.is_on_the_way(b"bob"), is_on_the_way, "{text}");
    }
}
