//! A model of the cluster: nodes, clients that move, and an engine that runs one script at a time.
//! All interleavings within small bounds are explored, breadth first, so a failure comes with its
//! shortest interleaving.
//!
//! Read in this order: `rules`, `state`, `engine` (the scripts), `broker`, `steps` (what may happen,
//! and what must hold), `search`. The model uses nothing of the library: it is the reference that
//! the library's own state is compared with.
//!
//! The short form explores the smaller scenarios and takes each rule out in turn. The long one
//! explores all of them (five minutes, 1 GiB):
//! `CLUSTER_MODEL=long cargo test --release --test cluster_model -- --nocapture`.
//! `CLUSTER_MODEL=NAME,NAME` explores the scenarios of these names.
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

mod broker;
mod engine;
mod pack;
mod rules;
mod search;
mod state;
mod steps;

use rules::Rule::*;
use rules::{ALL, Rule, Scenario};
use state::CLIENTS;

const NOTHING: Scenario = Scenario {
    name: "",
    nodes: 2,
    homes: [None; CLIENTS],
    lines: [&[]; CLIENTS],
    moves: [0; CLIENTS],
    drains: 0,
    restarts: 0,
    lost_replies: 0,
    late_commands: 0,
    kills: 0,
    killable: 0,
    fences: 0,
    stay_away: 0,
    window: 0,
    failovers: 0,
    suffix: false,
    writers: false,
    lossless: false,
    without: Vec::new(),
};
const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 4;

