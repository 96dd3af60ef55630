//! Recipients with a TCP of their own, which withhold, delay or invent acknowledgements: they cost
//! no more memory and hold their senders up no longer than any others, and the account adds up.

use std::thread;
use std::time::{Duration, Instant};

use crate::crowd::{Crowd, Member, Plan, Reading, Sending, log_in};
use crate::memory::{MAX_LINE, Terms, WINDOW};
use crate::netns::{Network, address_of};
use crate::process::through;
use crate::raw_tcp::{Acks, RawHost};
use crate::slow_readers::longest_wait;
use crate::target::{Target, beside_others, by_form, executable, figure};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The largest window that a recipient's credit is reckoned by.
const MAX_WINDOW: u64 = 32 * MIB;

/// In what time a recipient must acknowledge how much, in seconds and bytes. At this pace it is evicted
/// two seconds before the stated time is over, and a busy machine may take them.
fn terms() -> (u64, u64) {
    by_form((2, 384 * KIB), (10, 32 * KIB))
}

/// A server on a host of its own, ordinary clients on another, and clients with a TCP of their own.
struct Scene {
    target: Target,
    raw: RawHost,
    port: u16,
    network: Network,
}

impl Scene {
    fn start(flags: &[&str]) -> Option<Self> {
        let network = Network::new(1)?;
        let raw = RawHost::new(&network.server)?;
        let mut command = through(&network.server.launcher(), &executable());
        command.args(["serve", "--listen", "0.0.0.0:0"]).args(flags);
        let target = Target::run(command);
        let port = target.address.port();
        Some(Self { target, raw, port, network })
    }

    /// Logs in a client with a TCP of its own.
    fn connect(&mut self, name: &str, window: u32) -> usize {
        let login = format!("{name}\n/who {name}\n");
        let number = self.raw.connect(self.port, login.as_bytes(), window, Acks::AtOnce);
        let is_in = self
            .raw
            .run_until(Duration::from_secs(20), |clients| clients[number].received.replies > 0);
        assert!(is_in, "no answer to the login: {:?}", self.raw.clients[number]);
        number
    }

    /// Logs in ordinary clients.
    fn log_in(&self, plans: Vec<Plan>) -> Vec<Member> {
        let server = format!("{}:{}", address_of(0), self.port).parse().expect("an address");
        self.network.clients[0].run(|| log_in(server, plans))
    }
}

fn numbered(name: &str, to: &str) -> Plan {
    let sending = Sending::Numbered { to: to.to_owned(), padding: 1000 };
    Plan::new(name, sending, Reading::Everything)
}

/// A recipient that has logged in and acknowledges like this from then on is evicted in time.
fn is_evicted_in_time(acks: Acks, window: u32, then: u32) {
    let _machine = beside_others();
    let (timeout, stall_bytes) = terms();
    let flags = [format!("{timeout}s"), stall_bytes.to_string()];
    let flags = ["--stall-timeout", &flags[0], "--stall-bytes", &flags[1], "--linger", "100ms"];
    let Some(mut scene) = Scene::start(&flags) else { return };
    let hog = scene.connect("hog", window);
    let crowd = Crowd::of(scene.log_in(vec![numbered("sender", "hog")]));
    let is_flooded = scene
        .raw
        .run_until(Duration::from_secs(20), |clients| clients[hog].received.messages > 100);
    assert!(is_flooded);
    let began = Instant::now();
    scene.raw.clients[hog].acknowledge(acks);
    scene.raw.clients[hog].window = then;
    let bound = longest_wait(timeout, stall_bytes, 512 * KIB, u64::from(window).min(MAX_WINDOW));
    let mut evicted = None;
    let log = &mut scene.target.process.log;
    scene.raw.run_until(bound + Duration::from_secs(20), |_| {
        if log.has_within(Duration::ZERO, "evicted") {
            evicted.get_or_insert(began.elapsed());
        }
        evicted.is_some()
    });
    figure(&format!("{acks:?}, window {window}, then {then}: {evicted:?} of {bound:?}"));
    crowd.hush();
    let ending = thread::spawn(move || scene.target.terminate());
    scene.raw.run_until(Duration::from_secs(60), |_| ending.is_finished());
    let account = ending.join().expect("no panic");
    account.check_members(&crowd.finish());
    let evicted = evicted.unwrap_or_else(|| panic!("not evicted: {}", account.summary()));
    assert!(evicted <= bound, "{evicted:?}, {bound:?} is stated");
}

