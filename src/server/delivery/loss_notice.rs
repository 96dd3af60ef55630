//! What a sender is told of its lost lines. The broker adds to a notice until the sender's writer
//! renders it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::server::delivery::window::{Permit, Window};
use crate::wire::loss::{self, LossReason, LostLines, MAX_LOSS_BYTES};
use crate::wire::name::Name;

/// How many recipients a notice names. The losses of any others are summed up in one more line.
const MAX_NAMED: usize = 64;

/// The charge for a notice, in bytes: its longest text.
const NOTICE_CHARGE: usize = (MAX_NAMED + 1) * MAX_LOSS_BYTES;

/// Losses that one client was not told of yet, queued for it like a reply.
///
/// Lost messages were written, so their senders' windows do not limit how many there are. A client
/// therefore has one notice open at most, whose size has a bound, and which is charged to its window
/// once, however many of its recipients fail before it reads.
///
/// The lock is on no message's way: it is taken for a loss, and once to render the notice.
#[derive(Debug)]
pub(crate) struct LossNotice {
    /// `None` once it is rendered.
    open: Mutex<Option<Lost>>,
    permit: Arc<Permit>,
}

/// The notice that a client's further losses are added to, if one is queued for it. The broker's.
#[derive(Debug, Default)]
pub(crate) struct OpenNotice(Weak<LossNotice>);

#[derive(Debug, Default)]
struct Lost {
    named: Vec<(LostLines, Name, LossReason)>,
    /// All further losses, and on the way to how many connections.
    others: Option<(LostLines, u64)>,
}

impl OpenNotice {
    /// Adds the losses of one recipient. Returns a notice to queue if none is open.
    pub(crate) fn add(
        &mut self,
        window: &Arc<Window>,
        lines: LostLines,
        recipient: &Name,
        reason: &LossReason,
    ) -> Option<Arc<LossNotice>> {
        if self.0.upgrade().is_some_and(|notice| notice.add(lines, recipient, reason)) {
            return None;
        }
        let notice = Arc::new(LossNotice::new(window));
        notice.add(lines, recipient, reason);
        self.0 = Arc::downgrade(&notice);
        Some(notice)
    }
}

impl LossNotice {
    /// An open notice without any losses, charged to its client's window.
    fn new(window: &Arc<Window>) -> Self {
        let permit = Arc::new(window.charge(NOTICE_CHARGE));
        Self { open: Mutex::new(Some(Lost::default())), permit }
    }

    /// Adds the losses of one recipient; false if the notice is already rendered.
    fn add(&self, lines: LostLines, recipient: &Name, reason: &LossReason) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lost) = open.as_mut() else {
            return false;
        };
        if lost.named.len() < MAX_NAMED {
            lost.named.push((lines, recipient.clone(), reason.clone()));
        } else {
            let (others, recipients) = lost.others.unwrap_or((lines, 0));
            let others = if recipients == 0 { lines } else { others.and(lines) };
            lost.others = Some((others, recipients + 1));
        }
        true
    }

    /// Closes the notice, and returns its text and the charge for it.
    pub(crate) fn render(&self) -> (Vec<u8>, Arc<Permit>) {
        let lost = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Lost { named, others } = lost.unwrap_or_default();
        let mut text = Vec::new();
        for (lines, recipient, reason) in &named {
            loss::push_loss(&mut text, *lines, recipient, reason);
        }
        if let Some((lines, recipients)) = others {
            loss::push_losses(&mut text, lines, recipients);
        }
        (text, Arc::clone(&self.permit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Arc<Window> {
        Arc::new(Window::new(1, Arc::default()))
    }

    fn line(number: u64) -> LostLines {
        LostLines { first: number, last: number, count: 1 }
    }

    fn text(notice: &LossNotice) -> String {
        String::from_utf8(notice.render().0).expect("text")
    }

    #[test]
    fn a_notice_takes_losses_until_it_is_rendered() {
        let window = window();
        let notice = LossNotice::new(&window);
        let [bob, carol] = ["bob", "carol"].map(|name| Name::new(name).expect("a name"));
        assert!(notice.add(line(3), &bob, &LossReason::Evicted));
        let lines = LostLines { first: 2, last: 9, count: 4 };
        assert!(notice.add(lines, &carol, &LossReason::Left));
        let expected = "error: line 3: lost on the way to bob: evicted\n\
                        error: line 9: 4 lines from line 2 on lost on the way to carol: left\n";
        assert_eq!(text(&notice), expected);
        assert!(!notice.add(line(4), &bob, &LossReason::Evicted), "it is too late");
        drop(notice);
        assert_eq!(window.used(), 0);
    }

    #[test]
    fn a_client_has_one_open_notice_at_most() {
        let (window, mut open) = (window(), OpenNotice::default());
        let bob = Name::new("bob").expect("a name");
        let mut lose = |number| open.add(&window, line(number), &bob, &LossReason::Left);
        let first = lose(1).expect("the first loss opens a notice");
        assert!(lose(2).is_none());
        assert_eq!(text(&first).lines().count(), 2);
        let second = lose(3).expect("the first one is rendered");
        drop(first);
        assert!(lose(4).is_none());
        drop(second);
        assert!(lose(5).is_some(), "its client is gone, but it would be told");
    }

    #[test]
    fn a_storm_of_losses_is_told_in_a_bounded_notice() {
        let window = window();
        let notice = LossNotice::new(&window);
        let charged = window.used();
        for number in 1..=5000 {
            let name = Name::new(format!("{number:x>32}")).expect("a name");
            let lines = LostLines { first: u64::MAX - 9, last: u64::MAX, count: 10 };
            assert!(notice.add(lines, &name, &LossReason::ConnectionBroken));
        }
        let text = text(&notice);
        assert_eq!(window.used(), charged);
        assert!(text.len() <= charged, "{} bytes, {charged} charged", text.len());
        let max = u64::MAX;
        let last = format!(
            "error: line {max}: 49360 deliveries from line {} on lost on the way to 4936 others",
            max - 9
        );
        assert_eq!(text.lines().last(), Some(last.as_str()));
        assert_eq!(text.lines().count(), MAX_NAMED + 1);
    }
}
