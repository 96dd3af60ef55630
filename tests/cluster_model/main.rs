//! A model of the cluster: nodes, clients that move, and an engine that runs one script at a time.
//! All interleavings within small bounds are explored, breadth first, so a failure comes with its
//! shortest interleaving.
//!
//! There is a model for each topic, with rules of its own that can be taken out. They use nothing of
//! the library: they are the reference that the library's own state is compared with. `topic` says
//! what a topic has, `search` explores it, and `docs/cluster-model.md` tells what is covered.
//!
//! The short form explores the smaller configurations and takes each rule out in turn. The long one
//! explores all of them (up to twenty minutes, 2 GiB):
//! `CLUSTER_MODEL=long cargo test --release --test cluster_model -- --nocapture`.
//! `CLUSTER_MODEL=NAME,NAME` explores the configurations of these names.
#![allow(
    clippy::needless_range_loop,
    reason = "a client and a life are their numbers, in several arrays at once"
)]
#![allow(clippy::pedantic, reason = "small numbers in bytes, and steps in one function each")]
#![allow(clippy::print_stdout, reason = "it tells what it has explored")]
#![allow(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "it is one program"
)]

mod accounts;
mod bytes;
mod leases;
mod lines;
mod pack;
mod rooms;
mod search;
mod topic;

use topic::Topic;

/// How many states the long form explores at most.
const LONG: usize = 30_000_000;

/// Explores a configuration up to `limit` states, and prints what came of it and how long it took.
fn explore<T: Topic>(model: &T, limit: usize) -> search::Found {
    let begun = std::time::Instant::now();
    let found = search::search(model, limit);
    let verdict = match &found.failure {
        Some((why, path)) => format!("fails after {} steps: {why}", path.len()),
        None if found.complete => "holds".to_string(),
        None => "no failure so far".to_string(),
    };
    println!(
        "{:26} {:>9} states {:>7} ends depth {:>3} {:>6.1} s  {verdict}",
        model.name(),
        found.states,
        found.ends,
        found.depth,
        begun.elapsed().as_secs_f32()
    );
    found
}

/// What `CLUSTER_MODEL` asks for: `long`, names, or nothing for the short form.
fn wanted() -> String {
    std::env::var("CLUSTER_MODEL").unwrap_or_default()
}

/// Explores the configurations of a topic that are wanted, and returns how many there were.
fn hold<T: Topic>() -> usize {
    let wanted = wanted();
    let long = wanted == "long";
    let mut explored = 0;
    for model in T::all() {
        let name = model.name();
        let named = wanted.split(',').any(|wanted| wanted == name);
        let endless = name.starts_with("endless");
        let short = wanted.is_empty() && !name.starts_with("deep");
        if !(named || short || long) || endless && !named {
            continue;
        }
        let found = explore(&model, if long || named { LONG } else { T::SHORT });
        explored += 1;
        if let Some((why, path)) = found.failure {
            let steps: Vec<_> = path
                .iter()
                .enumerate()
                .map(|(at, step)| format!("{:3} {step}\n", at + 1))
                .collect();
            panic!("{name}: {why}\n{}", steps.concat());
        }
        assert!(found.complete || !long, "{name}: more states than expected");
    }
    explored
}

/// Takes out each rule of a topic in turn: it has to fail then. The short form leaves those out that
/// would need more states.
fn fail_without<T: Topic>() {
    let all = || T::NOTICED.iter().chain(T::NOTICED_DEEP);
    let tried = |rule: T::Rule| all().any(|(noticed, _)| *noticed == rule);
    let untried: Vec<_> = T::RULES.iter().filter(|rule| !tried(**rule)).collect();
    assert!(untried.is_empty(), "rules that nothing tries: {untried:?}");
    let long = !wanted().is_empty();
    for (rule, name) in all().take(if long { usize::MAX } else { T::NOTICED.len() }) {
        let found = T::all().into_iter().find(|model| model.name() == *name);
        let model = found.unwrap_or_else(|| panic!("nothing has the name {name}"));
        print!("without {rule:14?} ");
        let found = explore(&model.without(*rule), if long { LONG } else { T::SHORT_WITHOUT });
        assert!(found.failure.is_some(), "{name} does not fail without {rule:?}");
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "it takes minutes without optimisation; .ci/run runs it")]
fn every_interleaving_keeps_what_the_cluster_promises() {
    let explored = hold::<lines::Scenario>()
        + hold::<leases::Leases>()
        + hold::<accounts::Accounts>()
        + hold::<rooms::Rooms>();
    assert!(explored > 0, "nothing has the name {}", wanted());
}

#[test]
#[cfg_attr(debug_assertions, ignore = "it takes minutes without optimisation; .ci/run runs it")]
fn the_model_notices_each_rule_that_is_taken_out() {
    fail_without::<lines::Scenario>();
    fail_without::<leases::Leases>();
    fail_without::<accounts::Accounts>();
    fail_without::<rooms::Rooms>();
}
