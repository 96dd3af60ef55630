//! Keeps replies to a client's lines in the order of the lines, though some of them wait for the engine:
//! a client that counts replies, as this crate's does, takes each for a sign that all lines before it
//! were accepted. Pure state, owned by the broker.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use foldhash::fast::RandomState;

use crate::cluster::engine::Session;

/// What waits for its turn.
#[derive(Debug)]
enum Waiting<R, C> {
    /// Deliveries from `first` on, of which `unanswered` have no answer.
    Lines {
        first: u64,
        unanswered: usize,
        lines: Range<u64>,
        absent: Vec<Vec<u8>>,
        charge: C,
    },
    /// A question to the engine, which will be a reply.
    Question {
        question: u64,
    },
    Reply(R),
}

/// A reply whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<R, C> {
    /// No client has these names.
    Absent {
        lines: Range<u64>,
        names: Vec<Vec<u8>>,
        charge: C,
    },
    Reply(R),
}

/// All that wait, by the session that is to be answered. A session without an entry waits for
/// nothing.
#[derive(Debug)]
pub(crate) struct Answers<R, C> {
    waiting: HashMap<Session, VecDeque<Waiting<R, C>>, RandomState>,
}

impl<R, C> Default for Answers<R, C> {
    fn default() -> Self {
        Self { waiting: HashMap::default() }
    }
}

impl<R, C> Answers<R, C> {
    /// Deliveries were forwarded: `count` of them, from `first` on. `absent` are names of the same
    /// lines that no client can have.
    pub(crate) fn expect(
        &mut self,
        session: Session,
        first: u64,
        count: usize,
        lines: Range<u64>,
        absent: Vec<Vec<u8>>,
        charge: C,
    ) {
        let entry = Waiting::Lines { first, unanswered: count, lines, absent, charge };
        self.waiting.entry(session).or_default().push_back(entry);
    }

    /// The engine is asked something.
    pub(crate) fn ask(&mut self, session: Session, question: u64) {
        self.waiting.entry(session).or_default().push_back(Waiting::Question { question });
    }

    /// A reply that is ready: returned if its turn is now, kept until it is otherwise.
    pub(crate) fn reply(&mut self, session: Session, reply: R) -> Option<R> {
        match self.waiting.get_mut(&session) {
            None => Some(reply),
            Some(queue) => {
                queue.push_back(Waiting::Reply(reply));
                None
            }
        }
    }

    /// A delivery has an answer: `absent` is its name if no client has it.
    pub(crate) fn answered(&mut self, session: Session, number: u64, absent: Option<&[u8]>) {
        let Some(queue) = self.waiting.get_mut(&session) else { return };
        // Numbers grow, so the last entry that begins at or below this one has it. Answers come in the
        // order of the lines, mostly, so that one is near the front.
        let mut entry = None;
        for waiting in queue {
            match waiting {
                Waiting::Lines { first, .. } if *first > number => break,
                Waiting::Lines { unanswered, absent, .. } => entry = Some((unanswered, absent)),
                Waiting::Question { .. } | Waiting::Reply(_) => {}
            }
        }
        if let Some((unanswered, names)) = entry {
            *unanswered = unanswered.saturating_sub(1);
            names.extend(absent.map(<[u8]>::to_vec));
        }
    }

    /// A question has its answer.
    pub(crate) fn resolved(&mut self, session: Session, question: u64, reply: R) {
        let Some(queue) = self.waiting.get_mut(&session) else { return };
        let is_it = |it: &&mut Waiting<R, C>| matches!(it, Waiting::Question { question: asked } if *asked == question);
        if let Some(entry) = queue.iter_mut().find(is_it) {
            *entry = Waiting::Reply(reply);
        }
    }

    /// Takes the replies whose turn it is now.
    pub(crate) fn ready(&mut self, session: Session) -> Vec<Answer<R, C>> {
        let mut ready = Vec::new();
        let Some(queue) = self.waiting.get_mut(&session) else { return ready };
        while let Some(first) = queue.pop_front() {
            match first {
                Waiting::Reply(reply) => ready.push(Answer::Reply(reply)),
                Waiting::Lines { unanswered: 0, absent, .. } if absent.is_empty() => {}
                Waiting::Lines { unanswered: 0, lines, absent, charge, .. } => {
                    ready.push(Answer::Absent { lines, names: absent, charge });
                }
                open => {
                    queue.push_front(open);
                    break;
                }
            }
        }
        if queue.is_empty() {
            self.waiting.remove(&session);
        }
        ready
    }

    /// Whether answers or replies are still to come for it.
    pub(crate) fn is_waiting(&self, session: Session) -> bool {
        self.waiting.contains_key(&session)
    }

    /// The session is gone, and wants no answers.
    pub(crate) fn forget(&mut self, session: Session) {
        self.waiting.remove(&session);
    }

    /// True if no client waits for a reply.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_waits_for_the_answers_before_it() {
        let mut answers: Answers<&str, ()> = Answers::default();
        assert_eq!(answers.reply(1, "at once"), Some("at once"));
        answers.expect(1, 10, 2, 4..5, vec![b"no name".to_vec()], ());
        answers.expect(1, 12, 1, 5..8, Vec::new(), ());
        answers.ask(1, 3);
        assert_eq!(answers.reply(1, "behind"), None);
        assert_eq!(answers.reply(2, "somebody else's"), Some("somebody else's"));
        answers.answered(1, 12, Some(b"carol"));
        answers.answered(1, 10, None);
        assert_eq!(answers.ready(1), []);
        answers.resolved(1, 3, "who");
        answers.answered(1, 11, Some(b"bob"));
        let absent = |lines, names: &[&[u8]]| Answer::Absent {
            lines,
            names: names.iter().map(|name| name.to_vec()).collect(),
            charge: (),
        };
        let expected = [
            absent(4..5, &[b"no name", b"bob"]),
            absent(5..8, &[b"carol"]),
            Answer::Reply("who"),
            Answer::Reply("behind"),
        ];
        assert_eq!(answers.ready(1), expected);
        assert!(answers.is_empty());
        assert_eq!(answers.reply(1, "at once"), Some("at once"));
    }
}