#[test]
fn a_recipient_that_acknowledges_nothing_is_evicted_in_time() {
    is_evicted_in_time(Acks::Never, 64 * 1024, 64 * 1024);
    is_evicted_in_time(Acks::Never, 256 * 1024 * 1024, 256 * 1024 * 1024);
}

#[test]
fn a_recipient_that_shrinks_its_window_to_nothing_is_evicted_in_time() {
    is_evicted_in_time(Acks::AtOnce, 1024 * 1024, 0);
}

#[test]
fn a_recipient_that_acknowledges_too_slowly_is_evicted_in_time() {
    // An eighth of what it must.
    let (timeout, stall_bytes) = terms();
    let rate = stall_bytes / timeout / 8;
    is_evicted_in_time(Acks::Rate(rate), 1024 * 1024, 1024 * 1024);
}

#[test]
fn acknowledgements_of_bytes_that_were_not_sent_yet_leave_the_account_consistent() {
    let _machine = beside_others();
    let flags = ["--stall-timeout", "2s", "--drain-timeout", "2s", "--linger", "100ms"];
    let Some(mut scene) = Scene::start(&flags) else { return };
    let liar = scene.connect("liar", 1024 * 1024);
    let crowd = Crowd::of(scene.log_in(vec![numbered("sender", "liar")]));
    scene.raw.run_for(Duration::from_millis(500));
    scene.raw.clients[liar].acks = Acks::Ahead(100_000);
    scene.raw.run_for(Duration::from_secs(by_form(2, 10)));
    crowd.hush();
    let ending = thread::spawn(move || scene.target.terminate());
    scene.raw.run_until(Duration::from_secs(60), |_| ending.is_finished());
    let account = ending.join().expect("no panic");
    account.check_members(&crowd.finish());
    figure(&format!("acknowledged ahead: {}", account.summary()));
}

#[test]
fn a_pretended_round_trip_stays_within_the_memory_bound() {
    let _machine = beside_others();
    let (clients, seconds) = by_form((4_u64, 6), (20, 30));
    let flags = ["--drain-timeout", "3s", "--linger", "100ms"];
    let Some(mut scene) = Scene::start(&flags) else { return };
    let names: Vec<_> = (0..clients).map(|number| format!("far-{number}")).collect();
    for name in &names {
        let number = scene.connect(name, 512 * 1024 * 1024);
        scene.raw.clients[number].acks = Acks::Late(Duration::from_millis(500));
    }
    let sender = |name: &String| {
        let sending = Sending::Forever(crate::floods::block(&format!("{name}:\n\n")));
        Plan::new(format!("to-{name}"), sending, Reading::Everything)
    };
    let crowd = Crowd::of(scene.log_in(names.iter().map(sender).collect()));
    let watch = scene.target.watch_memory();
    scene.raw.run_for(Duration::from_secs(seconds));
    let peak = watch.end();
    let most = scene.raw.clients.iter().map(|client| client.most_unacknowledged).max();
    crowd.hush();
    let ending = thread::spawn(move || scene.target.terminate());
    scene.raw.run_until(Duration::from_secs(60), |_| ending.is_finished());
    let account = ending.join().expect("no panic");
    account.check_members(&crowd.finish());
    let bound = Terms::all(WINDOW, MAX_LINE).bound(2 * clients);
    figure(&format!(
        "a pretended round trip of 0.5 s: {} MiB; bound {} MiB; {most:?} B unacknowledged at most; {}",
        peak / MIB,
        bound / MIB,
        account.summary()
    ));
    assert!(peak <= bound, "{} KiB; at most {} KiB", peak / KIB, bound / KIB);
}
