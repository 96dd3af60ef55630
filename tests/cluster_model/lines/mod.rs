//! Lines from client to client over nodes that stop, start again, die and are taken for dead, with
//! clients that move and an engine that forgets: each line is received, in its sender's order, or named
//! by one node.
//!
//! Read in this order: `rules`, `state`, `engine` (the scripts), `incarnations`, `broker`, `steps` and
//! `lives` (what may happen), `model` (what must hold), `scenarios`.

mod broker;
mod engine;
mod forgetful;
mod incarnations;
mod lives;
mod model;
mod rules;
mod scenarios;
mod state;
mod steps;

use crate::topic::Topic;
use rules::Rule;
use rules::Rule::*;
pub use rules::Scenario;

/// Which scenario fails without which rule.
const NOTICED: &[(Rule, &str)] = &[
    (LoginMark, "moves"),
    (OnePath, "moves"),
    (ReadBack, "drain-recipient"),
    (ForwardedFirst, "forgets-drain-sender"),
    (Once, "late"),
    (LargerClaim, "forgets"),
    (HoldMoves, "drain-recipient"),
    (HoldFirst, "drain-two-of-3"),
    (HoldQueue, "drain-two-of-3"),
    (HoldBack, "stop-all"),
    (Later, "stop-all-moves"),
    (SweeperOwns, "hold-over"),
    (DownHolds, "rolling"),
    (Paced, "rolling"),
    (Missing, "forgets-drain"),
];

/// The same, within more states than the short form explores.
const NOTICED_DEEP: &[(Rule, &str)] = &[
    (Cut, "stop-all"),
    (CutIsState, "stop-all"),
    (Once, "lost-replies"),
    (HandledSet, "forgets-two-names-drain"),
    (Placed, "kill-drain-3"),
    (KeptUntilDone, "kill"),
    (LastNames, "stop-all"),
    (Clear, "forgets"),
    (HandledFirst, "forgets-drain"),
    (SenderHere, "forgets-names"),
    (NotPassed, "forgets"),
    (FreeInOrder, "forgets-names"),
    (CutAnew, "forgets-stop-all-lines"),
    (ClaimAgain, "forgets"),
];

impl Topic for Scenario {
    type Rule = Rule;
    const RULES: &'static [Rule] = rules::ALL;
    const NOTICED: &'static [(Rule, &'static str)] = NOTICED;
    const NOTICED_DEEP: &'static [(Rule, &'static str)] = NOTICED_DEEP;
    // The larger ones are left to the long form.
    const SHORT: usize = 20_000;
    const SHORT_WITHOUT: usize = 50_000;

    fn all() -> Vec<Self> {
        [scenarios::calm(), scenarios::deadly(), forgetful::forgetful(), forgetful::deep()].concat()
    }
    fn name(&self) -> &'static str {
        self.name
    }
    fn without(self, rule: Rule) -> Self {
        Scenario { without: vec![rule], ..self }
    }
}
