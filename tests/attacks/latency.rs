//! Fairness: what a pair of innocent clients waits for its messages beside floods of each kind.

use std::thread;
use std::time::Duration;

use crate::common::wait_until;
use crate::crowd::Crowd;
use crate::floods::Kind;
use crate::innocents::{Innocents, MEDIAN};
use crate::target::{Target, alone, by_form, figure, for_each, is_long};

fn floods_cost_innocents_little(kind: Kind) {
    for_each(by_form(&[40_usize], &[300, 1700]), |clients| {
        let target = Target::start(&["--drain-timeout", "20s"]);
        let innocents = Innocents::start(target.address);
        wait_until("messages", || innocents.arrived() >= 20);
        let crowd = Crowd::start(target.address, kind.plans(clients));
        thread::sleep(Duration::from_millis(by_form(300, 3000)));
        innocents.restart_latencies();
        let so_far = innocents.arrived();
        if is_long() {
            thread::sleep(Duration::from_secs(15));
        }
        wait_until("messages beside a flood", || innocents.arrived() >= so_far + 40);
        let (median, p99) = innocents.latencies();
        figure(&format!("| {kind:?} | {clients} | {median:.1?} | {p99:.1?} |"));
        innocents.hush();
        let account = target.terminate();
        account.check_members(&crowd.finish());
        innocents.expect_no_loss(&account);
        assert!(median < MEDIAN, "{kind:?}, {clients} clients: {median:?}");
    });
}

#[test]
fn innocent_clients_are_served_beside_a_flood_of_who_lists() {
    let _machine = alone();
    floods_cost_innocents_little(Kind::WhoLists);
}

#[test]
fn innocent_clients_are_served_beside_floods_of_each_kind() {
    let _machine = alone();
    let short = &[Kind::SelfSends, Kind::RunsToUnknown, Kind::ManyNames][..];
    for_each(by_form(short, &Kind::ALL), floods_cost_innocents_little);
}
