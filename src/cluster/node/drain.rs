//! How a node drains: it leaves, its readers are cut, it asks for its release, and it finishes; and what
//! it does again after a while. Runs on the broker's thread.

use std::time::{Duration, Instant};

use super::{Drain, Node, Standing};
use crate::cluster::engine::Command;
use crate::cluster::orders::{Effect, Order};
use crate::cluster::outgoing::{Unconfirmed, Unsettled};

/// How long a node that stops waits at least before its clients are released: of nodes that are stopped
/// at the same moment each must have heard of the others by then, since what is sent to a node that was
/// released is held for clients that nobody may come for.
const GRACE: Duration = Duration::from_millis(150);

impl<R, C: Clone> Node<R, C> {
    /// The drain begins: from here on, lines of running nodes to this one's names are held.
    pub(crate) fn leave(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.drain.leaving, true) {
            self.drain.grace_until = Some(now + GRACE);
            self.orders.push(Order::Command(Command::Leave));
        }
    }

    /// The readers are cut, and all their lines are routed.
    pub(crate) fn cut(&mut self, now: Instant) {
        self.leave(now);
        if !std::mem::replace(&mut self.drain.cut, true) {
            self.orders.push(Order::Command(Command::Cut));
        }
    }

    fn ask_for_release(&mut self, now: Instant) {
        if std::mem::take(&mut self.drain.is_grace_due) {
            self.drain.grace_until = Some(now + GRACE);
        }
        let Drain { cut, asked, released, grace_until, .. } = self.drain;
        let is_early = grace_until.is_some_and(|until| now < until);
        let may_ask = cut && !asked && !released && !is_early;
        if may_ask && !self.entering && self.outgoing.is_handed_over() {
            self.drain.asked = true;
            self.orders.push(Order::Command(Command::Release { regardless: false }));
        }
    }

    /// The time for the others is over: the release does not wait for them any more.
    pub(crate) fn release_regardless(&mut self) {
        if self.drain.cut && !self.drain.released && !self.entering {
            self.drain.asked = true;
            self.orders.push(Order::Command(Command::Release { regardless: true }));
        }
    }

    /// Does again what was put off, and gives up logins that wait for longer than `timeout`.
    pub(crate) fn tick(&mut self, now: Instant, timeout: Duration, effects: &mut Vec<Effect>) {
        let mut refused = Vec::new();
        let mut claims = Vec::new();
        for (session, login) in &mut self.logins {
            let Standing::Claiming { since, again } = &mut login.standing else { continue };
            if now.saturating_duration_since(*since) >= timeout {
                refused.push(*session);
            } else if !self.drain.asked && !self.drain.released && std::mem::take(again) {
                claims.push((*session, login.name.clone()));
            }
        }
        for (session, name) in claims {
            self.claim(session, name);
        }
        for session in refused {
            self.log_out(session);
            effects.push(Effect::LoginRefused { session, is_reachable: false });
        }
        self.ask_for_release(now);
    }

    /// The end: what becomes of deliveries that nobody has handled, and by place how many messages
    /// were handed over without word of their end.
    pub(crate) fn finish(&mut self, sent: u64) -> (Vec<Unsettled>, Unconfirmed) {
        let (unsettled, unconfirmed) = self.outgoing.finish(sent);
        (unsettled.into_iter().map(|(_, unsettled)| unsettled).collect(), unconfirmed)
    }
}
