//! Rooms of a cluster, as the broker sees them: its own members are in its own list, and the engine
//! tells at which other nodes there are some. Runs on the broker's thread, until that ends.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::{Broker, JoinRoom, MAX_URGENT};
use crate::cluster::orders::Delivery;
use crate::server::arrivals::SharedArrival;
use crate::server::clustered::{About, Question};
use crate::server::delivery::pending::{FrameSlice, Pending};
use crate::server::delivery::room_news::Move;
use crate::server::delivery::window::Permit;
use crate::socket::connection::ConnectionId;
use crate::wire::name::Name;
use crate::wire::reasons::RoomRefusal;
use crate::wire::room::Room;

impl Broker {
    /// As [`join_room`](Broker::join_room); the reader waits until the engine has answered, so the
    /// client's next line reaches members of all nodes.
    pub(super) fn join_room_clustered(&mut self, join: JoinRoom) {
        let JoinRoom { from, line, room, loud, permit, standing, ticket } = join;
        let Some(client) = self.accept(from, 1) else { return };
        let receives = self.peers[client].has_name;
        let joined = self.rooms.join(client, &room, receives, loud, standing);
        let name = self.peers[client].name.clone();
        let Some(cluster) = &mut self.cluster else { return };
        let number = if joined.is_new && receives {
            cluster.node.join_room(from.0, room.clone(), name)
        } else {
            cluster.node.ask_who_in(from.0, room.clone())
        };
        let about = About::Join(room, ticket, joined.size);
        cluster.questions.insert(number, Question { line, about, permit: Arc::new(permit) });
    }

    /// As [`who_in`](Broker::who_in), for all nodes.
    pub(super) fn ask_who_in(
        &mut self,
        id: ConnectionId,
        room: &[u8],
        line: u64,
        permit: &Arc<Permit>,
    ) {
        let (Some(cluster), Ok(room)) = (&mut self.cluster, Room::new(room)) else { return };
        let number = cluster.node.ask_who_in(id.0, room.clone());
        let (about, permit) = (About::Members(room), Arc::clone(permit));
        cluster.questions.insert(number, Question { line, about, permit });
    }

    /// As [`relay_room`](Broker::relay_room), to members of any node.
    pub(super) fn relay_room_clustered(
        &mut self,
        (id, sender): (ConnectionId, usize),
        slice: &FrameSlice,
        name: &[u8],
        charged: u32,
        lines: Range<u64>,
    ) -> Result<(), RoomRefusal> {
        let key = self.rooms.room_of(sender, name).ok_or(RoomRefusal::NotIn)?;
        let size = self.rooms.size(key);
        if size > charged {
            return Err(RoomRefusal::HasGrown);
        }
        let Some(cluster) = &self.cluster else { return Err(RoomRefusal::NotIn) };
        let room = self.rooms.name(key);
        let is_elsewhere = cluster.node.copies_of(name).next().is_some();
        if size == u32::from(self.peers[sender].has_name) && !is_elsewhere {
            return Err(RoomRefusal::NobodyElse);
        }
        // Something for them is on its way through the engine, and must not be overtaken.
        let away = self.rooms.members(key).filter(|&client| client != sender);
        let away = away.map(|client| &self.peers[client].name);
        let away = away.filter(|name| cluster.node.is_on_the_way(name.as_str().as_bytes()));
        let away: Vec<Name> = away.cloned().collect();
        self.spread_among(key, Some(sender), slice, &away, None);
        let payload = self.payload(sender, slice, Some(room.clone()));
        if let Some(cluster) = &mut self.cluster {
            cluster.node.forward_to_room(id.0, &room, away, lines, payload);
        }
        Ok(())
    }

    /// Gives what another node has handed over to all members here.
    pub(super) fn spread(&mut self, delivery: &Delivery) {
        let Delivery { origin, number, piece, .. } = delivery;
        let Some(slice) = self.arrived(delivery) else { return };
        let orders = self.cluster.as_ref().map(|cluster| cluster.orders.clone());
        let (Some(orders), Some(room)) = (orders, &piece.room) else { return };
        // Told as finished when the last member has it; if there is none any more, now.
        let arrival = Arc::new(SharedArrival::new(orders, origin.clone(), *number));
        if let Some(key) = self.rooms.find(room) {
            self.spread_among(key, None, &slice, &[], Some(&arrival));
        }
    }

    fn spread_among(
        &mut self,
        room: usize,
        sender: Option<usize>,
        slice: &FrameSlice,
        but: &[Name],
        arrival: Option<&Arc<SharedArrival>>,
    ) {
        let members: Vec<usize> = self.rooms.members(room).collect();
        self.rooms.sent(room, &slice.frames);
        let is_urgent = members.len() <= MAX_URGENT;
        if !is_urgent {
            self.round_spread += members.len();
        }
        for client in members.into_iter().filter(|&client| Some(client) != sender) {
            if !but.is_empty() && but.contains(&self.peers[client].name) {
                continue;
            }
            self.owed += u64::from(slice.messages);
            if let Some(sender) = sender {
                self.peers[sender].reached.add(client);
            }
            let peer = &mut self.peers[client];
            peer.pending.push(Pending::FrameSlice(slice.clone()));
            self.dirty.add(client, &mut peer.waits, is_urgent);
            if let Some(arrival) = arrival {
                if peer.arrivals.add_shared(Arc::clone(arrival)) {
                    if let Some(cluster) = &mut self.cluster {
                        cluster.to_ask.push_back(client);
                    }
                }
            }
        }
    }

    /// A client of any node joined a room, or left it.
    pub(super) fn moved(&mut self, room: &Room, name: &Name, has_joined: bool) {
        let Some(key) = self.rooms.find(room) else { return };
        let itself = self.by_name.get(name.as_str().as_bytes()).copied();
        let what = if has_joined { Move::Joined } else { Move::Left };
        self.tell_room_of(key, itself.unwrap_or(usize::MAX), name, what);
    }

    /// A client is in no rooms any more, as far as others are concerned.
    pub(super) fn part_rooms(&mut self, client: usize, rooms: &[Room]) {
        let name = self.peers[client].name.clone();
        if let Some(cluster) = &mut self.cluster {
            for room in rooms {
                cluster.node.part_room(room, &name);
            }
        }
    }

    /// A client that has its name again, after this node was taken for dead, is in its rooms again.
    pub(super) fn enter_rooms_again(&mut self, client: usize) {
        let rooms = self.rooms.rooms_of(client);
        let name = self.peers[client].name.clone();
        if let Some(cluster) = &mut self.cluster {
            for room in &rooms {
                cluster.node.join_room_again(room, &name);
            }
        }
    }

    /// Members that hold up senders of other nodes leave their rooms, as those that hold up senders of
    /// this one do.
    pub(super) fn look_for_slow_members(&mut self) {
        let lagging = self.rooms.held_up_from_elsewhere(Instant::now());
        self.put_out(lagging);
    }
}
