//! Who is in which room. Plain state, owned by the broker and tested without it; a room exists while
//! somebody is in it, and nothing of it outlasts that.
//!
//! Clients are known by the broker's keys for them. What a client does costs time by the rooms that
//! it is in, never by the members of a room, except where each of them is sent something.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use slab::Slab;

use crate::server::delivery::pending::{ChargedFrames, FrameSlice};
use crate::server::delivery::room_news::{Move, RoomNews};
use crate::server::delivery::window::StandingPermit;
use crate::wire::name::Name;
use crate::wire::protocol::MAX_WHO_NAMES;
use crate::wire::room::{MAX_ROOMS, Room, RoomSize};

/// The charge for each room that a client is in, in bytes, as long as it is in it. A client that is
/// alone in 64 rooms was measured to take 312 bytes for each, one in rooms with others 111.
pub(crate) const MEMBERSHIP_CHARGE: usize = 512;

/// How often it is checked whether some members of a room are too slow, in parts of the time they
/// have. A suspension of this process, however long, counts as two parts at most.
const CHECKS: u32 = 8;

/// All rooms.
#[derive(Debug)]
pub(crate) struct Rooms {
    states: Slab<RoomState>,
    by_name: HashMap<Room, usize, RandomState>,
    /// The rooms that each client is in; none for a client that is in no room.
    of_client: HashMap<usize, Vec<Seat>, RandomState>,
    /// How long a member may take longer than the fastest one.
    max_lag: Duration,
}

/// A client's place in a room.
#[derive(Debug)]
struct Seat {
    room: usize,
    /// Where in the room's `members` it is.
    place: usize,
    #[expect(dead_code, reason = "it is held, not read")]
    standing: StandingPermit,
}

#[derive(Debug)]
struct RoomState {
    name: Room,
    /// In the order in which they came. A member that leaves leaves a hole, and the list is
    /// compacted when most of it is holes.
    members: Vec<Option<Member>>,
    holes: usize,
    /// How many of the members get what is sent to the room.
    size: RoomSize,
    /// How many of the members are loud.
    loud: usize,
    /// The last frames sent to it: while some member has not been written them, they exist.
    last: Weak<ChargedFrames>,
    lag: Option<Box<LagCheck>>,
}

#[derive(Debug)]
struct Member {
    client: usize,
    /// Whether it gets what is sent to the room. One that has half-closed only sends what it had
    /// sent before.
    receives: bool,
    is_loud: bool,
    /// The notice to which comings and goings are added, if the member is loud.
    news: Option<Arc<RoomNews>>,
    /// If the member takes part in a check: exists until it has been written all that was queued for
    /// it when the check began.
    probe: Option<Weak<ChargedFrames>>,
}

/// A check that is under way: members have probes, and are waited for.
#[derive(Debug)]
struct LagCheck {
    /// Since some member was written everything up to its probe, as far as time counts.
    waited: Option<Duration>,
    last: Instant,
}

/// What came of an attempt to enter a room.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) room: usize,
    pub(crate) size: RoomSize,
    /// Whether it was not in the room before.
    pub(crate) is_new: bool,
}

/// What a check asks for.
#[derive(Debug, Default)]
pub(crate) struct Lagging {
    /// To be queued for these clients.
    pub(crate) probes: Vec<(usize, FrameSlice)>,
    /// These clients are to leave these rooms.
    pub(crate) too_slow: Vec<(usize, Room)>,
}

impl Rooms {
    /// No rooms yet. A member may take as much longer than the fastest one of its room as `max_lag`
    /// says.
    pub(crate) fn new(max_lag: Duration) -> Self {
        Self {
            states: Slab::new(),
            by_name: HashMap::default(),
            of_client: HashMap::default(),
            max_lag,
        }
    }

    /// Lets a client into a room. `loud` is whether it is told who else comes and goes, or `None` to
    /// leave that as it is.
    pub(crate) fn join(
        &mut self,
        client: usize,
        name: &Room,
        receives: bool,
        loud: Option<bool>,
        standing: StandingPermit,
    ) -> Joined {
        let room = self.by_name.get(name).copied().unwrap_or_else(|| self.open(name));
        let seats = self.of_client.entry(client).or_default();
        let state = &mut self.states[room];
        let size = state.size.clone();
        if let Some(seat) = seats.iter().find(|seat| seat.room == room) {
            if let (Some(loud), Some(member)) = (loud, &mut state.members[seat.place]) {
                let loud = loud && member.receives;
                state.loud = state.loud + usize::from(loud) - usize::from(member.is_loud);
                member.is_loud = loud;
            }
            return Joined { room, size, is_new: false };
        }
        debug_assert!(seats.len() < MAX_ROOMS, "its reader lets it into no more");
        let is_loud = receives && loud.unwrap_or(false);
        state.loud += usize::from(is_loud);
        state.size.set(state.size.get() + u32::from(receives));
        seats.push(Seat { room, place: state.members.len(), standing });
        let member = Member { client, receives, is_loud, news: None, probe: None };
        state.members.push(Some(member));
        Joined { room, size, is_new: true }
    }

