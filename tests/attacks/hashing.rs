//! Names that are chosen to collide in a hash table. The hasher is seeded at random, but it is not
//! one of those that withstand an attacker who measures; an attacker who does not can choose names
//! of one structure, and those cost no more than random ones.

use std::thread;
use std::time::Duration;

use crate::common::{try_login, wait_until};
use crate::target::{Target, alone, by_form, figure};

/// How many names one line lists.
const NAMES: usize = 1024;

/// How much more than random names others may cost.
const FACTOR: u32 = 3;

/// Names of 32 bytes that differ where `digits` are put.
fn names(at: usize) -> Vec<String> {
    let name = |number: usize| {
        let mut name = "a".repeat(32);
        name.replace_range(at..at + 4, &format!("{number:04}"));
        name
    };
    (0..NAMES).map(name).collect()
}

/// Names whose halves are the same eight bytes in another order.
fn permuted() -> Vec<String> {
    let parts = |number: usize| [number % 32, number / 32].map(|part| format!("{part:08}"));
    (0..NAMES).map(|number| parts(number).concat().repeat(2)).collect()
}

/// Names of two to five bytes.
fn short() -> Vec<String> {
    (0..NAMES).map(|number| format!("n{number:x}")).collect()
}

fn random() -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut name = || (0..32).map(|_| rng.alphanumeric()).collect::<String>();
    (0..NAMES).map(|_| name()).collect()
}

/// How long a server runs to look up these names again and again.
fn cost(names: &[String]) -> Duration {
    let lines = by_form(200, 4000);
    let target = Target::start(&["--linger", "100ms"]);
    let asker = try_login(target.address, "asker").expect("room");
    let mut stream = asker.stream.try_clone().expect("a descriptor");
    let question = format!("/who {}\n", names.join(","));
    let before = target.process.cpu_time();
    let sending = thread::spawn(move || {
        use std::io::Write;
        (0..lines).try_for_each(|_| stream.write_all(question.as_bytes()))
    });
    let mut asker = asker;
    let last = format!("notice: line {}: ", lines + 1);
    wait_until("the last reply", || asker.line().expect("a reply").starts_with(&last));
    sending.join().expect("no panic").expect("a server that reads");
    let cost = target.process.cpu_time().saturating_sub(before);
    asker.half_close();
    asker.expect_eof();
    target.terminate();
    cost
}

#[test]
fn names_of_one_structure_cost_no_more_than_random_ones() {
    let _machine = alone();
    let random = cost(&random());
    let families = [("the head", names(0)), ("the middle", names(14)), ("the tail", names(28))];
    let families = families.into_iter().chain([("halves", permuted()), ("a few bytes", short())]);
    for (family, names) in families {
        let cost = cost(&names);
        figure(&format!("names that differ in {family}: {cost:?}, random ones: {random:?}"));
        // The clock counts in hundredths of a second.
        let most = random * FACTOR + Duration::from_millis(50);
        assert!(cost <= most, "names that differ in {family}: {cost:?}, random ones: {random:?}");
    }
}