fn scenarios() -> Vec<Scenario> {
    let two = Scenario { homes: [Some(0), Some(1), None], lines: [&[1, 1], &[], &[]], ..NOTHING };
    let three = Scenario { nodes: 3, ..two.clone() };
    let talk =
        Scenario { homes: [Some(0), Some(1), Some(1)], lines: [&[1, 1], &[], &[1]], ..NOTHING };
    vec![
        // Nobody stops: clients leave and come back where they like.
        Scenario { name: "moves", lines: [&[1, 1, 1], &[], &[]], moves: [1, 1, 0], ..two.clone() },
        Scenario { name: "moves-two-senders", moves: [1, 1, 0], ..talk.clone() },
        Scenario {
            name: "moves-writers",
            lines: [&[1, 1, 1], &[], &[]],
            moves: [1, 1, 0],
            writers: true,
            ..two.clone()
        },
        Scenario { name: "moves-3", moves: [1, 1, 0], ..three.clone() },
        // All stop.
        Scenario {
            name: "stop-all",
            lines: [&[1, 1, 1], &[0], &[]],
            drains: A | B,
            lossless: true,
            ..two.clone()
        },
        Scenario {
            name: "stop-all-two-senders",
            lines: [&[1, 1], &[], &[1]],
            drains: A | B,
            lossless: true,
            ..talk.clone()
        },
        Scenario { name: "stop-all-3", drains: A | B | C, lossless: true, ..three.clone() },
        Scenario { name: "stop-all-moves", drains: A | B, moves: [1, 1, 0], ..two.clone() },
        // One stops, or two of three.
        Scenario {
            name: "drain-recipient",
            lines: [&[1, 1, 1], &[], &[]],
            drains: B,
            lossless: true,
            ..two.clone()
        },
        Scenario {
            name: "drain-sender",
            lines: [&[1, 1, 1], &[], &[]],
            drains: A,
            lossless: true,
            ..two.clone()
        },
        Scenario { name: "drain-moves", drains: B, moves: [1, 1, 0], ..two.clone() },
        Scenario { name: "drain-two-of-3", drains: A | B, lossless: true, ..three.clone() },
        // One after the other, and back.
        Scenario { name: "rolling", drains: A | B, restarts: A | B, lossless: true, ..two.clone() },
        Scenario {
            name: "rolling-two-senders",
            drains: A | B,
            restarts: A | B,
            lossless: true,
            lines: [&[1, 1], &[], &[1]],
            ..talk.clone()
        },
        Scenario {
            name: "rolling-3",
            nodes: 3,
            drains: A | B,
            restarts: A | B,
            lossless: true,
            ..two.clone()
        },
        Scenario {
            name: "rolling-moves",
            drains: A | B,
            restarts: A | B,
            moves: [1, 0, 0],
            lossless: true,
            lines: [&[1, 1], &[], &[]],
            ..two.clone()
        },
        Scenario {
            name: "rolling-lost",
            drains: A | B,
            restarts: A | B,
            lost_replies: 1,
            lossless: true,
            ..two.clone()
        },
        // Connections that break.
        Scenario {
            name: "lost-replies",
            drains: B,
            lost_replies: 2,
            lossless: true,
            ..two.clone()
        },
        Scenario { name: "lost-replies-moves", moves: [1, 1, 0], lost_replies: 2, ..two.clone() },
        Scenario {
            name: "lost-replies-stop",
            drains: A | B,
            lost_replies: 2,
            lossless: true,
            ..two.clone()
        },
        Scenario { name: "late", drains: B, late_commands: 1, lossless: true, ..two.clone() },
        Scenario {
            name: "late-moves",
            lines: [&[1], &[], &[]],
            moves: [0, 2, 0],
            late_commands: 1,
            ..two.clone()
        },
        // Nodes that die.
        Scenario {
            name: "kill",
            writers: true,
            kills: 1,
            killable: A | B,
            moves: [1, 1, 0],
            ..two.clone()
        },
        Scenario {
            name: "kill-late",
            writers: true,
            kills: 1,
            killable: A | B,
            late_commands: 1,
            ..two.clone()
        },
        Scenario {
            name: "kill-drain",
            writers: true,
            kills: 1,
            killable: A | B,
            drains: B,
            ..two.clone()
        },
        Scenario {
            name: "kill-drain-3",
            writers: true,
            kills: 1,
            killable: B | C,
            drains: B,
            ..three.clone()
        },
        Scenario {
            name: "kill-stop-all",
            writers: true,
            kills: 1,
            killable: A | B,
            drains: A | B,
            ..two.clone()
        },
        Scenario {
            name: "kill-hold",
            writers: true,
            nodes: 3,
            kills: 1,
            killable: A | C,
            drains: B,
            stay_away: 2,
            homes: [Some(0), Some(1), None],
            lines: [&[1, 1], &[], &[]],
            ..NOTHING
        },
        Scenario { name: "fence", fences: 1, moves: [0, 1, 0], ..two.clone() },
        Scenario { name: "fence-writers", fences: 1, writers: true, ..two.clone() },
        Scenario { name: "fence-drain", fences: 1, drains: B, ..two.clone() },
        Scenario { name: "fence-3", fences: 1, drains: B, ..three.clone() },
        // A hold that ends, a sender's window.
        Scenario { name: "hold-over", drains: B, stay_away: 2, ..two.clone() },
        Scenario { name: "hold-over-sender-ends", drains: A | B, stay_away: 2, ..three.clone() },
        Scenario {
            name: "window",
            drains: A | B,
            window: 1,
            lossless: true,
            lines: [&[1, 1, 1], &[0, 0], &[]],
            writers: true,
            ..two.clone()
        },
        Scenario {
            name: "window-3",
            drains: A | B | C,
            window: 1,
            lossless: true,
            writers: true,
            ..three.clone()
        },
        // An engine that forgets.
        Scenario { name: "forgets", failovers: 1, suffix: true, moves: [0, 1, 0], ..two.clone() },
        Scenario {
            name: "forgets-names",
            nodes: 2,
            failovers: 1,
            suffix: true,
            moves: [1, 1, 0],
            ..two.clone()
        },
        Scenario {
            name: "forgets-two-names",
            failovers: 1,
            suffix: true,
            homes: [Some(0), Some(1), Some(1)],
            lines: [&[1, 2, 1], &[], &[]],
            moves: [0, 1, 0],
            ..NOTHING
        },
        Scenario {
            name: "forgets-drain-sender",
            failovers: 1,
            suffix: true,
            drains: A,
            lossless: true,
            ..two.clone()
        },
        Scenario { name: "forgets-drain", failovers: 1, suffix: true, drains: B, ..two.clone() },
        Scenario {
            name: "forgets-two-names-drain",
            failovers: 1,
            suffix: true,
            drains: B,
            nodes: 3,
            homes: [Some(0), Some(1), Some(2)],
            lines: [&[1, 2], &[], &[]],
            ..NOTHING
        },
        Scenario {
            name: "forgets-late",
            failovers: 1,
            suffix: true,
            late_commands: 1,
            moves: [0, 1, 0],
            lines: [&[1], &[], &[]],
            ..two.clone()
        },
        Scenario {
            name: "forgets-stop-all",
            failovers: 1,
            suffix: true,
            drains: A | B,
            ..two.clone()
        },
        Scenario {
            name: "forgets-stay",
            failovers: 1,
            suffix: true,
            lossless: true,
            lines: [&[1, 1, 1], &[0], &[]],
            ..two.clone()
        },
        Scenario {
            name: "forgets-stay-3",
            nodes: 3,
            failovers: 1,
            suffix: true,
            lossless: true,
            homes: [Some(0), Some(1), Some(2)],
            lines: [&[1, 2], &[], &[1]],
            ..NOTHING
        },
        // The same things together, with more states.
        Scenario {
            name: "deep-forgets-kill",
            failovers: 1,
            suffix: true,
            kills: 1,
            killable: A | B,
            ..two.clone()
        },
        Scenario {
            name: "deep-forgets-fence",
            failovers: 1,
            suffix: true,
            fences: 1,
            ..two.clone()
        },
        Scenario {
            name: "deep-stop-3",
            nodes: 3,
            homes: [Some(0), Some(1), Some(2)],
            lines: [&[1, 1], &[0], &[1]],
            drains: A | B | C,
            lossless: true,
            ..NOTHING
        },
        Scenario {
            name: "deep-rolling-3",
            nodes: 3,
            homes: [Some(0), Some(1), Some(2)],
            lines: [&[1, 1], &[], &[1]],
            drains: A | B,
            restarts: A | B,
            lossless: true,
            ..NOTHING
        },
        Scenario { name: "deep-drain-moves-3", drains: B, moves: [1, 1, 0], ..three.clone() },
        Scenario {
            name: "deep-kill-drain-moves",
            writers: true,
            kills: 1,
            killable: A | B,
            drains: B,
            moves: [1, 1, 0],
            ..two.clone()
        },
        Scenario {
            name: "deep-late-drain-moves",
            drains: B,
            late_commands: 1,
            moves: [1, 1, 0],
            lines: [&[1], &[], &[]],
            ..two.clone()
        },
        Scenario {
            name: "deep-forgets-lost",
            failovers: 1,
            suffix: true,
            lost_replies: 1,
            moves: [0, 1, 0],
            ..two.clone()
        },
        Scenario {
            name: "endless-forgets-drain-moves",
            failovers: 1,
            suffix: true,
            drains: B,
            moves: [1, 1, 0],
            ..two.clone()
        },
        Scenario {
            name: "deep-forgets-drain-alice",
            failovers: 1,
            suffix: true,
            drains: B,
            moves: [1, 0, 0],
            ..two.clone()
        },
        Scenario {
            name: "deep-forgets-drain-bob",
            failovers: 1,
            suffix: true,
            drains: B,
            moves: [0, 1, 0],
            ..two.clone()
        },
        Scenario {
            name: "deep-forgets-drain-3",
            failovers: 1,
            suffix: true,
            drains: B | C,
            ..three.clone()
        },
    ]
}

