//! What is left of a flood: the memory that it took is given back when it is over, and an idle client
//! costs no more after a burst than before it.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::wait_until;
use crate::crowd::{Crowd, Plan, Reading, Sending};
use crate::floods::{Kind, block, names};
use crate::memory::{KIB, MIB, PROCESS};
use crate::target::{Target, beside_others, by_form, figure};

#[test]
fn what_a_flood_took_is_given_back_when_its_clients_are_gone() {
    let _machine = beside_others();
    let clients = by_form(70, 300);
    let target = Target::start(&[]);
    let allowed = target.resident() + PROCESS;
    let mut peaks = Vec::new();
    for kind in [Kind::WhoLists, Kind::SelfSends, Kind::RunsToUnknown] {
        let threads = target.process.count("task");
        // All that waits in sockets has to be routed before the clients are gone.
        let plans = kind.plans(clients).into_iter().map(|plan| plan.with_send_buffer(32 * 1024));
        let crowd = Crowd::start(target.address, plans);
        let watch = target.watch_memory();
        thread::sleep(Duration::from_secs(by_form(1, 8)));
        peaks.push(watch.end() / KIB);
        crowd.half_close();
        crowd.read_everything();
        crowd.finish();
        wait_until("the clients to be gone", || target.process.count("task") <= threads);
    }
    // Whatever gives it back may do so once it is quiet.
    let quiet = Instant::now();
    while target.resident() > allowed && quiet.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    let after = target.resident();
    figure(&format!(
        "{} KiB may stay, peaks {peaks:?} KiB, {} KiB after, {:?} later",
        allowed / KIB,
        after / KIB,
        quiet.elapsed()
    ));
    let account = target.terminate();
    // A flood that takes no more than what may stay would show nothing.
    let shows = peaks.iter().any(|peak| peak * KIB >= allowed + PROCESS / 2);
    assert!(shows, "peaks {peaks:?} KiB, of which {} KiB may stay", allowed / KIB);
    assert!(after <= allowed, "{} KiB stay of {peaks:?}; {}", after / KIB, account.summary());
}

#[test]
fn an_idle_client_costs_no_more_after_a_burst() {
    let _machine = beside_others();
    let clients = by_form(100, 400);
    let most = if cfg!(debug_assertions) { 64 * KIB } else { 32 * KIB };
    let target = Target::start(&[]);
    let before = target.resident();
    let plan = |name: &String| {
        let lines = block(&format!("{name}: {}\n", "x".repeat(200)));
        Plan::new(name, Sending::Once(lines), Reading::Everything)
    };
    let crowd = Crowd::start(target.address, names(clients).iter().map(plan));
    let lines = block(&format!("aa: {}\n", "x".repeat(200)));
    let each = memchr::memchr_iter(b'\n', &lines).count() as u64;
    wait_until("the bursts to arrive", || crowd.received().0 >= each * clients as u64);
    let busy = target.resident();
    let quiet = Instant::now();
    let allowed = before + 4 * MIB + most * clients as u64;
    while target.resident() > allowed && quiet.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    let idle = target.resident();
    figure(&format!(
        "idle after a burst: {} KiB each, {} KiB at the burst's end, after {:?}",
        idle.saturating_sub(before) / clients as u64 / KIB,
        busy.saturating_sub(before) / clients as u64 / KIB,
        quiet.elapsed()
    ));
    let account = target.terminate();
    account.check_members(&crowd.finish());
    assert!(idle <= allowed, "{} KiB each", (idle - before) / clients as u64 / KIB);
}
