//! Leases of other lives, and holds of those that have ended, as this node sees them. Pure state, owned
//! by egress.
//!
//! A lease is a counter that its node raises; each other node watches it by its own clock, which goes on
//! while the machine is suspended. The engine's clock is in no rule, so no step of it can end
//! every lease at once.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::cluster::engine::{Life, LifeState};

/// How often a lease is renewed within its time.
const RENEWALS: u32 = 5;

#[derive(Clone, Copy, Debug)]
struct Watched {
    state: LifeState,
    counter: u64,
    /// Since when it stands still, or since when the life is down.
    since: Duration,
}

/// All lives that the engine knows.
#[derive(Debug)]
pub(crate) struct Leases {
    lease: Duration,
    hold: Duration,
    watched: HashMap<Life, Watched, RandomState>,
    last_look: Option<Duration>,
}

/// What is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Lives whose lease is over, with the counter that they were seen with.
    pub(crate) reap: Vec<(Life, u64)>,
    /// Lives that have ended, and whose hold is over.
    pub(crate) end_hold: Vec<Life>,
}

/// Time since the machine started, suspended time included.
pub(crate) fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Leases {
    pub(crate) fn new(lease: Duration, hold: Duration) -> Self {
        Self { lease, hold, watched: HashMap::default(), last_look: None }
    }

    /// How often to renew and to look.
    pub(crate) fn interval(&self) -> Duration {
        self.lease / RENEWALS
    }

    /// Notes what the engine knows now, and returns what is due.
    pub(crate) fn look(
        &mut self,
        own: &Life,
        lives: &[(Life, LifeState, u64)],
        now: Duration,
    ) -> Due {
        // A node that has not looked for a while, because it was suspended or the engine away, cannot
        // tell how long the others have stood still.
        let longest = self.interval() * 3 / 2;
        let is_late = self.last_look.is_some_and(|last| now.saturating_sub(last) > longest);
        self.last_look = Some(now);
        let known = |life: &Life| lives.iter().any(|(other, ..)| other == life);
        self.watched.retain(|life, _| known(life));
        let mut due = Due::default();
        for (life, state, counter) in lives.iter().filter(|(life, ..)| life != own) {
            let fresh = Watched { state: *state, counter: *counter, since: now };
            let watched = self.watched.entry(life.clone()).or_insert(fresh);
            if is_late || watched.counter != *counter || watched.state != *state {
                *watched = fresh;
            }
            let still = now.saturating_sub(watched.since);
            if *state == LifeState::Down {
                if still >= self.hold {
                    due.end_hold.push(life.clone());
                }
            } else if still >= self.lease + self.interval() {
                due.reap.push((life.clone(), *counter));
            }
        }
        due
    }

    /// The lives whose renewal is overdue, each between blanks: perhaps they are dead, and a claim of
    /// their names should wait rather than be refused.
    pub(crate) fn overdue(&self, now: Duration) -> String {
        let mut list = String::from(" ");
        for (life, watched) in &self.watched {
            let is_late = now.saturating_sub(watched.since) >= self.lease / 2;
            if watched.state != LifeState::Down && is_late {
                list.push_str(life.as_str());
                list.push(' ');
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn leases() -> (Leases, Life, Life) {
        (Leases::new(10 * SECOND, 10 * SECOND), Life::new("a.1"), Life::new("b.2"))
    }

    fn look(leases: &mut Leases, state: LifeState, counter: u64, now: u32) -> Due {
        let lives = [
            (Life::new("a.1"), LifeState::Here, u64::from(now)),
            (Life::new("b.2"), state, counter),
        ];
        leases.look(&Life::new("a.1"), &lives, SECOND * now)
    }

    #[test]
    fn a_lease_is_over_when_its_counter_has_stood_still_for_long_enough() {
        let (mut leases, _, b) = leases();
        for now in (0..12).step_by(2) {
            assert_eq!(look(&mut leases, LifeState::Here, 7, now), Due::default(), "{now}");
        }
        assert_eq!(leases.overdue(SECOND * 4), " ");
        assert_eq!(leases.overdue(SECOND * 5), " b.2 ");
        let due = look(&mut leases, LifeState::Here, 7, 12);
        assert_eq!(due.reap, [(b, 7)]);
        // It was alive after all.
        assert_eq!(look(&mut leases, LifeState::Here, 8, 14), Due::default());
        assert_eq!(leases.overdue(SECOND * 15), " ");
    }

    #[test]
    fn a_node_that_did_not_look_for_a_while_reaps_nobody() {
        let (mut leases, ..) = leases();
        assert_eq!(look(&mut leases, LifeState::Here, 7, 0), Due::default());
        assert_eq!(look(&mut leases, LifeState::Here, 7, 60), Due::default());
        assert_eq!(look(&mut leases, LifeState::Here, 7, 62), Due::default());
    }

    #[test]
    fn a_hold_is_over_some_time_after_its_life_has_ended() {
        let (mut leases, _, b) = leases();
        assert_eq!(look(&mut leases, LifeState::Released, 7, 0), Due::default());
        for now in (2..12).step_by(2) {
            assert_eq!(look(&mut leases, LifeState::Down, 7, now), Due::default(), "{now}");
        }
        let due = look(&mut leases, LifeState::Down, 7, 12);
        assert_eq!(due, Due { reap: Vec::new(), end_hold: vec![b] });
    }
}
