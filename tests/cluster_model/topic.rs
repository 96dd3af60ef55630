//! A part of the cluster with a model of its own, which is small enough for few bounds.

use crate::search::Model;

pub trait Topic: Model + Sized {
    /// What can be taken out.
    type Rule: Copy + std::fmt::Debug + PartialEq + 'static;
    const RULES: &'static [Self::Rule];
    /// Which configuration fails without which rule.
    const NOTICED: &'static [(Self::Rule, &'static str)];
    /// Those that fail only beyond the short form's bound, so the long form tries them.
    const NOTICED_DEEP: &'static [(Self::Rule, &'static str)] = &[];
    /// How many states the short form explores of a configuration, and how many without a rule.
    const SHORT: usize = 500_000;
    const SHORT_WITHOUT: usize = 500_000;

    /// The configurations that are explored. Those whose names begin with `deep` are left to the long
    /// form.
    fn all() -> Vec<Self>;
    fn name(&self) -> &'static str;
    fn without(self, rule: Self::Rule) -> Self;
}
