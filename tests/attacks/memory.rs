//! Memory: floods of each kind, and whether the server stays within the stated bound.

use std::thread;
use std::time::Duration;

use crate::crowd::{Crowd, Plan, Reading, Sending, log_in};
use crate::floods::{Kind, block, names};
use crate::netns::address_of;
use crate::process::through;
use crate::target::{Target, beside_others, by_form, executable, figure, for_each};
use crate::tun::{Link, SERVER};

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// The defaults.
pub const WINDOW: u64 = 256 * KIB;
pub const MAX_LINE: u64 = 64 * KIB;

/// What the process has before anybody comes, its code that is loaded later included.
pub const PROCESS: u64 = 8 * MIB;

/// The memory of a connection that the documents state, in bytes, term by term.
pub struct Terms {
    threads: u64,
    /// What is queued from it.
    queued: u64,
    /// Replies that its lines caused before they could be charged.
    replies: u64,
    /// The batch that is being built.
    batch: u64,
    read_buffer: u64,
    /// What is in flight to it.
    in_flight: u64,
}

impl Terms {
    /// All that a connection may take.
    pub fn all(window: u64, max_line: u64) -> Self {
        Self {
            threads: if cfg!(debug_assertions) { 48 * KIB } else { 24 * KIB },
            queued: window,
            replies: 2 * window,
            batch: 128 * KIB + max_line,
            read_buffer: 128 * KIB + max_line,
            in_flight: 512 * KIB,
        }
    }

    /// What a flood can make use of: a bound that allows for what it cannot cause would show little.
    fn of(kind: Kind, window: u64, max_line: u64) -> Self {
        let all = Self::all(window, max_line);
        let replies = if kind == Kind::RunsToUnknown { all.replies } else { 0 };
        // On loopback little is in flight, but for tiny messages that are not read.
        let in_flight = if kind == Kind::SelfSends { all.in_flight / 4 } else { 64 * KIB };
        Self { replies, in_flight, ..all }
    }

    /// A bound on the memory of a server with this many such connections.
    pub fn bound(&self, connections: u64) -> u64 {
        let Self { threads, queued, replies, batch, read_buffer, in_flight } = self;
        PROCESS + connections * (threads + queued + replies + batch + read_buffer + in_flight)
    }
}

fn stays_within_the_bound(kind: Kind) {
    for_each(by_form(&[60_usize], &[300, 1700]), |clients| {
        let target = Target::start(&["--drain-timeout", "1s"]);
        let crowd = Crowd::start(target.address, kind.plans(clients));
        let watch = target.watch_memory();
        thread::sleep(Duration::from_secs(by_form(2, 12)));
        let peak = watch.end();
        let account = target.terminate();
        let members = crowd.finish();
        let bound = Terms::of(kind, WINDOW, MAX_LINE).bound(clients as u64);
        let each = peak.saturating_sub(PROCESS) / clients as u64 / KIB;
        figure(&format!(
            "{kind:?}, {clients} clients: {} MiB, {each} KiB each; bound {} MiB; {}",
            peak / MIB,
            bound / MIB,
            account.summary()
        ));
        account.check_members(&members);
        assert!(
            peak <= bound,
            "{kind:?}: {} KiB, {each} KiB for each of {clients} clients; at most {} KiB",
            peak / KIB,
            bound / KIB
        );
    });
}

#[test]
fn a_flood_of_long_who_lists_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::WhoLists);
}

#[test]
fn a_flood_of_long_who_lists_whose_replies_are_unread_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::WhoListsUnread);
}

#[test]
fn a_flood_of_bare_who_commands_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::BareWho);
}

#[test]
fn a_flood_of_messages_to_oneself_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::SelfSends);
}

#[test]
fn a_flood_of_messages_to_oneself_that_are_read_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::SelfSendsRead);
}

#[test]
fn a_flood_of_refused_lines_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::Refusals);
}

#[test]
fn a_flood_of_runs_to_unknown_names_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::RunsToUnknown);
}

#[test]
fn a_flood_to_many_names_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::ManyNames);
}

#[test]
fn a_flood_of_long_texts_to_many_names_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::ManyNamesWithText);
}

#[test]
fn a_flood_of_long_texts_to_oneself_stays_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::LongTexts);
}

#[test]
fn half_finished_lines_stay_within_the_memory_bound() {
    let _machine = beside_others();
    stays_within_the_bound(Kind::HalfLines);
}

#[test]
fn messages_in_flight_over_a_long_link_stay_within_the_memory_bound() {
    let _machine = beside_others();
    let (recipients, seconds) = by_form((4, 6), (10, 20));
    for between in ["\n", ""] {
        let Some(link) = Link::new(1500, Duration::from_millis(500)) else { return };
        let mut command = through(&link.network.server.launcher(), &executable());
        command.args(["serve", "--listen", "0.0.0.0:0", "--drain-timeout", "30s"]);
        let target = Target::run(command);
        let port = target.address.port();
        let host = &link.network.clients[0];
        let log_in = |address: &str, plans: Vec<Plan>| {
            let server = format!("{address}:{port}").parse().expect("an address");
            host.run(|| log_in(server, plans))
        };
        let names = names(recipients);
        let reader = |name| Plan::new(name, Sending::Nothing, Reading::Everything);
        let mut members = log_in(SERVER, names.iter().map(reader).collect());
        let sender = |name: &String| {
            // Short messages, each on its own or many in a run.
            let sending = Sending::Forever(block(&format!("{name}:\n{between}")));
            Plan::new(format!("to-{name}"), sending, Reading::Everything)
        };
        members.extend(log_in(&address_of(0), names.iter().map(sender).collect()));
        let watch = target.watch_memory();
        let crowd = Crowd::of(members);
        thread::sleep(Duration::from_secs(seconds));
        let peak = watch.end();
        let received = crowd.received().1 / MIB;
        crowd.hush();
        let account = target.terminate();
        account.check_members(&crowd.finish());
        let clients = 2 * recipients as u64;
        let bound = Terms::all(WINDOW, MAX_LINE).bound(clients);
        figure(&format!(
            "long link, runs: {}: {} MiB, {} KiB each; bound {} MiB; {received} MiB received; {}",
            between.is_empty(),
            peak / MIB,
            peak.saturating_sub(PROCESS) / clients / KIB,
            bound / MIB,
            account.summary()
        ));
        assert!(peak <= bound, "{} KiB; at most {} KiB", peak / KIB, bound / KIB);
    }
}