    fn open(&mut self, name: &Room) -> usize {
        let room = self.states.insert(RoomState {
            name: name.clone(),
            members: Vec::with_capacity(1),
            holes: 0,
            size: RoomSize::default(),
            loud: 0,
            last: Weak::new(),
            lag: None,
        });
        self.by_name.insert(name.clone(), room);
        room
    }

    /// The room of this name that the client is in.
    pub(crate) fn room_of(&self, client: usize, name: &[u8]) -> Option<usize> {
        let room = *self.by_name.get(name)?;
        let seats = self.of_client.get(&client)?;
        seats.iter().any(|seat| seat.room == room).then_some(room)
    }

    /// The room of this name, if there is one.
    #[cfg(feature = "cluster")]
    pub(crate) fn find(&self, name: &Room) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn name(&self, room: usize) -> Room {
        self.states[room].name.clone()
    }

    /// The rooms of which a client gets what is sent to them.
    #[cfg(feature = "cluster")]
    pub(crate) fn rooms_of(&self, client: usize) -> Vec<Room> {
        let seats = self.of_client.get(&client).into_iter().flatten();
        let states = seats.map(|seat| (&self.states[seat.room], seat.place));
        let receives = |(state, place): &(&RoomState, usize)| {
            state.members[*place].as_ref().is_some_and(|member| member.receives)
        };
        states.filter(receives).map(|(state, _)| state.name.clone()).collect()
    }

    /// As [`held_up`](Self::held_up), for senders at other nodes, of whom it is not known whether they
    /// wait: all rooms with something on its way.
    #[cfg(feature = "cluster")]
    pub(crate) fn held_up_from_elsewhere(&mut self, now: Instant) -> Lagging {
        let mut lagging = Lagging::default();
        for (_, state) in &mut self.states {
            // No client has this key.
            state.check_lag(usize::MAX, self.max_lag, now, &mut lagging);
        }
        lagging
    }

    /// Takes a client out of a room. Returns the room if others are still in it.
    pub(crate) fn leave(&mut self, client: usize, room: usize) -> Option<usize> {
        let seats = self.of_client.get_mut(&client)?;
        let index = seats.iter().position(|seat| seat.room == room)?;
        let seat = seats.swap_remove(index);
        if seats.is_empty() {
            self.of_client.remove(&client);
        }
        self.vacate(&seat)
    }

    /// Takes a client out of all its rooms. Returns those in which others still are.
    pub(crate) fn leave_all(&mut self, client: usize) -> Vec<usize> {
        let seats = self.of_client.remove(&client).unwrap_or_default();
        seats.iter().filter_map(|seat| self.vacate(seat)).collect()
    }

    /// Sends a client nothing more from its rooms, although it may still send to them. Returns the
    /// rooms of which it was a member till now.
    pub(crate) fn stop_receiving(&mut self, client: usize) -> Vec<usize> {
        let mut rooms = Vec::new();
        for seat in self.of_client.get(&client).into_iter().flatten() {
            let state = &mut self.states[seat.room];
            let Some(member) = state.members[seat.place].as_mut().filter(|it| it.receives) else {
                continue;
            };
            state.loud -= usize::from(std::mem::take(&mut member.is_loud));
            member.receives = false;
            member.news = None;
            state.size.set(state.size.get() - 1);
            rooms.push(seat.room);
        }
        rooms
    }

    /// Returns the room if others are still in it.
    fn vacate(&mut self, seat: &Seat) -> Option<usize> {
        let state = &mut self.states[seat.room];
        let member = state.members[seat.place].take()?;
        state.loud -= usize::from(member.is_loud);
        state.size.set(state.size.get() - u32::from(member.receives));
        state.holes += 1;
        if state.holes == state.members.len() {
            let state = self.states.remove(seat.room);
            self.by_name.remove(&state.name);
            return None;
        }
        if 2 * state.holes > state.members.len() {
            self.compact(seat.room);
        }
        // One that only sends what it had sent before has left already.
        member.receives.then_some(seat.room)
    }