/// Which scenario fails without which rule.
const NOTICED: &[(Rule, &str)] = &[
    (LoginMark, "moves"),
    (OnePath, "moves"),
    (Cut, "stop-all"),
    (CutIsState, "stop-all"),
    (ReadBack, "drain-recipient"),
    (ForwardedFirst, "forgets-drain-sender"),
    (Once, "lost-replies"),
    (Once, "late"),
    (HandledSet, "forgets-two-names-drain"),
    (LargerClaim, "forgets"),
    (HoldMoves, "drain-recipient"),
    (HoldFirst, "drain-two-of-3"),
    (HoldQueue, "drain-two-of-3"),
    (HoldBack, "stop-all"),
    (Later, "stop-all-moves"),
    (SweeperOwns, "hold-over"),
    (Placed, "kill-drain-3"),
    (DownHolds, "rolling"),
    (KeptUntilDone, "kill"),
    (LastNames, "stop-all"),
    (Paced, "rolling"),
    (Clear, "forgets"),
    (HandledFirst, "forgets-drain"),
    (Missing, "forgets-drain"),
    (SenderHere, "forgets-names"),
    (NotPassed, "forgets"),
    (FreeInOrder, "forgets-names"),
    (ClaimAgain, "forgets"),
];

/// How many states the short form explores of a scenario before it leaves it to the long one.
const SHORT: usize = 20_000;
/// How many it explores without a rule.
const SHORT_WITHOUT: usize = 50_000;
const LONG: usize = 30_000_000;

