//! The drain under floods: it ends by its deadline, and clients that have nothing to do with the
//! flood lose none of their accepted lines.

use std::thread;
use std::time::Duration;

use crate::crowd::Crowd;
use crate::floods::Kind;
use crate::innocents::Innocents;
use crate::target::{Target, alone, by_form, figure, for_each};

/// How much later than its deadline a drain may end: frees, resets and joins of what is left, on a
/// machine that does other things as well.
pub const MOMENT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2000 } else { 500 });

fn ends_by_its_deadline_and_innocents_lose_nothing(kind: Kind) {
    let long = [(300, 1), (500, 1), (800, 1), (1100, 5), (1700, 5)];
    for_each(by_form(&[(100, 4)], &long), |(clients, seconds)| {
        let target = Target::start(&["--drain-timeout", &format!("{seconds}s")]);
        let innocents = Innocents::start(target.address);
        let crowd = Crowd::start(target.address, kind.plans(clients));
        thread::sleep(Duration::from_secs(by_form(1, 4)));
        let account = target.terminate();
        let members = crowd.finish();
        figure(&format!(
            "{kind:?}, {clients} clients, {seconds} s: over in {:?}; {}",
            account.took,
            account.summary()
        ));
        account.check_members(&members);
        innocents.expect_no_loss(&account);
        let deadline = Duration::from_secs(seconds) + MOMENT;
        assert!(account.took <= deadline, "{:?}: {}", account.took, account.summary());
    });
}

#[test]
fn a_drain_under_a_flood_of_who_lists_ends_in_time_and_costs_innocents_nothing() {
    let _machine = alone();
    ends_by_its_deadline_and_innocents_lose_nothing(Kind::WhoLists);
}

#[test]
fn a_drain_under_a_flood_of_unread_who_lists_ends_in_time_and_costs_innocents_nothing() {
    let _machine = alone();
    ends_by_its_deadline_and_innocents_lose_nothing(Kind::WhoListsUnread);
}

#[test]
fn a_drain_under_a_flood_to_many_names_ends_in_time_and_costs_innocents_nothing() {
    let _machine = alone();
    ends_by_its_deadline_and_innocents_lose_nothing(Kind::ManyNames);
}

#[test]
fn a_drain_under_a_flood_of_runs_to_unknown_names_ends_in_time_and_costs_innocents_nothing() {
    let _machine = alone();
    ends_by_its_deadline_and_innocents_lose_nothing(Kind::RunsToUnknown);
}

#[test]
fn a_drain_under_a_flood_of_messages_to_oneself_ends_in_time_and_costs_innocents_nothing() {
    let _machine = alone();
    ends_by_its_deadline_and_innocents_lose_nothing(Kind::SelfSends);
}
