//! Recipients that read slowly and steadily while others flood them: those that read at least
//! `--stall-bytes` in each `--stall-timeout` stay, however their kernels acknowledge; those that
//! read less are evicted within the stated time.

use std::thread;
use std::time::{Duration, Instant};

use crate::crowd::{Buffer, Crowd, Member, Plan, Reading, Sending, log_in};
use crate::netns::address_of;
use crate::process::through;
use crate::target::{Target, beside_others, by_form, executable, figure, is_long};
use crate::tun::{Link, SERVER};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Time for all that slow recipients have not read when the flood is over: through a receive buffer
/// of 4 KiB it comes at some 10 KiB/s, however eagerly it is read.
const SLOW_DRAIN: [&str; 4] = ["--drain-timeout", "5min", "--linger", "5s"];

/// What honest recipients must read in the short form, 16 KiB/s. The thread that reads for all of them
/// may be held up for seconds; at this pace the lumps that kernels acknowledge in take longer still.
const SHORT: [&str; 4] = ["--stall-timeout", "4s", "--stall-bytes", "64KiB"];

/// A recipient that reads at a rate, once it has read fast for a while, and the sender that floods
/// it.
#[derive(Clone, Copy, Debug)]
struct Case {
    bytes_per_second: u64,
    buffer: Buffer,
    fast_for: Duration,
}

impl Case {
    fn plans(self, number: usize) -> (Plan, Plan) {
        let Self { bytes_per_second, buffer, fast_for } = self;
        let recipient = format!("recipient-{number}");
        let flood = Sending::Numbered { to: recipient.clone(), padding: 1000 };
        let reading = Reading::Rate { fast_for, bytes_per_second };
        (
            Plan::new(recipient, Sending::Nothing, reading).with_buffer(buffer),
            Plan::new(format!("sender-{number}"), flood, Reading::Everything),
        )
    }
}

/// All combinations.
fn cases(rates: &[u64], buffers: &[Buffer], fast: &[u64]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &bytes_per_second in rates {
        for &buffer in buffers {
            for fast_for in fast.iter().copied().map(Duration::from_secs) {
                cases.push(Case { bytes_per_second, buffer, fast_for });
            }
        }
    }
    cases
}

/// Floods all recipients for a while, on one server; returns those that were evicted.
fn evicted(flags: &[&str], cases: &[Case], time: Duration) -> Vec<Case> {
    let target = Target::start(&[flags, &SLOW_DRAIN].concat());
    let (recipients, senders) = plans(cases);
    let mut members = log_in(target.address, recipients);
    members.extend(log_in(target.address, senders));
    evicted_of(target, members, cases, time)
}

/// The same over a link that is long; `None` if there can be none here.
fn evicted_over_a_link(
    flags: &[&str],
    mtu: u32,
    cases: &[Case],
    time: Duration,
) -> Option<Vec<Case>> {
    let link = Link::new(mtu, Duration::from_millis(500))?;
    let mut command = through(&link.network.server.launcher(), &executable());
    command.args(["serve", "--listen", "0.0.0.0:0"]).args(flags).args(SLOW_DRAIN);
    let target = Target::run(command);
    let port = target.address.port();
    let (recipients, senders) = plans(cases);
    let host = &link.network.clients[0];
    let log_in = |address: &str, plans| {
        let server = format!("{address}:{port}").parse().expect("an address");
        host.run(|| log_in(server, plans))
    };
    let mut members = log_in(SERVER, recipients);
    // The senders' link is short.
    members.extend(log_in(&address_of(0), senders));
    Some(evicted_of(target, members, cases, time))
}

fn plans(cases: &[Case]) -> (Vec<Plan>, Vec<Plan>) {
    cases.iter().enumerate().map(|(number, case)| case.plans(number)).unzip()
}

/// What is left of the streams is read to its end at the end, and the account has to be exact.
fn evicted_of(target: Target, members: Vec<Member>, cases: &[Case], time: Duration) -> Vec<Case> {
    let crowd = Crowd::of(members);
    let addresses = crowd.addresses().to_vec();
    // Nothing is waited for but the time: either they stay all the while, or they do not.
    thread::sleep(time);
    crowd.hush();
    crowd.read_everything();
    let account = target.terminate();
    account.check_members(&crowd.finish());
    assert_eq!(account.report.lost_in_drain, 0, "{}", account.summary());
    let is_evicted =
        |number: usize| account.record(addresses[number]).reason.starts_with("evicted");
    let evicted = cases.iter().enumerate().filter(|(number, _)| is_evicted(*number));
    evicted.map(|(_, case)| *case).collect()
}

