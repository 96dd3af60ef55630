//! Follows every accepted message from its sender: who received it, whether it was refused, and
//! whose loss it must be.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use a_chat::Report;

use super::World;
use super::line_generator::Meaning;
use super::losses::ToldLines;
use super::model::Connection;
use super::presence::Presence;
use super::reply::{Reply, Synced};
use super::rooms::{Owed, Rooms};
use super::session_plan::SessionId;

/// A line received under a name, by a connection's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Receipt {
    line: u64,
    name: u16,
    by: usize,
}

/// Messages to one name that no client of that name received.
#[derive(Clone, Debug, Default)]
struct Missing {
    /// Certainly owed: the session and the line.
    owed: Vec<(SessionId, u64)>,
    /// Owed, or refused in a reply that the sender did not receive.
    in_doubt: u64,
    /// Owed if the client was in the room at the time, which is not known.
    in_room: u64,
}

/// One sender's messages to one name.
#[derive(Debug, Default)]
struct Stream {
    /// The recipient of the last message, if nothing came between.
    holder: Option<usize>,
    /// Clients that cannot receive more: a later message went elsewhere.
    past: Vec<usize>,
}

/// All streams, and the order in which clients held each name.
struct Streams<'a> {
    world: &'a World,
    connections: &'a [Connection],
    presence: &'a Presence,
    rooms: Rooms,
    missing: HashMap<u16, Missing>,
    successions: HashSet<(usize, usize)>,
    /// Deliveries that certainly were owed and did not arrive, of which their sender was told nothing
    /// although it read everything.
    untold: u64,
}

/// Checks that each recipient's messages from each sender are gap-free from the first one on, that
/// the others are counted as lost, and that all senders saw a name pass between clients in the same
/// order. Returns the deliveries that may or may not be owed.
pub fn check(
    world: &World,
    connections: &[Connection],
    presence: &Presence,
    (patient, report): (bool, &Report),
) -> u64 {
    let index = connections.iter().enumerate();
    let index: HashMap<_, _> =
        index.map(|(index, client)| (client.seen.session.who, index)).collect();
    let mut receipts = vec![Vec::new(); connections.len()];
    for (by, recipient) in connections.iter().enumerate() {
        for message in &recipient.seen.messages {
            let sender = index.get(&message.from);
            let sender = *sender.unwrap_or_else(|| panic!("{} was not served", message.from));
            let (line, name) = (u64::from(message.line), recipient.seen.session.name);
            receipts[sender].push(Receipt { line, name, by });
        }
    }
    let (missing, successions) = (HashMap::new(), HashSet::new());
    let rooms = Rooms::of(world, connections, patient);
    let untold = 0;
    let mut streams = Streams { world, connections, presence, rooms, missing, successions, untold };
    for (sender, mut receipts) in connections.iter().zip(receipts) {
        receipts.sort_unstable();
        streams.follow(sender, &receipts);
    }
    streams.check_losses();
    streams.check_told(report);
    streams.check_successions();
    streams.missing.values().map(|missing| missing.in_doubt).sum()
}

