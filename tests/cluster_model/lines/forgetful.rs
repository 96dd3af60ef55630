//! Runs in which the engine forgets, and those with more states.

use super::rules::Scenario;
use super::scenarios::{A, B, C, NOTHING, two};

/// The engine forgets.
pub(super) fn forgetful() -> Vec<Scenario> {
    let two = two();
    vec![
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
            name: "forgets-stop-all-lines",
            failovers: 1,
            suffix: true,
            drains: A | B,
            lossless: true,
            lines: [&[1], &[0], &[]],
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
    ]
}

/// Several of these things together.
pub(super) fn deep() -> Vec<Scenario> {
    let two = two();
    let three = Scenario { nodes: 3, ..two.clone() };
    vec![
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