/// Explores a scenario up to `limit` states, and prints what came of it and how long it took.
fn explore(scenario: &Scenario, limit: usize) -> search::Found {
    let begun = std::time::Instant::now();
    let found = search::search(scenario, limit);
    let verdict = match &found.failure {
        Some((why, path)) => format!("fails after {} steps: {why}", path.len()),
        None if found.complete => "holds".to_string(),
        None => "no failure so far".to_string(),
    };
    println!(
        "{:26} {:>9} states {:>7} ends depth {:>3} {:>6.1} s  {verdict}",
        scenario.name,
        found.states,
        found.ends,
        found.depth,
        begun.elapsed().as_secs_f32()
    );
    found
}

#[test]
#[cfg_attr(debug_assertions, ignore = "it takes minutes without optimisation; .ci/run runs it")]
fn every_interleaving_keeps_what_the_cluster_promises() {
    let wanted = std::env::var("CLUSTER_MODEL").unwrap_or_default();
    let long = wanted == "long";
    let mut explored = 0;
    for scenario in scenarios() {
        let named = wanted.split(',').any(|name| name == scenario.name);
        let endless = scenario.name.starts_with("endless");
        if !(named || wanted.is_empty() && !scenario.name.starts_with("deep") || long)
            || endless && !named
        {
            continue;
        }
        let found = explore(&scenario, if long || named { LONG } else { SHORT });
        explored += 1;
        if let Some((why, path)) = found.failure {
            let steps: Vec<_> = path
                .iter()
                .enumerate()
                .map(|(at, step)| format!("{:3} {step}\n", at + 1))
                .collect();
            panic!("{}: {why}\n{}", scenario.name, steps.concat());
        }
        assert!(found.complete || !long, "{}: more states than expected", scenario.name);
    }
    assert!(explored > 0, "no scenario has the name {wanted}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "it takes minutes without optimisation; .ci/run runs it")]
fn the_model_notices_each_rule_that_is_taken_out() {
    let untried: Vec<_> =
        ALL.iter().filter(|rule| NOTICED.iter().all(|(noticed, _)| noticed != *rule)).collect();
    assert!(untried.is_empty(), "rules that nothing tries: {untried:?}");
    for (rule, name) in NOTICED {
        let found = scenarios().into_iter().find(|scenario| scenario.name == *name);
        let mut scenario = found.unwrap_or_else(|| panic!("no scenario has the name {name}"));
        scenario.without = vec![*rule];
        print!("without {rule:14?} ");
        let long = std::env::var_os("CLUSTER_MODEL").is_some();
        let found = explore(&scenario, if long { LONG } else { SHORT_WITHOUT });
        let unnoticed = found.failure.is_none() && (found.complete || long);
        assert!(!unnoticed, "{name} holds without {rule:?}");
    }
}
