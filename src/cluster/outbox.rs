//! What egress has to bring to the engine: numbered commands, and what is to be acknowledged. Pure
//! state, owned by egress; a cycle takes from its front, and what has no reply stays there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::cluster::engine::{Command, Entrance, Life, Piece, Session};
use crate::cluster::orders::{Forward, Order};
use crate::cluster::parcel::{self, Origin};
use crate::cluster::ranges::{Acknowledgement, Ranges, Told};

/// How large a command with pieces grows, in bytes, before the next one is begun. The engine's time
/// for a script grows with its bytes, and everybody else waits meanwhile.
const MAX_COMMAND_BYTES: usize = 256 * 1024;

/// How many names a command has at most: the engine's Lua passes no more than some 8,000 values on.
const MAX_COMMAND_NAMES: usize = 4_000;

/// How much one cycle brings at most, in bytes and in commands.
const MAX_CYCLE_BYTES: usize = 1024 * 1024;
const MAX_CYCLE_COMMANDS: usize = 512;

#[derive(Debug)]
struct Queued {
    number: u64,
    command: Command,
    bytes: usize,
    names: usize,
    /// A connection has had it, so it must not change any more.
    was_tried: bool,
}

/// What a command wants to hear: a claim is answered to its session, a question by its number.
#[derive(PartialEq, Eq, Hash)]
enum Asked {
    Name(Session),
    Question(u64),
}

impl Asked {
    fn by(command: &Command) -> Option<Self> {
        match command {
            Command::Claim { session, .. } => Some(Self::Name(*session)),
            command => command.question().map(Self::Question),
        }
    }
}

/// What is known here of an origin's deliveries.
#[derive(Debug, Default)]
struct Known {
    handled: Ranges,
    settled: Ranges,
    /// What was finished last: the origin may not have read that when the engine forgets it. Those
    /// before these, and how many there are since.
    finished: Ranges,
    finished_before: Ranges,
    recently: u64,
    /// How many losses were told.
    told: u64,
}

/// How many finished deliveries are remembered at least. What an origin has not read yet is what
/// was told in the last milliseconds.
const MIN_REMEMBERED: u64 = 32 * 1024;

impl Known {
    fn finish(&mut self, numbers: &Ranges) {
        self.finished.extend(numbers);
        self.recently += numbers.len();
        if self.recently >= MIN_REMEMBERED {
            self.finished_before = std::mem::take(&mut self.finished);
            self.recently = 0;
        }
    }

    fn all_finished(&self) -> Ranges {
        let mut all = self.finished_before.clone();
        all.extend(&self.finished);
        all
    }
}

/// What is to be told to an origin.
#[derive(Debug, Default)]
struct Telling {
    told: Acknowledgement,
    /// One by one, as writers end with them, until the next cycle.
    settled: Vec<u64>,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) life: Life,
    queue: VecDeque<Queued>,
    /// The number of the last command that was queued, and of the last that has run.
    last: u64,
    ran: u64,
    /// The last delivery that a connection has had.
    sent: u64,
    tell: HashMap<Life, Telling, RandomState>,
    known: HashMap<Life, Known, RandomState>,
    entrance: Option<Entrance>,
    /// Between a new incarnation and `Restart`.
    is_paused: bool,
}

/// What a cycle brings: so many commands from the front, and these acknowledgements.
#[derive(Debug, Default)]
pub(crate) struct Cycle {
    pub(crate) commands: usize,
    pub(crate) acks: Vec<(Life, Acknowledgement)>,
}

impl Outbox {
    pub(crate) fn new(life: Life) -> Self {
        Self {
            life,
            queue: VecDeque::new(),
            last: 0,
            ran: 0,
            sent: 0,
            tell: HashMap::default(),
            known: HashMap::default(),
            entrance: None,
            is_paused: false,
        }
    }

