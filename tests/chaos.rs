//! Chaos: hundreds of clients of every character, changing it all the while, then a stop, and a
//! model that holds each client's transcript against all others', the log and the report.
//!
//! Clients are fast, slow or send a byte at a time; they stop reading for a while or for ever,
//! leave in the middle of a line, close or reset, come and go within milliseconds, take names that
//! are in use, flood, and send everything that the server has to refuse. The four kinds of stop
//! take turns: a drain with all the time in the world; one whose deadlines come first; one that is
//! forced to end; one while a thousand more are just connecting. What a client intends follows from
//! the seed; `tests/common/population` tells the rest.
//!
//! `cargo test --release --test chaos -- --ignored` goes on for a minute, or `A_CHAT_SECONDS`, from
//! a seed picked at random, or `A_CHAT_SEED`. A round that fails says how to run it again; the
//! clients then intend the same, at moments that are still up to the scheduler.

mod common;

use std::io::Write;
use std::time::Duration;

use common::population::{Population, Profile, Stop, World};
use common::rounds::rounds;
use common::{PATIENCE, TestServer};

/// The four kinds of stop, by seed.
const KINDS: u64 = 4;

/// How large a round may be, and how long it goes on until the stop, in milliseconds.
struct Scale {
    seats: usize,
    milliseconds: u64,
}

/// Returns a line about what happened.
fn round(seed: u64, scale: &Scale) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let seats = random.usize(scale.seats / 2..scale.seats);
    let length = random.u64(scale.milliseconds / 8..scale.milliseconds);
    let (manners, storm, how) = match seed % KINDS {
        0 => (Profile::Rude, 0, Stop::Drain),
        1 => (Profile::Stubborn, 0, Stop::Drain),
        2 => (Profile::Stubborn, 0, Stop::Twice(Duration::from_millis(random.u64(..400)))),
        _ => (Profile::Polite, 1000, Stop::Drain),
    };
    let world = World::new(seed, seats, storm, manners);
    let config = world.config();
    let server = TestServer::with(config.clone());
    let mut population = Population::start(server.address, world);
    // This is the given time, nobody waits for anything.
    std::thread::sleep(Duration::from_millis(length));
    population.storm(random.usize(..=storm));
    let (report, verdict) = population.stop(server, how);
    assert!(report.drain < config.drain_timeout + PATIENCE / 2, "{report}");
    if manners == Profile::Polite {
        assert_eq!((report.lost(), verdict.in_doubt), (0, 0), "{report}");
    }
    let (drain, lost) = (report.drain.as_secs_f32(), report.lost());
    format!("seed {seed}, {manners:?}, {how:?} in {drain} s: {verdict}, {lost} lost")
}

#[test]
fn hundreds_of_clients() {
    a_chat::raise_nofile_limit();
    let scale = Scale { seats: 200, milliseconds: 1500 };
    rounds("hundreds_of_clients", 1, KINDS, Duration::MAX, |seed| {
        round(seed, &scale);
    });
}

#[test]
#[ignore = "takes a minute, or as long as A_CHAT_SECONDS says"]
fn hundreds_of_clients_for_long() {
    a_chat::raise_nofile_limit();
    let scale = Scale { seats: 500, milliseconds: 8000 };
    let (seed, minute) = (u64::from(fastrand::u32(..)), Duration::from_secs(60));
    rounds("hundreds_of_clients_for_long", seed, u64::MAX, minute, |seed| {
        // Seen with `--nocapture`.
        let _ = writeln!(std::io::stderr(), "{}", round(seed, &scale));
    });
}
