//! What the broker does about rooms: it lets clients in and out, sends what a member sends to all
//! others, and puts out members that hold the others up. Runs on the broker's thread.

use std::sync::Arc;
use std::time::Instant;

use super::{Broker, JoinRoom, MAX_URGENT};
use crate::server::delivery::pending::{FrameSlice, NoSuchPeerErrors, Pending, Unrendered};
use crate::server::delivery::room_news::Move;
use crate::server::delivery::window::Permit;
use crate::server::rooms::Lagging;
use crate::socket::connection::ConnectionId;
use crate::wire::name::Name;
use crate::wire::protocol;
use crate::wire::reasons::RoomRefusal;

impl Broker {
    /// Lets a client into a room, and tells its reader how large the room is.
    pub(super) fn join_room(&mut self, join: JoinRoom) {
        #[cfg(feature = "cluster")]
        if self.cluster.is_some() {
            return self.join_room_clustered(join);
        }
        let JoinRoom { from, line, room, loud, permit, standing, ticket } = join;
        let Some(client) = self.accept(from, 1) else {
            return;
        };
        let receives = self.peers[client].has_name;
        let joined = self.rooms.join(client, &room, receives, loud, standing);
        // It is counted itself, although it gets nothing more if it has half-closed.
        let members = joined.size.get() + u32::from(!receives);
        ticket.answer(joined.size);
        self.reply(client, &Arc::new(permit), |text| {
            protocol::push_joined(text, line, room.as_str().as_bytes(), members);
        });
        if joined.is_new && receives {
            self.tell_room(joined.room, client, Move::Joined);
        }
    }

    /// Queues a slice for all other members of a room; otherwise the reason why nobody gets it.
    pub(super) fn relay_room(
        &mut self,
        sender: usize,
        slice: &FrameSlice,
        room: &[u8],
        charged: u32,
    ) -> Result<(), RoomRefusal> {
        let room = self.rooms.room_of(sender, room).ok_or(RoomRefusal::NotIn)?;
        let size = self.rooms.size(room);
        if size > charged {
            return Err(RoomRefusal::HasGrown);
        }
        let recipients = size - u32::from(self.peers[sender].has_name);
        if recipients == 0 {
            return Err(RoomRefusal::NobodyElse);
        }
        self.owed += u64::from(slice.messages) * u64::from(recipients);
        self.rooms.sent(room, &slice.frames);
        let is_urgent = recipients as usize <= MAX_URGENT;
        if !is_urgent {
            self.round_spread += recipients as usize;
        }
        let mut reached = std::mem::take(&mut self.peers[sender].reached);
        for client in self.rooms.members(room).filter(|&client| client != sender) {
            reached.add(client);
            let peer = &mut self.peers[client];
            peer.pending.push(Pending::FrameSlice(slice.clone()));
            self.dirty.add(client, &mut peer.waits, is_urgent);
        }
        self.peers[sender].reached = reached;
        Ok(())
    }

    /// Replies to lines to a room that nobody gets.
    pub(super) fn refuse_room(
        &mut self,
        sender: usize,
        lines: std::ops::Range<u64>,
        text: Vec<u8>,
        permit: &Permit,
    ) {
        let errors = NoSuchPeerErrors::new(lines, text, permit);
        self.push_reply(sender, Unrendered::NoSuchPeerErrors(errors).into());
    }

    pub(super) fn leave_room(
        &mut self,
        client: usize,
        room: &[u8],
        line: u64,
        permit: &Arc<Permit>,
    ) {
        let Some(key) = self.rooms.room_of(client, room) else {
            // It was put out of it, which its reader does not know.
            let text = RoomRefusal::NotIn.of(room);
            return self.refuse_room(client, line..line + 1, text, permit);
        };
        self.take_out(client, key);
        self.reply(client, permit, |text| protocol::push_left(text, line, room));
    }

    pub(super) fn who_in(&mut self, client: usize, room: &[u8], line: u64, permit: &Arc<Permit>) {
        let (members, first) = self.rooms.who(room);
        let mut text = Vec::new();
        let names: Vec<_> =
            first.iter().map(|&client| self.peers[client].name.as_str().as_bytes()).collect();
        protocol::push_who_in(&mut text, line, room, members, &names);
        self.push_reply(client, Pending::FrameSlice(FrameSlice::reply(text, Arc::clone(permit))));
    }

    /// A client that has left, or that has released its name, is in no room as far as others are
    /// concerned.
    pub(super) fn leave_rooms(&mut self, client: usize, may_still_send: bool) {
        #[cfg(feature = "cluster")]
        if self.cluster.is_some() {
            let rooms = self.rooms.rooms_of(client);
            self.part_rooms(client, &rooms);
        }
        let rooms = if may_still_send {
            self.rooms.stop_receiving(client)
        } else {
            self.rooms.leave_all(client)
        };
        for room in rooms {
            self.tell_room(room, client, Move::Left);
        }
    }

    /// A client waits for its window. Members of its rooms that are the reason leave them.
    pub(super) fn held_up(&mut self, id: ConnectionId, now: Instant) {
        let Some(&client) = self.by_id.get(&id) else {
            return;
        };
        let lagging = self.rooms.held_up(client, now);
        self.put_out(lagging);
    }

    pub(super) fn put_out(&mut self, lagging: Lagging) {
        let is_urgent = lagging.probes.len() <= MAX_URGENT;
        for (client, probe) in lagging.probes {
            let peer = &mut self.peers[client];
            peer.pending.push(Pending::FrameSlice(probe));
            self.dirty.add(client, &mut peer.waits, is_urgent);
        }
        for (client, room) in lagging.too_slow {
            if let Some(key) = self.rooms.room_of(client, room.as_str().as_bytes()) {
                log::info!("{} is too slow for {room}, and leaves it", self.peers[client].name);
                self.take_out(client, key);
                let notice = FrameSlice::from_text(protocol::put_out(&room));
                self.push(client, Pending::FrameSlice(notice));
            }
        }
    }

    fn take_out(&mut self, client: usize, room: usize) {
        #[cfg(feature = "cluster")]
        if self.cluster.is_some() {
            let rooms = [self.rooms.name(room)];
            self.part_rooms(client, &rooms);
        }
        if let Some(room) = self.rooms.leave(client, room) {
            self.tell_room(room, client, Move::Left);
        }
    }

    /// Tells the loud members of a room what a client did. Whatever happens until they are written
    /// the notice is added to it, so a member that reads nothing costs nothing more.
    fn tell_room(&mut self, room: usize, client: usize, what: Move) {
        #[cfg(feature = "cluster")]
        if self.cluster.is_some() {
            // The engine tells the members of all nodes, these too.
            return;
        }
        let name = self.peers[client].name.clone();
        self.tell_room_of(room, client, &name, what);
    }

    pub(super) fn tell_room_of(&mut self, room: usize, client: usize, name: &Name, what: Move) {
        let notices = self.rooms.tell(room, client, name, what);
        let is_urgent = notices.len() <= MAX_URGENT;
        for (client, news) in notices {
            let peer = &mut self.peers[client];
            peer.pending.push(Unrendered::RoomNews(news).into());
            self.dirty.add(client, &mut peer.waits, is_urgent);
        }
    }

    fn reply(&mut self, client: usize, permit: &Arc<Permit>, write: impl FnOnce(&mut Vec<u8>)) {
        let mut text = Vec::new();
        write(&mut text);
        self.push_reply(client, Pending::FrameSlice(FrameSlice::reply(text, Arc::clone(permit))));
    }
}