    /// A life begins: this is said before anything else, and nothing has to wait for `Restart`.
    pub(crate) fn begin(&mut self, entrance: Entrance) {
        self.entrance = Some(entrance);
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The number of the last command that has run.
    pub(crate) fn ran(&self) -> u64 {
        self.ran
    }

    pub(crate) fn entrance(&self) -> Option<&Entrance> {
        self.entrance.as_ref()
    }

    /// Whether anything is to be told to an origin.
    pub(crate) fn tells(&self) -> bool {
        !self.tell.is_empty()
    }

    /// Whether anything else has to be said.
    pub(crate) fn has_commands(&self) -> bool {
        !self.queue.is_empty() || self.entrance.is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tell.is_empty() && self.entrance.is_none()
    }

    /// The engine is in another incarnation: nothing is sent but the entrance, when it comes.
    pub(crate) fn pause(&mut self) {
        self.is_paused = true;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(crate) fn take(&mut self, order: Order) {
        match order {
            Order::Forward(forward) => self.forward(forward),
            Order::Command(Command::Free { session, claim: None, .. })
                if self.cancel_claim(session) => {}
            Order::Command(Command::Leave) => self.push_first(Command::Leave),
            Order::Command(command) => self.push(command, 0, 0),
            Order::Handled { origin, numbers, lowest } => {
                let known = self.known.entry(origin.clone()).or_default();
                known.handled.extend(&numbers);
                known.handled.forget_below(lowest);
                known.settled.forget_below(lowest);
                self.tell.entry(origin).or_default().told.handled.extend(&numbers);
            }
            Order::Settled { origin, number } => {
                self.tell.entry(origin).or_default().settled.push(number);
            }
            Order::Finished { origin, numbers } => {
                self.known.entry(origin.clone()).or_default().finish(&numbers);
                self.tell.entry(origin).or_default().told.finished.extend(&numbers);
            }
            Order::Lost { origin, number, messages, reason } => {
                // In one acknowledgement: whoever reads it again has no account any more, and tells
                // nobody twice.
                let mut numbers = Ranges::default();
                numbers.insert(number);
                self.known.entry(origin.clone()).or_default().finish(&numbers);
                let tell = self.tell.entry(origin).or_default();
                tell.told.finished.extend(&numbers);
                tell.told.lost.push((number, messages, reason));
            }
            Order::LostLines { origin, session, lines, recipient, reason } => {
                let known = self.known.entry(origin.clone()).or_default();
                known.told += 1;
                let told = Told { serial: known.told, session, lines, recipient, reason };
                self.tell.entry(origin).or_default().told.told.push(told);
            }
            Order::Enter { life, entrance } => self.enter(life, entrance),
            Order::Restart { forwards, claims } => self.restart(forwards, claims),
        }
    }

    fn push(&mut self, command: Command, bytes: usize, names: usize) {
        self.last += 1;
        let number = self.last;
        self.queue.push_back(Queued { number, command, bytes, names, was_tried: false });
    }

    /// Puts a command before all that no connection has had. What others do with the lines behind it
    /// may depend on it.
    fn push_first(&mut self, command: Command) {
        let at = self.queue.iter().position(|queued| !queued.was_tried);
        let at = at.unwrap_or(self.queue.len());
        self.push(command, 0, 0);
        // The new one is the last, and goes to the front of them.
        let first = self.queue.get(at).map_or(self.last, |queued| queued.number);
        if let Some(mut queued) = self.queue.pop_back() {
            queued.number = first;
            self.queue.range_mut(at..).for_each(|behind| behind.number += 1);
            self.queue.insert(at, queued);
        }
    }

    /// A login has given up: true if the engine need not hear of it, since it has not heard of the
    /// claim. Otherwise the engine would be told of each login that was tried while it was away.
    fn cancel_claim(&mut self, session: Session) -> bool {
        let mut is_known = false;
        // Logins give up in the order in which they came, so this is soon found.
        let at = self.queue.iter().position(|queued| {
            let is_it =
                matches!(&queued.command, Command::Claim { session: its, .. } if *its == session);
            is_known |= is_it && queued.was_tried;
            is_it && !queued.was_tried
        });
        let Some(at) = at.filter(|_| !is_known) else { return false };
        self.queue.remove(at);
        self.last -= 1;
        self.queue.range_mut(at..).for_each(|queued| queued.number -= 1);
        true
    }

    /// Adds a piece to the last command, if that is one with pieces and has room.
    fn forward(&mut self, forward: Forward) {
        let Forward { first, names, from, session, room, lowest, first_line, messages, .. } =
            forward;
        let Forward { frames, range, .. } = forward;
        let origin = Origin {
            sender: &from,
            room: room.as_ref(),
            from: session,
            lowest,
            first_line,
            messages,
        };
        let frames = &frames[range.start as usize..range.end as usize];
        let body: Arc<[u8]> = parcel::write_piece(origin, frames).into();
        let (bytes, count) = (body.len(), names.len());
        let piece = Piece { first, names, body };
        if let Some(last) = self.queue.back_mut().filter(|last| !last.was_tried) {
            if let Command::Send(pieces) = &mut last.command {
                if last.bytes + bytes <= MAX_COMMAND_BYTES
                    && last.names + count <= MAX_COMMAND_NAMES
                {
                    pieces.push(piece);
                    last.bytes += bytes;
                    last.names += count;
                    return;
                }
            }
        }
        self.push(Command::Send(vec![piece]), bytes, count);
    }

    /// What was not answered in the former incarnation is not sent in this one, before `Restart`.
    fn enter(&mut self, life: Life, mut entrance: Entrance) {
        self.is_paused = true;
        self.gather_settled();
        if life == self.life {
            // A name stays this node's until its `free` is answered: the lines of its session stand
            // before that, and nobody may overtake them.
            for queued in &self.queue {
                if let Command::Free { name, session, claim: Some(claim) } = &queued.command {
                    entrance.names.push((name.clone(), *session, *claim));
                }
            }
            let told = |known: &Known| Acknowledgement {
                handled: known.handled.clone(),
                settled: known.settled.clone(),
                finished: known.all_finished(),
                ..Acknowledgement::default()
            };
            let known = self.known.iter();
            entrance.known =
                known.map(|(origin, known)| (origin.clone(), told(known).to_string())).collect();
        } else {
            self.life = life;
            self.queue.clear();
            self.known.clear();
            self.tell.clear();
        }
        self.entrance = Some(entrance);
    }

    fn restart(&mut self, forwards: Vec<Forward>, claims: Vec<Command>) {
        let mut rest = std::mem::take(&mut self.queue);
        self.last = self.ran;
        // Before all that is sent again, as before all that is sent for the first time.
        if let Some(at) = rest.iter().position(|it| matches!(it.command, Command::Leave)) {
            rest.remove(at);
            self.push(Command::Leave, 0, 0);
        }
        // The node asks anew once what is sent again is handed over.
        rest.retain(|it| !matches!(it.command, Command::Release { regardless: false }));
        for forward in forwards {
            self.forward(forward);
        }
        let queued: HashSet<Asked, RandomState> =
            rest.iter().filter_map(|queued| Asked::by(&queued.command)).collect();
        let is_queued = |claim: &Command| Asked::by(claim).is_some_and(|it| queued.contains(&it));
        let lost: Vec<_> = claims.into_iter().filter(|claim| !is_queued(claim)).collect();
        for claim in lost {
            self.push(claim, 0, 0);
        }
        for queued in rest {
            // Lines are among the forwards, if they may be sent again at all.
            if !matches!(queued.command, Command::Send(_)) {
                self.push(queued.command, 0, 0);
            }
        }
        self.is_paused = false;
    }

    fn gather_settled(&mut self) {
        for (origin, Telling { told, settled }) in &mut self.tell {
            if !settled.is_empty() {
                let settled = Ranges::of(std::mem::take(settled));
                self.known.entry(origin.clone()).or_default().settled.extend(&settled);
                told.settled.extend(&settled);
            }
        }
    }

    /// What the next cycle brings: commands, and what is to be told if it is time for that. While the
    /// engine is in another incarnation that is nothing.
    pub(crate) fn next_cycle(&mut self, tells: bool) -> Cycle {
        let mut cycle = Cycle::default();
        if self.is_paused {
            return cycle;
        }
        let mut bytes = 0;
        for queued in &mut self.queue {
            if cycle.commands == MAX_CYCLE_COMMANDS
                || (bytes > 0 && bytes + queued.bytes > MAX_CYCLE_BYTES)
            {
                break;
            }
            bytes += queued.bytes;
            cycle.commands += 1;
            queued.was_tried = true;
            if let Command::Send(pieces) = &queued.command {
                if let Some(last) = pieces.last() {
                    self.sent = self.sent.max(last.first + last.names.len() as u64 - 1);
                }
            }
        }
        if tells {
            self.gather_settled();
            cycle.acks =
                self.tell.drain().map(|(origin, telling)| (origin, telling.told)).collect();
        }
        cycle
    }

    /// The commands at the front, with their numbers.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (u64, &Command)> {
        self.queue.iter().map(|queued| (queued.number, &queued.command))
    }

    /// A command at the front has run.
    pub(crate) fn command_ran(&mut self) {
        if let Some(queued) = self.queue.pop_front() {
            self.ran = queued.number;
        }
    }

    /// What could not be told has to be told again.
    pub(crate) fn tell_again(&mut self, origin: Life, told: &Acknowledgement) {
        self.tell.entry(origin).or_default().told.merge(told);
    }

    /// The entrance was answered, or is for an incarnation that is over.
    pub(crate) fn drop_entrance(&mut self) {
        self.entrance = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::loss::LossReason;
    use crate::wire::name::Name;

    fn claim(session: Session) -> Order {
        let name = Name::new(format!("n{session}")).expect("a name");
        Order::Command(Command::Claim { name, session })
    }

    fn free(session: Session) -> Order {
        let name = Name::new(format!("n{session}")).expect("a name");
        Order::Command(Command::Free { name, session, claim: None })
    }

    fn queued(outbox: &Outbox) -> Vec<(u64, String)> {
        let commands = outbox.commands().map(|(number, command)| {
            let text = match command {
                Command::Claim { session, .. } => format!("claim {session}"),
                Command::Free { session, .. } => format!("free {session}"),
                other => format!("{other:?}"),
            };
            (number, text)
        });
        commands.collect()
    }

    /// Each waits for a while, and a thousand of them at a time.
    #[test]
    fn logins_that_give_up_while_the_engine_is_away_leave_nothing_in_the_queue() {
        let mut outbox = Outbox::new(Life::new("a.1"));
        outbox.take(Order::Command(Command::Leave));
        for session in 0..50_000 {
            outbox.take(claim(session));
            if session >= 1000 {
                outbox.take(free(session - 1000));
            }
            assert!(outbox.commands().count() <= 1002);
        }
        (49_000..50_000).rev().for_each(|session| outbox.take(free(session)));
        assert_eq!(queued(&outbox), [(1, "Leave".to_owned())]);
        outbox.take(claim(50_000));
        outbox.take(Order::Command(Command::Cut));
        let expected = [(1, "Leave"), (2, "claim 50000"), (3, "Cut")];
        assert_eq!(queued(&outbox), expected.map(|(number, text)| (number, text.to_owned())));
    }

    /// Nodes that are stopped together hear of each other however much one of them has to say.
    #[test]
    fn a_node_says_that_it_leaves_before_all_that_it_has_not_begun_to_say() {
        let mut outbox = Outbox::new(Life::new("a.1"));
        outbox.take(claim(1));
        assert_eq!(outbox.next_cycle(true).commands, 1);
        for order in [claim(2), claim(3), Order::Command(Command::Leave)] {
            outbox.take(order);
        }
        let expected = [(1, "claim 1"), (2, "Leave"), (3, "claim 2"), (4, "claim 3")];
        assert_eq!(queued(&outbox), expected.map(|(number, text)| (number, text.to_owned())));
        outbox.take(Order::Command(Command::Cut));
        assert_eq!(queued(&outbox).last(), Some(&(5, "Cut".to_owned())));
        let mut outbox = Outbox::new(Life::new("a.1"));
        outbox.take(Order::Command(Command::Leave));
        assert_eq!(queued(&outbox), [(1, "Leave".to_owned())]);
    }

    /// Others would hold what it sends, and be released meanwhile; and it has not handed over what is
    /// sent again.
    #[test]
    fn a_node_that_leaves_says_so_before_all_that_it_sends_again_and_asks_for_its_release_anew() {
        let mut outbox = Outbox::new(Life::new("a.1"));
        outbox.take(claim(1));
        for command in [Command::Leave, Command::Cut, Command::Release { regardless: false }] {
            outbox.take(Order::Command(command));
        }
        let claims = vec![Command::Claim { name: Name::new("n2").expect("a name"), session: 2 }];
        outbox.take(Order::Restart { forwards: Vec::new(), claims });
        let expected = [(1, "Leave"), (2, "claim 2"), (3, "claim 1"), (4, "Cut")];
        assert_eq!(queued(&outbox), expected.map(|(number, text)| (number, text.to_owned())));
        outbox.take(Order::Command(Command::Release { regardless: true }));
        outbox.take(Order::Restart { forwards: Vec::new(), claims: Vec::new() });
        assert!(queued(&outbox).last().is_some_and(|(_, text)| text.contains("regardless: true")));
    }

    /// The engine may have given it the name.
    #[test]
    fn a_login_whose_claim_was_on_a_wire_frees_its_name() {
        let mut outbox = Outbox::new(Life::new("a.1"));
        outbox.take(claim(7));
        assert_eq!(outbox.next_cycle(true).commands, 1);
        outbox.take(claim(8));
        outbox.take(free(7));
        outbox.take(free(8));
        let expected = [(1, "claim 7".to_owned()), (2, "free 7".to_owned())];
        assert_eq!(queued(&outbox), expected);
        outbox.command_ran();
        // Nor is it forgotten when the claim has run, and only its answer was not read.
        outbox.command_ran();
        outbox.take(free(7));
        assert_eq!(queued(&outbox), [(3, "free 7".to_owned())]);
    }

    #[test]
    fn a_loss_and_the_end_of_its_delivery_are_told_together() {
        let (mut outbox, origin) = (Outbox::new(Life::new("a.1")), Life::new("b.2"));
        let reason = LossReason::Left;
        outbox.take(Order::Lost { origin: origin.clone(), number: 4, messages: 2, reason });
        let acks = outbox.next_cycle(true).acks;
        let told: Vec<_> = acks.iter().map(|(_, told)| told.to_string()).collect();
        assert_eq!(told, ["- - 4 4:2:1 -"]);
    }
}
