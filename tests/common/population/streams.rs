//! Every accepted message, from its sender's side: who got it, who refused it, and whose loss it
//! must be.

use std::collections::{HashMap, HashSet};

use super::World;
use super::life::Who;
use super::model::Connection;
use super::presence::Presence;
use super::speech::Meaning;

/// That a line came to somebody of that name, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Receipt {
    line: u64,
    name: u16,
    by: usize,
}

/// Messages to one name that nobody of that name has received.
#[derive(Clone, Debug, Default)]
struct Missing {
    /// Surely owed: the sender and the line.
    owed: Vec<(Who, u64)>,
    /// Owed, or refused by an answer that the sender did not get.
    in_doubt: u64,
}

/// What one sender says to one name.
#[derive(Debug, Default)]
struct Stream {
    /// Who has received the last message, if nothing came between.
    holder: Option<usize>,
    /// Who can not receive any more of it: something came after theirs that was not theirs.
    past: Vec<usize>,
}

/// The messages of all, and who had which name after whom.
struct Streams<'a> {
    world: &'a World,
    connections: &'a [Connection],
    presence: &'a Presence,
    missing: HashMap<u16, Missing>,
    successions: HashSet<(usize, usize)>,
}

/// Checks that what each recipient got of each sender is without gaps from its first message on,
/// that what it did not get is lost and counted, and that all senders saw a name go from one
/// client to the next in the same order. Returns how many deliveries may or may not be owed.
pub fn check(world: &World, connections: &[Connection], presence: &Presence) -> u64 {
    let index = connections.iter().enumerate();
    let index: HashMap<_, _> = index.map(|(index, client)| (client.seen.life.who, index)).collect();
    let mut receipts = vec![Vec::new(); connections.len()];
    for (by, recipient) in connections.iter().enumerate() {
        for message in &recipient.seen.messages {
            let sender = index.get(&message.from);
            let sender = *sender.unwrap_or_else(|| panic!("{} was not served", message.from));
            let (line, name) = (u64::from(message.line), recipient.seen.life.name);
            receipts[sender].push(Receipt { line, name, by });
        }
    }
    let (missing, successions) = (HashMap::new(), HashSet::new());
    let mut streams = Streams { world, connections, presence, missing, successions };
    for (sender, mut receipts) in connections.iter().zip(receipts) {
        receipts.sort_unstable();
        streams.follow(sender, &receipts);
    }
    streams.check_losses();
    streams.check_successions();
    streams.missing.values().map(|missing| missing.in_doubt).sum()
}

impl Streams<'_> {
    /// Goes through a sender's accepted lines and finds each delivery.
    fn follow(&mut self, sender: &Connection, receipts: &[Receipt]) {
        let who = sender.seen.life.who;
        let mut speech = sender.seen.life.speech();
        let mut answers = sender.seen.answers.iter().peekable();
        let mut receipts = receipts.iter().peekable();
        let last_answer = sender.seen.answers.last().map_or(0, |answer| answer.line);
        let mut streams: HashMap<u16, Stream> = HashMap::new();
        for line in 1..=sender.departure.accepted {
            let answer = answers.next_if(|answer| answer.line == line);
            let is_settled = line <= last_answer || sender.knows_all_answers();
            let to = match speech.line(self.world, line).meaning {
                Meaning::Message { to, .. } => to,
                Meaning::Nothing => continue,
                Meaning::Question { .. } | Meaning::Census | Meaning::Refused(_) => {
                    assert!(answer.is_some() || !is_settled, "line {line} unanswered: {sender}");
                    continue;
                }
            };
            // Who came after the answer, to this line or a later one, came too late for this one.
            let answered = answer.or(answers.peek().copied()).map(|answer| answer.came);
            let refused = answer.map_or(&[][..], |answer| &answer.absent);
            let mut got = Vec::new();
            while let Some(receipt) = receipts.next_if(|receipt| receipt.line == line) {
                got.push(*receipt);
            }
            for name in to {
                let by: Vec<_> = got.iter().filter(|receipt| receipt.name == name).collect();
                let is_refused = refused.contains(&name);
                assert!(
                    by.len() + usize::from(is_refused) <= 1,
                    "{who} #{line}: {by:?}, {is_refused}"
                );
                let by = by.first().map(|receipt| receipt.by);
                let is_in_time =
                    |by: usize| answered.is_none_or(|came| self.connections[by].seen.began < came);
                assert!(by.is_none_or(is_in_time), "{who} #{line} was received out of its time");
                self.advance(streams.entry(name).or_default(), by, (who, line));
                if by.is_none() && !is_refused {
                    let is_owed = || self.presence.after(name, sender.seen.made(line));
                    let missing = self.missing.entry(name).or_default();
                    match if is_settled { Some(true) } else { is_owed() } {
                        Some(true) => missing.owed.push((who, line)),
                        Some(false) => {}
                        None => missing.in_doubt += 1,
                    }
                }
            }
        }
        let more = receipts.next();
        assert!(more.is_none(), "received, not accepted: {more:?} of {sender}");
        let more = answers.next();
        assert!(more.is_none(), "answered, not accepted: {more:?} to {sender}");
    }

    /// Takes a sender's next message to a name, which `by` has received, or nobody.
    fn advance(&mut self, stream: &mut Stream, by: Option<usize>, (who, line): (Who, u64)) {
        if stream.holder == by {
            return;
        }
        stream.past.extend(stream.holder);
        if let Some(by) = by {
            let name = || self.connections[by].seen.life.who;
            assert!(!stream.past.contains(&by), "a gap before {who} #{line} to {}", name());
            self.successions.extend(stream.past.last().map(|&before| (before, by)));
        }
        stream.holder = by;
    }

    /// What nobody of a name has received is what the connections under that name have not got.
    fn check_losses(&self) {
        let mut gaps: HashMap<u16, u64> = HashMap::new();
        for connection in self.connections {
            *gaps.entry(connection.seen.life.name).or_default() += connection.gap();
        }
        let none = Missing::default();
        for name in 0..u16::try_from(self.world.names.len()).expect("few names") {
            let gap = gaps.get(&name).copied().unwrap_or(0);
            let Missing { owed, in_doubt } = self.missing.get(&name).unwrap_or(&none);
            let least = owed.len() as u64;
            assert!(
                (least..=least + in_doubt).contains(&gap),
                "{}: {gap} reported as not received, {least} are missing and {in_doubt} may be: \
                 {:?}",
                self.world.name(name),
                &owed[..owed.len().min(8)],
            );
        }
    }

    /// No two senders disagree on who had a name first.
    fn check_successions(&self) {
        for &(before, after) in &self.successions {
            let who = |index: usize| self.connections[index].seen.life.who;
            let agrees = !self.successions.contains(&(after, before));
            assert!(agrees, "{} and {} had a name before each other", who(before), who(after));
        }
    }
}