impl Streams<'_> {
    /// Finds each delivery of a sender's accepted lines.
    fn follow(&mut self, sender: &Connection, receipts: &[Receipt]) {
        let who = sender.seen.session.who;
        let mut lines = sender.seen.session.line_generator();
        let mut replies = sender.seen.replies.iter().peekable();
        let mut receipts = receipts.iter().peekable();
        let last_reply = sender.seen.replies.last().map_or(0, |reply| reply.line);
        let mut streams: HashMap<u16, Stream> = HashMap::new();
        let mut is_draining = false;
        let told = self.told_lines(sender);
        let mut silent = 0;
        // What was not received, and how many losses were told up to the last confirmation.
        let (mut silent_lines, mut confirmed) = (Vec::new(), 0);
        for line in 1..=sender.record.accepted {
            let reply = replies.next_if(|reply| reply.line == line);
            let is_settled = line <= last_reply || sender.knows_all_replies();
            let to = match lines.line(self.world, line).meaning {
                Meaning::Message { to, .. } => to,
                Meaning::RoomMessage { room, .. } => {
                    let mut got = Vec::new();
                    while let Some(receipt) = receipts.next_if(|receipt| receipt.line == line) {
                        got.push(receipt.by);
                    }
                    let later = replies.peek().map(|reply| reply.came);
                    let refused = is_settled.then_some(reply.is_some());
                    self.follow_in_room(sender, (line, room), &got, refused, later);
                    continue;
                }
                Meaning::Nothing | Meaning::Join { .. } | Meaning::Leave { .. } => continue,
                Meaning::Who { .. } | Meaning::WhoAll | Meaning::WhoIn { .. } => {
                    // The server answers no `/who` that it routes after shutdown has begun, so
                    // none that follows one without a reply.
                    assert!(reply.is_none() || !is_draining, "late reply to {line}: {sender}");
                    is_draining |= reply.is_none() && is_settled;
                    continue;
                }
                Meaning::Sync { .. } => {
                    assert!(reply.is_some() || !is_settled, "no reply to line {line}: {sender}");
                    if let Some((reply, synced)) = reply.and_then(|it| Some((it, it.synced?))) {
                        confirmed =
                            self.check_sync(sender, reply, synced, confirmed, &silent_lines);
                    }
                    continue;
                }
                Meaning::Refused(_) => {
                    assert!(reply.is_some() || !is_settled, "no reply to line {line}: {sender}");
                    continue;
                }
            };
            // A client that connected after the reply to this or a later line came too late for
            // this one.
            let replied = reply.or(replies.peek().copied()).map(|reply| reply.came);
            let refused = reply.map_or(&[][..], |reply| &reply.absent);
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
                    |by: usize| replied.is_none_or(|came| self.connections[by].seen.began < came);
                assert!(
                    by.is_none_or(is_in_time),
                    "{who} #{line} was received by a client that came later"
                );
                self.advance(streams.entry(name).or_default(), by, (who, line));
                let is_told = told.contains(line, name);
                // What arrives as a connection is given up may be reported as lost.
                let may_be_lost = by.is_none_or(|by| self.connections[by].record.lost > 0);
                assert!(!is_told || !is_refused && may_be_lost, "{who} #{line} is not lost");
                if by.is_none() && !is_refused {
                    silent_lines.push((line, name));
                    let is_owed = || self.presence.after(name, sender.seen.made(line));
                    let missing = self.missing.entry(name).or_default();
                    match if is_settled { Some(true) } else { is_owed() } {
                        Some(true) => {
                            missing.owed.push((who, line));
                            silent += u64::from(!is_told);
                        }
                        Some(false) => {}
                        None => missing.in_doubt += 1,
                    }
                }
            }
        }
        if sender.knows_all_replies() {
            self.untold += silent.saturating_sub(told.unnamed);
        }
        let more = receipts.next();
        assert!(more.is_none(), "received, not accepted: {more:?} of {sender}");
        let more = replies.next();
        assert!(more.is_none(), "replied, not accepted: {more:?} to {sender}");
    }

    /// Finds each delivery of a line to a room, which was refused or not, if that is known. The reply
    /// to a later line came `later`.
    fn follow_in_room(
        &mut self,
        sender: &Connection,
        (line, room): (u64, usize),
        got: &[usize],
        refused: Option<bool>,
        later: Option<Instant>,
    ) {
        let (who, made) = (sender.seen.session.who, sender.seen.made(line));
        assert!(refused != Some(true) || got.is_empty(), "{who} #{line} was refused, and received");
        for (by, connection) in self.connections.iter().enumerate() {
            if connection.seen.session.who == who {
                continue;
            }
            let owed = self.rooms.owed(by, room, made, later);
            let is_received = got.iter().filter(|&&receiver| receiver == by).count();
            assert!(is_received <= 1, "{who} #{line} was received {is_received} times");
            assert!(
                is_received == 0 || owed != Owed::No,
                "{who} #{line} was received by a client that was not in the room: {connection}"
            );
            if is_received == 0 && refused != Some(true) {
                let missing = self.missing.entry(connection.seen.session.name).or_default();
                match (owed, refused) {
                    (Owed::Yes, Some(false)) => missing.owed.push((who, line)),
                    (Owed::Yes | Owed::Maybe, _) => missing.in_room += 1,
                    (Owed::No, _) => {}
                }
            }
        }
    }

    /// After "is delivered" every line before it has arrived, apart from what its recipient's kernel
    /// had and its recipient did not read; after "was reported lost" the losses told before explain
    /// the others. Returns how many losses were told up to a confirmation.
    fn check_sync(
        &self,
        sender: &Connection,
        reply: &Reply,
        synced: Synced,
        confirmed: usize,
        missing: &[(u64, u16)],
    ) -> usize {
        let line = reply.line;
        match synced {
            Synced::Not => return confirmed,
            Synced::Delivered => assert_eq!(reply.losses, confirmed, "line {line}: {sender}"),
            Synced::OrLost => assert!(reply.losses > confirmed, "line {line}: {sender}"),
        }
        let (seen, accepted) = (&sender.seen, sender.record.accepted);
        let (who, lines) = (seen.session.who, seen.session.line_generator());
        let told = ToldLines::of(self.world, who, lines, &seen.losses[..reply.losses], accepted);
        let mut silent: HashMap<u16, u64> = HashMap::new();
        for &(line, name) in missing {
            *silent.entry(name).or_default() += u64::from(!told.contains(line, name));
        }
        for (name, silent) in silent {
            let of_name = self.connections.iter().filter(|it| it.seen.session.name == name);
            let unread: u64 = of_name.map(Connection::unread).sum();
            assert!(
                silent <= unread + told.unnamed,
                "{silent} to {} missing before line {line}, {unread} unread: {sender}",
                self.world.name(name)
            );
        }
        reply.losses
    }

    fn told_lines(&self, sender: &Connection) -> ToldLines {
        let (seen, accepted) = (&sender.seen, sender.record.accepted);
        let lines = seen.session.line_generator();
        ToldLines::of(self.world, seen.session.who, lines, &seen.losses, accepted)
    }

    /// No sender is told of more than is lost, and none that reads everything misses anything that
    /// the report does not name as untold.
    fn check_told(&self, report: &Report) {
        let Report { lost_told, lost_sender_gone, lost_untold, .. } = *report;
        assert_eq!(report.lost(), lost_told + lost_sender_gone + lost_untold, "{report:?}");
        let told = self.connections.iter().flat_map(|connection| &connection.seen.losses);
        let told: u64 = told.map(|loss| loss.count).sum();
        let all_read = self.connections.iter().all(Connection::knows_all_replies);
        assert!(told <= lost_told && (told == lost_told || !all_read), "{told} told: {report:?}");
        // What a client's kernel has acknowledged is delivered, even if the client never reads it.
        let unread = self.connections.iter().map(Connection::unread).sum::<u64>();
        let (untold, max) = (self.untold, lost_sender_gone + lost_untold + unread);
        assert!(untold <= max, "{untold} were not told, {unread} not read: {report:?}");
    }

    /// Records a sender's next message to a name, received `by` a connection or by none.
    fn advance(&mut self, stream: &mut Stream, by: Option<usize>, (who, line): (SessionId, u64)) {
        if stream.holder == by {
            return;
        }
        stream.past.extend(stream.holder);
        if let Some(by) = by {
            let name = || self.connections[by].seen.session.who;
            assert!(!stream.past.contains(&by), "a gap before {who} #{line} to {}", name());
            self.successions.extend(stream.past.last().map(|&before| (before, by)));
        }
        stream.holder = by;
    }

    /// Messages that no client of a name received are those that its connections are missing.
    fn check_losses(&self) {
        let mut gaps: HashMap<u16, u64> = HashMap::new();
        for connection in self.connections {
            *gaps.entry(connection.seen.session.name).or_default() += connection.gap();
        }
        let none = Missing::default();
        for name in 0..u16::try_from(self.world.names.len()).expect("few names") {
            let gap = gaps.get(&name).copied().unwrap_or(0);
            let Missing { owed, in_doubt, in_room } = self.missing.get(&name).unwrap_or(&none);
            let least = owed.len() as u64;
            assert!(
                (least..=least + in_doubt + in_room).contains(&gap),
                "{}: {gap} reported as not received, {least} are missing and {in_doubt} may be, or \
                 {in_room} in rooms: {:?}",
                self.world.name(name),
                &owed[..owed.len().min(8)],
            );
        }
    }

    /// No two senders disagree on the order in which clients held a name.
    fn check_successions(&self) {
        for &(before, after) in &self.successions {
            let who = |index: usize| self.connections[index].seen.session.who;
            let agrees = !self.successions.contains(&(after, before));
            assert!(agrees, "{} and {} had a name before each other", who(before), who(after));
        }
    }
}