    /// Closes the holes in a room's list: once for as many leaves as the list then has members.
    fn compact(&mut self, room: usize) {
        let state = &mut self.states[room];
        state.members.retain(Option::is_some);
        state.members.shrink_to_fit();
        state.holes = 0;
        for (place, member) in state.members.iter().flatten().enumerate() {
            let seats = self.of_client.get_mut(&member.client).into_iter().flatten();
            seats.filter(|seat| seat.room == room).for_each(|seat| seat.place = place);
        }
    }

    /// How many get what is sent to the room.
    pub(crate) fn size(&self, room: usize) -> u32 {
        self.states[room].size.get()
    }

    /// Those who get what is sent to the room, in the order in which they came.
    pub(crate) fn members(&self, room: usize) -> impl Iterator<Item = usize> {
        let members = self.states[room].members.iter().flatten();
        members.filter(|member| member.receives).map(|member| member.client)
    }

    /// How many are in a room, and those who came first.
    pub(crate) fn who(&self, name: &[u8]) -> (usize, Vec<usize>) {
        match self.by_name.get(name) {
            Some(&room) => {
                (self.size(room) as usize, self.members(room).take(MAX_WHO_NAMES).collect())
            }
            None => (0, Vec::new()),
        }
    }

    /// Remembers what was sent to the room last.
    pub(crate) fn sent(&mut self, room: usize, frames: &Arc<ChargedFrames>) {
        self.states[room].last = Arc::downgrade(frames);
    }

    /// Tells the loud members of a room what the client under this name did. Returns the notices to
    /// queue: for those who have none that can still be added to.
    pub(crate) fn tell(
        &mut self,
        room: usize,
        client: usize,
        who: &Name,
        what: Move,
    ) -> Vec<(usize, Arc<RoomNews>)> {
        let state = &mut self.states[room];
        if state.loud == 0 {
            return Vec::new();
        }
        let mut notices = Vec::new();
        for member in state.members.iter_mut().flatten() {
            if !member.is_loud || member.client == client {
                continue;
            }
            if !member.news.as_ref().is_some_and(|news| news.add(what)) {
                let news = Arc::new(RoomNews::new(state.name.clone(), who.clone(), what));
                member.news = Some(Arc::clone(&news));
                notices.push((member.client, news));
            }
        }
        notices
    }

    /// Checks the rooms of a client that waits for its window: it may be held up by members that are
    /// too slow. Those are found by probes, which are queued behind whatever is queued for a member.
    /// A member that is not written its probe for `max_lag` longer than the fastest one is too slow.
    ///
    /// Where everyone is slow, as on a machine that cannot keep up, nobody is put out.
    pub(crate) fn held_up(&mut self, client: usize, now: Instant) -> Lagging {
        let mut lagging = Lagging::default();
        for seat in self.of_client.get(&client).into_iter().flatten() {
            self.states[seat.room].check_lag(client, self.max_lag, now, &mut lagging);
        }
        lagging
    }
}

