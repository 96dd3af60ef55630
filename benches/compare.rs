//! Drives a-chat, `nats-server` and `redis-server` (Pub/Sub), and a raw relay as the floor,
//! through the same work in turn, and prints one table; then it stops each product, `ngircd` too,
//! in the middle of a stream, and counts what is lost. `benches/README.md` says how to run and how
//! to read it.
//!
//! Every server is started anew for each measurement, with nothing on disk, and ended after it.
//! Arguments, if any, are parts of the names of the work to do; `ROUNDS` says how many times.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table is what a run is for")]

mod products;
mod rig;

use products::dialect::Dialect;
use products::stop::{self, Pace};
use products::work::{self, Figures, works};
use products::{SERVERS, STOPPED, can_be_stopped, is_there, name, start_to_stop};
use rig::baseline;
use rig::table::median_of;

/// The processors that the servers may use: any, or one that they share with the load.
const PLACES: [(Option<&str>, &str); 2] = [(None, "any processor"), (Some("0"), "processor 0")];

fn main() {
    if baseline::run_if_asked() {
        return;
    }
    a_chat::raise_nofile_limit();
    // Flags are cargo's.
    let arguments = std::env::args().skip(1);
    let wanted: Vec<String> = arguments.filter(|it| !it.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|it| name.contains(it));
    let rounds = std::env::var("ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(3);
    let servers = installed(SERVERS, is_there, name);
    let works: Vec<_> = works().into_iter().filter(|work| is_wanted(&work.name)).collect();
    for (cpus, place) in PLACES.into_iter().filter(|_| !works.is_empty()) {
        println!("\nServer on {place}, the middle of {rounds} rounds:\n");
        println!("{}", work::HEAD);
        for work in &works {
            let mut figures = vec![Vec::new(); servers.len()];
            // In turn, so that what else the machine does meanwhile hits all of them.
            for _ in 0..rounds {
                for (figures, &server) in figures.iter_mut().zip(&servers) {
                    figures.push(work.measure(server, cpus));
                }
            }
            for (figures, &server) in figures.iter().zip(&servers) {
                println!("{}", middle(figures).text(&work.name, name(server)));
            }
        }
    }
    if is_wanted("idle") {
        println!("\nWith nothing to do:\n\n{}", products::IDLE_HEAD);
        for &server in servers.iter().filter(|&&server| products::is_a_product(server)) {
            println!("{}", products::idle(server, rounds));
        }
    }
    let paces = [Pace::Fast, Pace::Slow].into_iter().filter(|pace| is_wanted(pace.name()));
    stops(&paces.collect::<Vec<_>>(), rounds);
}

/// Those servers that are there; a word on each that is not.
fn installed<S: Copy>(all: [S; 4], is_there: fn(S) -> bool, name: fn(S) -> &'static str) -> Vec<S> {
    let is_there = |&server: &S| {
        let is_there = is_there(server);
        if !is_there {
            eprintln!("{} is not installed and is skipped", name(server));
        }
        is_there
    };
    all.into_iter().filter(is_there).collect()
}

/// Has each server stopped in the middle of a stream.
fn stops(paces: &[Pace], rounds: usize) {
    if paces.is_empty() {
        return;
    }
    println!("\nStopped in the middle of a stream, {rounds} rounds:\n\n{}", stop::HEAD);
    let servers = installed(STOPPED, can_be_stopped, Dialect::name);
    for &pace in paces {
        for &server in &servers {
            let round = |round| stop::measure(server, start_to_stop(server), pace, round);
            let rounds: Vec<_> = (0..).take(rounds.max(1)).map(round).collect();
            println!("{}", stop::text(pace, server, &rounds));
        }
    }
}

/// Each figure's median, by itself.
fn middle(figures: &[Figures]) -> Figures {
    let of = |field: fn(&Figures) -> f64| median_of(figures.iter().map(field).collect());
    Figures {
        rate: of(|it| it.rate),
        p50: of(|it| it.p50),
        p99: of(|it| it.p99),
        p999: of(|it| it.p999),
        cpu: of(|it| it.cpu),
        load_cores: of(|it| it.load_cores),
        peak: of(|it| it.peak),
        threads: of(|it| it.threads),
    }
}
