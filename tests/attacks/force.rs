//! The end by force: with thousands of recipients that are stuck, a drain still ends by its
//! deadline, and a report of thousands of losers is made of lines that a log can hold.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::crowd::{Buffer, Crowd, Plan, Reading, Sending};
use crate::drain::MOMENT;
use crate::floods::block;
use crate::process::SIGNALLED;
use crate::target::{Target, alone, by_form, figure};

/// How long a line of a log may be: Docker cuts lines at 16 KiB, journald at 48.
const MAX_LOG_LINE: usize = 16 * 1024;

/// How many names one sender lists.
const LIST: usize = 1000;

/// Recipients that never read, and one sender for each thousand of them.
fn stuck(clients: usize) -> Vec<Plan> {
    let names: Vec<_> = (0..clients).map(|number| format!("stuck-{number}")).collect();
    let senders = names.chunks(LIST).enumerate().map(|(number, names)| {
        let line = format!("{}: {}\n", names.join(","), "x".repeat(30_000));
        let sending = Sending::Forever(block(&line));
        Plan::new(format!("sender-{number}"), sending, Reading::Everything)
    });
    let senders: Vec<_> = senders.collect();
    let small =
        |name| Plan::new(name, Sending::Nothing, Reading::Nothing).with_buffer(Buffer::Bytes(4096));
    names.into_iter().map(small).chain(senders).collect()
}

fn ends_with(signals: &[Signal], drain: u64) {
    let clients = by_form(300, 3000);
    let flags = ["--drain-timeout", &format!("{drain}s"), "--stall-timeout", "10min"];
    let mut target = Target::start(&flags);
    let crowd = Crowd::start(target.address, stuck(clients));
    // Until no window has room any more.
    let mut before = 0;
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(1) {
        let now = target.process.cpu_time().as_millis();
        if now > before + 20 {
            (before, quiet) = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(100));
    }
    let signalled = Instant::now();
    let [others @ .., last] = signals else { panic!("no signal") };
    for signal in others {
        target.process.signal(*signal);
        target.process.log.expect(SIGNALLED);
        // The next signal within half a second would be the same request.
        thread::sleep(Duration::from_millis(600));
    }
    target.process.signal(*last);
    // A second signal forces the end, and the first one the deadline.
    let forced = if others.is_empty() { Duration::from_secs(drain) } else { signalled.elapsed() };
    let account = target.wait();
    let took = account.report.drained;
    let longest = account.log.iter().map(String::len).max().unwrap_or(0);
    figure(&format!(
        "{clients} stuck clients, {signals:?}: {took:?} instead of {forced:?}, {:?} from the last \
         signal to the end of the process, longest log line {longest} B; {}",
        account.took,
        account.summary()
    ));
    let members = crowd.finish();
    account.check_members(&members);
    assert!(account.report.forced, "{}", account.summary());
    assert!(took <= forced + MOMENT, "{took:?}: {}", account.summary());
    assert!(longest <= MAX_LOG_LINE, "a line of {longest} B in the log");
}

#[test]
fn a_drain_with_many_stuck_recipients_ends_by_its_deadline() {
    let _machine = alone();
    ends_with(&[Signal::TERM], 1);
}

#[test]
fn a_second_signal_ends_a_drain_with_many_stuck_recipients_at_once() {
    let _machine = alone();
    ends_with(&[Signal::TERM, Signal::INT], 60);
}