#[test]
fn a_recipient_that_reads_as_fast_as_it_must_is_never_evicted() {
    let _machine = beside_others();
    let buffers = [
        Buffer::Bytes(4 * KIB),
        Buffer::Bytes(64 * KIB),
        Buffer::Bytes(4 * MIB),
        Buffer::Forced(32 * MIB),
        Buffer::Automatic,
    ];
    let evicted = if is_long() {
        let rates = [4, 5, 6, 8, 10, 13, 16, 24, 30, 40, 60, 100, 256, 1024].map(|kib| kib * 1024);
        evicted(&[], &cases(&rates, &buffers, &[0, 4]), Duration::from_secs(180))
    } else {
        // A little faster than it must, and some of the time without an acknowledgement.
        // The smallest buffer may get no more than 10 KB/s, which is enough only in the long form.
        let cases = cases(&[17 * 1024, 32 * 1024, 1024 * 1024], &buffers[1..], &[0, 1]);
        evicted(&SHORT, &cases, Duration::from_secs(16))
    };
    figure(&format!("honest recipients evicted: {} {evicted:#?}", evicted.len()));
    assert!(evicted.is_empty(), "honest, and evicted: {evicted:#?}");
}

#[test]
fn a_recipient_at_a_long_link_that_reads_as_fast_as_it_must_is_never_evicted() {
    let _machine = beside_others();
    let buffers = [Buffer::Bytes(64 * KIB), Buffer::Forced(4 * MIB), Buffer::Automatic];
    for mtu in by_form(&[1500][..], &[1500, 9000]) {
        let evicted = if is_long() {
            let rates = [4, 5, 6, 8, 13, 30, 60, 256].map(|kib| kib * 1024);
            let cases = cases(&rates, &buffers, &[0, 4]);
            evicted_over_a_link(&[], *mtu, &cases, Duration::from_secs(180))
        } else {
            let cases = cases(&[17 * 1024, 32 * 1024], &buffers, &[0, 1]);
            evicted_over_a_link(&SHORT, *mtu, &cases, Duration::from_secs(16))
        };
        let Some(evicted) = evicted else { return };
        figure(&format!("honest recipients evicted, MTU {mtu}: {} {evicted:#?}", evicted.len()));
        assert!(evicted.is_empty(), "honest, and evicted: {evicted:#?}");
    }
}

#[test]
fn a_recipient_that_reads_too_little_on_average_is_evicted_in_time() {
    let _machine = beside_others();
    let (timeout, stall_bytes) = by_form((1, 64 * 1024), (4, 32 * 1024));
    let quota = stall_bytes / timeout;
    // The kernel doubles it, and offers no more than all of it.
    let (buffer, window) = (Buffer::Bytes(32 * KIB), 64 * 1024);
    // What reads half of what it must needs twice the time to fall as far behind.
    for (bytes_per_second, factor) in [(0, 1), (quota / 2, 2)] {
        let flags = [format!("{timeout}s"), stall_bytes.to_string()];
        let flags = ["--stall-timeout", &flags[0], "--stall-bytes", &flags[1]];
        let mut target = Target::start(&flags);
        let began = Instant::now();
        let case = Case { bytes_per_second, buffer, fast_for: Duration::ZERO };
        let crowd = Crowd::start(target.address, <[Plan; 2]>::from(case.plans(0)));
        // The whole window of the sender is before its last line, beside what the kernels hold.
        let bound = longest_wait(timeout, stall_bytes, 256 * 1024, window) * factor;
        let evicted = target.process.log.has_within(bound, "evicted");
        let time = began.elapsed();
        figure(&format!("{bytes_per_second} of {quota} B/s: {time:?}, {bound:?} is stated"));
        assert!(evicted, "{bytes_per_second} of {quota} B/s, and not evicted in {time:?}");
        crowd.hush();
        crowd.read_everything();
        let account = target.terminate();
        assert_eq!(account.ended_by("evicted"), 1, "{}", account.summary());
        account.check_members(&crowd.finish());
    }
}

/// How long a line waits for a recipient at most, by the documents: with this much before it and in
/// it, in bytes, and this much offered by the recipient's kernel at most.
pub fn longest_wait(timeout: u64, stall_bytes: u64, pending: u64, window: u64) -> Duration {
    let credit = (window / 16 + 256 * 1024).min(window + window / 2);
    Duration::from_millis(1000 * timeout + 1000 * timeout * (pending + credit) / stall_bytes)
}
