//! Which deliveries were lost, by sender: what a connection that failed leaves behind. Plain state,
//! filled by the connection's writer and handed to its reader.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::socket::connection::ConnectionId;
use crate::wire::loss::{LossReason, LostLines};
use crate::wire::name::Name;

/// How many senders one report concerns. The broker handles up to 64 events before it looks at new
/// ones, and so wakes no more writers for them than for one line with the longest list.
const MAX_REPORTED: usize = 16;

/// Whose line a message is, and which: the first line after the login line is number 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) sender: ConnectionId,
    pub(crate) line: u64,
}

/// The lost deliveries of one connection.
///
/// What one client sent to one connection travels through one queue and one stream, and nothing
/// arrives after the first failure. So what is lost is all that was sent from some line on, and one
/// record for each sender is the exact account, however much it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    by_sender: HashMap<ConnectionId, LostLines, RandomState>,
    total: u64,
}

/// What became of some senders' messages to one connection that has ended.
#[derive(Debug)]
pub(crate) struct LossReport {
    pub(crate) recipient: Name,
    pub(crate) reason: LossReason,
    pub(crate) records: Vec<(ConnectionId, LostLines)>,
}

impl Losses {
    /// Notes that this message is lost, and those of the `messages - 1` lines after it.
    pub(crate) fn note(&mut self, first: Origin, messages: u32) {
        let count = u64::from(messages);
        if count == 0 {
            return;
        }
        self.total += count;
        let lost = LostLines { first: first.line, last: first.line + count - 1, count };
        let known = self.by_sender.entry(first.sender);
        known.and_modify(|known| *known = known.and(lost)).or_insert(lost);
    }

    /// How many deliveries these are.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The losses as reports about this recipient.
    pub(crate) fn into_reports(
        self,
        recipient: Name,
        reason: LossReason,
    ) -> impl Iterator<Item = LossReport> {
        let mut records = self.by_sender.into_iter();
        std::iter::from_fn(move || {
            let records: Vec<_> = records.by_ref().take(MAX_REPORTED).collect();
            let (recipient, reason) = (recipient.clone(), reason.clone());
            (!records.is_empty()).then_some(LossReport { recipient, reason, records })
        })
    }
}

impl LossReport {
    /// How many deliveries these are.
    pub(crate) fn total(&self) -> u64 {
        self.records.iter().map(|(_, lines)| lines.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(sender: u64, line: u64) -> Origin {
        Origin { sender: ConnectionId(sender), line }
    }

    #[test]
    fn one_record_holds_all_that_a_sender_lost() {
        let mut losses = Losses::default();
        for (sender, line, messages) in [(1, 5, 1), (2, 1, 3), (1, 7, 2), (1, 20, 0), (1, 9, 1)] {
            losses.note(origin(sender, line), messages);
        }
        assert_eq!(losses.total(), 7);
        let bob = Name::new("bob").expect("a name");
        let reports: Vec<_> = losses.into_reports(bob, LossReason::Left).collect();
        let [report] = &reports[..] else { panic!("{reports:?}") };
        let mut records = report.records.clone();
        records.sort_by_key(|(sender, _)| *sender);
        let lines = |first, last, count| LostLines { first, last, count };
        let expected = [(ConnectionId(1), lines(5, 9, 4)), (ConnectionId(2), lines(1, 3, 3))];
        assert_eq!(records, expected);
    }

    #[test]
    fn no_report_concerns_more_senders_than_the_broker_may_wake_at_once() {
        let mut losses = Losses::default();
        for sender in 1..=1000 {
            losses.note(origin(sender, 1), 2);
        }
        let bob = Name::new("bob").expect("a name");
        let reports: Vec<_> = losses.into_reports(bob, LossReason::Evicted).collect();
        assert!(reports.iter().all(|report| report.records.len() <= MAX_REPORTED));
        assert_eq!(reports.iter().map(LossReport::total).sum::<u64>(), 2000);
    }
}
