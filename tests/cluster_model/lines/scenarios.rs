//! The configurations that are explored: no node stops or some do, connections break, nodes die.

use super::rules::Scenario;
use super::state::CLIENTS;

pub(super) const NOTHING: Scenario = Scenario {
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
pub(super) const A: u8 = 1;
pub(super) const B: u8 = 2;
pub(super) const C: u8 = 4;

/// Two nodes, with a client each.
pub(super) fn two() -> Scenario {
    Scenario { homes: [Some(0), Some(1), None], lines: [&[1, 1], &[], &[]], ..NOTHING }
}

/// No node dies, and the engine forgets nothing.
pub(super) fn calm() -> Vec<Scenario> {
    let two = two();
    let three = Scenario { nodes: 3, ..two.clone() };
    let talk =
        Scenario { homes: [Some(0), Some(1), Some(1)], lines: [&[1, 1], &[], &[1]], ..NOTHING };
    vec![
        // No node stops: clients leave and come back where they like.
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
    ]
}

/// Nodes die, or are taken for dead; or a client does not come back.
pub(super) fn deadly() -> Vec<Scenario> {
    let two = two();
    let three = Scenario { nodes: 3, ..two.clone() };
    vec![
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
    ]
}
