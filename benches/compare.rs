//! Drives a-chat, `nats-server`, `redis-server` (Pub/Sub) and a raw relay as the baseline through
//! the same work in turn, and prints one table. Then it stops each product, including `ngircd`, in
//! the middle of a stream and counts the losses. `benches/README.md` explains how to run it and how
//! to read it.
//!
//! Every measurement starts its server afresh, without files, and ends it afterwards. Arguments
//! select work by parts of its name; `ROUNDS` sets the number of rounds. `curves` and `picture` write
//! `docs/pictures/performance.json` and its pictures.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table is what a run is for")]

mod products;
mod rig;

use std::error::Error;
use std::process::ExitCode;

use products::curves;
use products::dialect::Dialect;
use products::stop::{self, Pace};
use products::work::{self, Figures, works};
use products::{SERVERS, STOPPED, Server, can_be_stopped, start_to_stop};
use rig::baseline;
use rig::table::median_of;

/// The CPUs of the servers: any, or one that they share with the load.
const PLACES: [(Option<&str>, &str); 2] = [(None, "any CPU"), (Some("0"), "CPU 0")];

fn main() -> ExitCode {
    if baseline::run_if_asked() {
        return ExitCode::SUCCESS;
    }
    let _ = a_chat::raise_nofile_limit();
    // Flags come from cargo.
    let arguments = std::env::args().skip(1);
    let wanted: Vec<String> = arguments.filter(|it| !it.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|it| name.contains(it));
    let rounds = match rounds(std::env::var("ROUNDS").ok().as_deref()) {
        Ok(rounds) => rounds,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let servers = installed(&SERVERS, Server::is_installed, Server::name);
    let works: Vec<_> = works().into_iter().filter(|work| is_wanted(&work.name)).collect();
    if let Err(error) = curves(&wanted, &servers, rounds) {
        eprintln!("no pictures: {error}");
        return ExitCode::FAILURE;
    }
    for (cpus, place) in PLACES.into_iter().filter(|_| !works.is_empty()) {
        println!("\nServer on {place}, median of {rounds} rounds:\n");
        println!("{}", work::HEAD);
        for work in &works {
            let mut figures = vec![Vec::new(); servers.len()];
            // In turn, so other activity on the machine affects all of them.
            for _ in 0..rounds {
                for (figures, &server) in figures.iter_mut().zip(&servers) {
                    if !work.suits(server) {
                        continue;
                    }
                    figures.push(work.measure(server, cpus));
                }
            }
            for (figures, &server) in figures.iter().zip(&servers) {
                if figures.is_empty() {
                    continue;
                }
                println!("{}", medians(figures).text(&work.name, server.name()));
            }
        }
    }
    if is_wanted("idle") {
        println!("\nWith nothing to do:\n\n{}", products::IDLE_HEAD);
        for &server in servers.iter().filter(|server| server.is_product()) {
            println!("{}", products::idle(server, rounds));
        }
    }
    let paces = [Pace::Fast, Pace::Slow].into_iter().filter(|pace| is_wanted(pace.name()));
    stops(&paces.collect::<Vec<_>>(), rounds);
    ExitCode::SUCCESS
}

/// Measures and draws the curves, or draws what was measured before; only if asked by name, since it
/// writes to `docs`.
fn curves(wanted: &[String], servers: &[Server], rounds: u32) -> Result<(), Box<dyn Error>> {
    let is_asked = |name: &str| wanted.iter().any(|it| it == name);
    if is_asked("curves") {
        let products = servers.iter().copied().filter(|server| server.is_product());
        curves::measure(&products.collect::<Vec<_>>(), rounds)?;
    }
    if is_asked("curves") || is_asked("picture") { curves::draw() } else { Ok(()) }
}

/// The number of rounds, at least one: a median needs a figure.
fn rounds(asked: Option<&str>) -> Result<u32, String> {
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(3) };
    let rounds = asked.parse().ok().filter(|rounds| (1..=1000).contains(rounds));
    rounds.ok_or_else(|| format!("ROUNDS={asked}: expected a number from 1 to 1000"))
}

/// The installed servers; prints a note for each missing one.
fn installed<S: Copy>(
    all: &[S],
    is_installed: fn(S) -> bool,
    name: fn(S) -> &'static str,
) -> Vec<S> {
    let is_installed = |&server: &S| {
        let is_installed = is_installed(server);
        if !is_installed {
            eprintln!("{} is not installed and is skipped", name(server));
        }
        is_installed
    };
    all.iter().copied().filter(is_installed).collect()
}

/// Stops each server in the middle of a stream.
fn stops(paces: &[Pace], rounds: u32) {
    if paces.is_empty() {
        return;
    }
    println!("\nStopped in the middle of a stream, {rounds} rounds:\n\n{}", stop::HEAD);
    let servers = installed(&STOPPED, can_be_stopped, Dialect::name);
    for &pace in paces {
        for &server in &servers {
            let round = |round| stop::measure(server, start_to_stop(server), pace, round);
            let rounds: Vec<_> = (0..rounds).map(round).collect();
            println!("{}", stop::text(pace, server, &rounds));
        }
    }
}

/// The median of each figure.
fn medians(figures: &[Figures]) -> Figures {
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