impl RoomState {
    fn check_lag(&mut self, asks: usize, max_lag: Duration, now: Instant, found: &mut Lagging) {
        if self.last.strong_count() == 0 {
            // Nothing that was sent to the room waits for any of its members.
            self.lag = None;
            return;
        }
        let Some(check) = &mut self.lag else {
            for member in self.members.iter_mut().flatten() {
                // What only sends is not faster than others.
                member.probe = (member.receives && member.client != asks).then(|| {
                    let probe = FrameSlice::from_text(Vec::new());
                    let frames = Arc::downgrade(&probe.frames);
                    found.probes.push((member.client, probe));
                    frames
                });
            }
            self.lag = Some(Box::new(LagCheck { waited: None, last: now }));
            return;
        };
        let elapsed = now.saturating_duration_since(check.last);
        if elapsed < max_lag / CHECKS {
            return;
        }
        check.last = now;
        let (mut late, mut in_time) = (Vec::new(), false);
        for member in self.members.iter().flatten() {
            match &member.probe {
                Some(probe) if probe.strong_count() > 0 => late.push(member.client),
                Some(_) => in_time = true,
                None => {}
            }
        }
        if late.is_empty() {
            self.lag = None;
        } else if let Some(waited) = check.waited {
            let waited = waited + elapsed.min(2 * max_lag / CHECKS);
            check.waited = Some(waited);
            if waited >= max_lag {
                let name = |client| (client, self.name.clone());
                found.too_slow.extend(late.into_iter().map(name));
                self.lag = None;
            }
        } else if in_time {
            check.waited = Some(Duration::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::delivery::window::Window;

    const MAX_LAG: Duration = Duration::from_secs(8);

    fn room(name: &str) -> Room {
        Room::new(name).expect("a room")
    }

    fn standing() -> StandingPermit {
        let window = Arc::new(Window::new(1 << 20, Arc::default()));
        let never = || -> Result<_, ()> { panic!("there is room") };
        StandingPermit::new(window.acquire(MEMBERSHIP_CHARGE, never).expect("there is room"))
    }

    fn rooms_with(clients: std::ops::Range<usize>, loud: bool) -> (Rooms, usize) {
        let mut rooms = Rooms::new(MAX_LAG);
        let mut key = None;
        for client in clients {
            let joined = rooms.join(client, &room("#dev"), true, Some(loud), standing());
            key = Some(joined.room);
        }
        (rooms, key.expect("a client"))
    }

    fn members(rooms: &Rooms, room: usize) -> Vec<usize> {
        rooms.members(room).collect()
    }

    #[test]
    fn a_room_exists_while_somebody_is_in_it() {
        let mut rooms = Rooms::new(MAX_LAG);
        let alice = rooms.join(1, &room("#dev"), true, None, standing());
        let bob = rooms.join(2, &room("#dev"), true, None, standing());
        assert!(alice.is_new && bob.is_new && alice.room == bob.room);
        assert_eq!((alice.size.get(), rooms.who(b"#dev")), (2, (2, vec![1, 2])));
        assert!(!rooms.join(2, &room("#dev"), true, None, standing()).is_new);
        assert_eq!(rooms.room_of(2, b"#dev"), Some(bob.room));
        assert_eq!(rooms.leave(1, alice.room), Some(alice.room));
        assert_eq!((alice.size.get(), rooms.room_of(1, b"#dev")), (1, None));
        assert_eq!(rooms.leave(2, bob.room), None);
        assert_eq!(rooms.who(b"#dev"), (0, vec![]));
        assert!(rooms.states.is_empty() && rooms.by_name.is_empty() && rooms.of_client.is_empty());
    }

    #[test]
    fn the_next_client_in_a_slot_is_in_none_of_the_rooms_of_the_one_before() {
        let (mut rooms, dev) = rooms_with(1..3, false);
        rooms.join(1, &room("#alone"), true, None, standing());
        assert_eq!(rooms.leave_all(1), [dev]);
        assert_eq!(rooms.room_of(1, b"#dev"), None);
        assert_eq!(members(&rooms, dev), [2]);
        assert!(rooms.leave_all(1).is_empty());
    }

    #[test]
    fn a_client_that_has_half_closed_gets_nothing_more_and_may_still_send() {
        let (mut rooms, dev) = rooms_with(1..4, true);
        assert_eq!(rooms.stop_receiving(2), [dev]);
        assert_eq!((members(&rooms, dev), rooms.size(dev)), (vec![1, 3], 2));
        assert_eq!(rooms.room_of(2, b"#dev"), Some(dev));
        assert!(rooms.stop_receiving(2).is_empty());
        assert!(rooms.leave_all(2).is_empty(), "that it left was told already");
        assert_eq!(rooms.states[dev].loud, 2);
    }

    #[test]
    fn loud_members_have_one_notice_each_until_it_is_written() {
        let (mut rooms, dev) = rooms_with(0..3, true);
        rooms.join(3, &room("#dev"), true, None, standing());
        let name = |name: &str| Name::new(name).expect("a name");
        let first = rooms.tell(dev, 0, &name("n0"), Move::Joined);
        assert_eq!(first.iter().map(|(client, _)| *client).collect::<Vec<_>>(), [1, 2]);
        let (_, news) = &first[0];
        assert_eq!(rooms.tell(dev, 3, &name("n3"), Move::Joined).len(), 1, "for client 0");
        assert_eq!(news.spell_out(), b"notice: #dev: n0 joined, 1 other came\n");
        assert_eq!(rooms.tell(dev, 3, &name("n3"), Move::Left).len(), 1, "client 1 has read");
        rooms.join(1, &room("#dev"), true, Some(false), standing());
        rooms.leave(2, dev);
        assert_eq!(
            (rooms.states[dev].loud, rooms.tell(dev, 2, &name("n2"), Move::Left).len()),
            (1, 0)
        );
    }

    #[test]
    fn a_member_that_is_slower_than_the_fastest_for_too_long_is_found() {
        let (mut rooms, dev) = rooms_with(0..4, false);
        let start = Instant::now();
        let at = |eighths: u32| start + eighths * MAX_LAG / 8;
        assert!(rooms.held_up(0, start).probes.is_empty(), "nothing waits");
        let frames = FrameSlice::from_text(b"a line".to_vec()).frames;
        rooms.sent(dev, &frames);
        let mut probes = rooms.held_up(0, start).probes;
        assert_eq!(probes.iter().map(|(client, _)| *client).collect::<Vec<_>>(), [1, 2, 3]);
        // Nobody is faster than the others for long; one has come since.
        rooms.join(4, &room("#dev"), true, None, standing());
        for eighths in 1..100 {
            let lagging = rooms.held_up(0, at(eighths));
            assert!(lagging.probes.is_empty() && lagging.too_slow.is_empty());
        }
        probes.remove(1);
        for eighths in 100..108 {
            assert!(rooms.held_up(0, at(eighths)).too_slow.is_empty());
        }
        probes.remove(1);
        let too_slow = rooms.held_up(0, at(108)).too_slow;
        assert_eq!(too_slow, [(1, room("#dev"))]);
        drop(frames);
        assert!(rooms.held_up(0, at(109)).probes.is_empty(), "nothing waits any more");
    }

    #[test]
    fn a_suspension_of_the_process_makes_no_member_too_slow() {
        let (mut rooms, dev) = rooms_with(0..3, false);
        let start = Instant::now();
        let frames = FrameSlice::from_text(b"a line".to_vec()).frames;
        rooms.sent(dev, &frames);
        let mut probes = rooms.held_up(0, start).probes;
        probes.pop();
        assert!(rooms.held_up(0, start + MAX_LAG / 8).too_slow.is_empty());
        assert!(rooms.held_up(0, start + 1000 * MAX_LAG).too_slow.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(usize, usize, bool),
        Leave(usize, usize),
        LeaveAll(usize),
        StopReceiving(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12_usize, 0..4_usize, any::<bool>())
                .prop_map(|(client, room, loud)| Step::Join(client, room, loud)),
            3 => (0..12_usize, 0..4_usize).prop_map(|(client, room)| Step::Leave(client, room)),
            1 => (0..12_usize).prop_map(Step::LeaveAll),
            1 => (0..12_usize).prop_map(Step::StopReceiving),
        ]
    }

    proptest! {
        /// A plain list of `(room, client, receives, loud)` in the order in which they came.
        #[test]
        fn any_storm_of_joins_and_leaves_agrees_with_a_plain_list(
            steps in proptest::collection::vec(step(), 0..300),
        ) {
            let mut rooms = Rooms::new(MAX_LAG);
            let mut plain: Vec<(usize, usize, bool, bool)> = Vec::new();
            for step in steps {
                match step {
                    Step::Join(client, number, loud) => {
                        let name = room(&format!("#{number}"));
                        let joined = rooms.join(client, &name, true, Some(loud), standing());
                        let known = plain.iter_mut().find(|it| (it.0, it.1) == (number, client));
                        prop_assert_eq!(joined.is_new, known.is_none());
                        match known {
                            Some(known) => known.3 = loud && known.2,
                            None => plain.push((number, client, true, loud)),
                        }
                    }
                    Step::Leave(client, number) => {
                        let was_in = rooms.room_of(client, format!("#{number}").as_bytes());
                        if let Some(room) = was_in {
                            rooms.leave(client, room);
                        }
                        let before = plain.len();
                        plain.retain(|it| (it.0, it.1) != (number, client));
                        prop_assert_eq!(was_in.is_some(), plain.len() < before);
                    }
                    Step::LeaveAll(client) => {
                        rooms.leave_all(client);
                        plain.retain(|it| it.1 != client);
                    }
                    Step::StopReceiving(client) => {
                        rooms.stop_receiving(client);
                        plain.iter_mut().filter(|it| it.1 == client).for_each(|it| it.2 = false);
                        for known in plain.iter_mut().filter(|it| it.1 == client) {
                            known.3 = false;
                        }
                    }
                }
                for number in 0..4 {
                    let here = plain.iter().filter(|it| it.0 == number);
                    let expected: Vec<_> = here.clone().filter(|it| it.2).map(|it| it.1).collect();
                    let name = format!("#{number}");
                    prop_assert_eq!(rooms.who(name.as_bytes()), (expected.len(), expected.clone()));
                    if let Some(&key) = rooms.by_name.get(name.as_bytes()) {
                        prop_assert_eq!(rooms.size(key) as usize, expected.len());
                        let loud = here.clone().filter(|it| it.3).count();
                        prop_assert_eq!(rooms.states[key].loud, loud);
                        let members = rooms.states[key].members.len();
                        prop_assert!(members <= 2 * here.count() + 1, "holes are closed");
                    } else {
                        prop_assert_eq!(here.count(), 0);
                    }
                }
            }
        }
    }
}
