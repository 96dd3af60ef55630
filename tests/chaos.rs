//! Chaos: hundreds of clients of every character that keep changing it, then a shutdown, and a
//! model that checks each client's transcript against all others, the log and the report.
//!
//! Clients are fast, slow or send a byte at a time. They stop reading for a while or forever, leave
//! in the middle of a line, close or reset, come and go within milliseconds, ask for names in use,
//! flood, and send everything that the server must refuse. Four kinds of shutdown take turns: a
//! drain without deadlines, one whose deadlines expire first, one that is forced to end, and one
//! while a thousand more clients connect. The seed determines what a client intends; see
//! `tests/common/population`.
//!
//! `cargo test --release --test chaos -- --ignored` runs for a minute, or `A_CHAT_SECONDS`, from a
//! random seed, or `A_CHAT_SEED`. A failed round prints how to repeat it: the clients then intend
//! the same, with a timing that is still up to the scheduler.

mod common;

use std::io::Write;
use std::time::Duration;

use common::population::{Population, Profile, Stop, World};
use common::rounds::rounds;
use common::{TEST_TIMEOUT, TestServer};

/// The kinds of shutdown, by seed.
const KINDS: u64 = 4;

/// Maximum size of a round, and its maximum time until shutdown, in milliseconds.
struct Scale {
    seats: usize,
    milliseconds: u64,
}

/// Returns a line about what happened.
fn round(seed: u64, scale: &Scale) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let seats = random.usize(scale.seats / 2..scale.seats);
    let length = random.u64(scale.milliseconds / 8..scale.milliseconds);
    let (profile, storm, how) = match seed % KINDS {
        0 => (Profile::Rude, 0, Stop::Drain),
        1 => (Profile::Stubborn, 0, Stop::Drain),
        2 => (Profile::Stubborn, 0, Stop::Twice(Duration::from_millis(random.u64(..400)))),
        _ => (Profile::Polite, 1000, Stop::Drain),
    };
    let world = World::new(seed, seats, storm, profile);
    let config = world.config();
    let server = TestServer::with(config.clone());
    let mut population = Population::start(server.address, world);
    // Not synchronisation: the load runs for this long.
    std::thread::sleep(Duration::from_millis(length));
    population.storm(random.usize(..=storm));
    let (report, verdict) = population.stop(server, how);
    assert!(report.drain < config.drain_timeout + TEST_TIMEOUT / 2, "{report}");
    if profile == Profile::Polite {
        assert_eq!((report.lost(), verdict.in_doubt), (0, 0), "{report}");
    }
    let (drain, lost) = (report.drain.as_secs_f32(), report.lost());
    format!("seed {seed}, {profile:?}, {how:?} in {drain} s: {verdict}, {lost} lost")
}

#[test]
fn hundreds_of_clients() {
    let _ = a_chat::raise_nofile_limit();
    let scale = Scale { seats: 200, milliseconds: 1500 };
    rounds("hundreds_of_clients", 1, KINDS, Duration::MAX, |seed| {
        round(seed, &scale);
    });
}

#[test]
#[ignore = "takes a minute, or as long as A_CHAT_SECONDS says"]
fn hundreds_of_clients_for_a_minute() {
    let _ = a_chat::raise_nofile_limit();
    let scale = Scale { seats: 500, milliseconds: 8000 };
    let (seed, minute) = (u64::from(fastrand::u32(..)), Duration::from_secs(60));
    rounds("hundreds_of_clients_for_a_minute", seed, u64::MAX, minute, |seed| {
        // Seen with `--nocapture`.
        let _ = writeln!(std::io::stderr(), "{}", round(seed, &scale));
    });
}
