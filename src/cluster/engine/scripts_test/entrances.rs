//! How lives enter an incarnation of the engine, and how that is opened.

use super::*;

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
        seats: vec![(room(), name("bob"))],
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

/// The engine comes back with a tail of what it had: none of it is read on.
#[test]
fn what_an_engine_has_left_of_a_former_incarnation_is_deleted_before_anything_is_said() {
    let Some(mut engine) = TestEngine::start() else { return };
    let [mut a, mut b] = two(&engine);
    b.claim("bob", 4);
    b.join("bob", 1);
    a.send(vec![piece(1, &["bob"])]);
    b.say(&Command::Leave);
    a.send(vec![piece(2, &["bob"])]);
    let (life, incarnation) = (b.life.clone(), Arc::clone(&b.incarnation));
    drop((a, b));
    engine.restart_from_a_copy();
    assert!(dump(&engine, "x").len() > 5, "it has come back with all of it");
    let mut wire = engine.dialled("x").dial(SOON).expect("an engine");
    let hello = wire.hello(&life, 9).expect("an answer");
    assert!(hello.incarnation != incarnation && !hello.open && hello.state.is_none());
    let left = dump(&engine, "x");
    assert_eq!(left.len(), 1, "only which incarnation it is: {left:?}");
    let mut position = "0-0".to_owned();
    assert_eq!(wire.read(&life, &mut position, Duration::ZERO, SOON).expect("an inbox"), []);
}
