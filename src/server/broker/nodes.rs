//! The broker's part in a cluster: lines to clients of other nodes, deliveries from other nodes, and
//! replies that wait for the engine. Runs on the broker's thread, and exits with it. Rooms are in
//! `shared_rooms.rs`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::{Broker, Event, Peer};
use crate::cluster::answers::Answer;
use crate::cluster::engine::Recipient;
use crate::cluster::ingress::{Arrival, Beginning};
use crate::cluster::orders::{Delivery, Effect, Order, Payload};
use crate::cluster::outgoing::{LostElsewhere, Unsettled};
use crate::server::cluster_report::NodeLoss;
use crate::server::clustered::{About, Clustered, Question};
use crate::server::delivery::losses::LossReport;
use crate::server::delivery::marks::{EVERYONE, Marker};
use crate::server::delivery::pending::{
    ChargedFrames, FrameSlice, NoSuchPeerErrors, Pending, Unrendered,
};
use crate::server::delivery::token::Share;
use crate::server::delivery::window::Permit;
use crate::server::report::CloseReason;
use crate::socket::connection::ConnectionId;
use crate::wire::batch::{Batch, Step};
use crate::wire::loss::{LossReason, LostLines};
use crate::wire::name::{Name, NameKey};
use crate::wire::protocol;
use crate::wire::reasons::Rejection;
use crate::wire::room::Room;

/// How many clients are asked at a time what has arrived of other nodes' messages.
const ASKED_AT_ONCE: usize = 512;

impl Peer {
    /// The client, asked about what it has got from other nodes, since its queue ends.
    pub(super) fn asked_finally(mut self, cluster: Option<&Clustered>) -> Self {
        let share = cluster.and_then(|cluster| self.arrivals.ask(&cluster.orders));
        if let Some(share) = share {
            self.markers.push(Marker { of: EVERYONE, share });
            self.flush();
        }
        self
    }
}

impl Broker {
    /// Lets a client wait until the engine has given it its name.
    pub(super) fn claim(&mut self, id: ConnectionId, name: &Name, peer: Peer) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.node.log_in(id.0, name.clone(), Instant::now());
        let mut peer = peer;
        (peer.has_name, peer.is_claiming) = (false, true);
        let key = self.peers.insert(peer);
        self.by_id.insert(id, key);
    }

    /// Keeps what a client says until it has got its name, or while there is no room for what it says
    /// to other nodes; returns everything else.
    pub(super) fn unless_waiting(&mut self, event: Event) -> Option<Event> {
        let id = match &event {
            _ if self.cluster.is_none() => return Some(event),
            Event::Batch { from, .. } => *from,
            Event::JoinRoom(join) => join.from,
            Event::ReleaseName { id } | Event::Leave { id } | Event::Sync { id, .. } => *id,
            _ => return Some(event),
        };
        let Some(&key) = self.by_id.get(&id) else { return Some(event) };
        if let Some(parked) = self.parked.get_mut(&id) {
            parked.push(event);
            return None;
        }
        let is_claiming = self.peers[key].is_claiming;
        let awaited = match &event {
            Event::Batch { batch, .. } if !is_claiming => self.must_wait_for(key, batch),
            // A client that has half-closed gets the answers to its last lines first, as it does
            // from a server that answers at once.
            Event::Leave { .. } if !is_claiming && self.is_answering(id) => {
                self.parked.insert(id, vec![event]);
                return None;
            }
            _ => None,
        };
        if let (Some(recipient), Some(cluster)) = (&awaited, &mut self.cluster) {
            cluster.node.outgoing.budget.wait(recipient);
            cluster.waiting.entry(recipient.clone()).or_default().push_back(id);
        } else if !is_claiming {
            return Some(event);
        }
        self.parked.insert(id, vec![event]);
        None
    }

    fn is_answering(&self, id: ConnectionId) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.node.answers.is_waiting(id.0))
    }

    /// The recipient for which there is no room, if a batch has one. A drain does not wait: what was
    /// accepted goes out.
    fn must_wait_for(&self, sender: usize, batch: &Batch) -> Option<Recipient> {
        let node = &self.cluster.as_ref()?.node;
        if node.outgoing.budget.is_ample() || self.shutdown.is_shutdown() {
            return None;
        }
        let is_full = |recipient: &Recipient| !node.outgoing.budget.has_room(recipient);
        batch.steps.iter().find_map(|step| match step {
            Step::Relay { recipients, .. } => batch.names(recipients).find_map(|name| {
                let is_here = self.find(name, sender).is_some() && !node.is_on_the_way(name);
                let name = if is_here { None } else { Name::new(name).ok() };
                name.map(Recipient::Client).filter(is_full)
            }),
            Step::RelayRoom { room, .. } => {
                node.copies_of(batch.name(room)).find(|recipient| is_full(recipient))
            }
            _ => None,
        })
    }

    /// There is room again for this recipient: senders that wait for it go on, as far as it suffices.
    fn go_on(&mut self, recipient: &Recipient) {
        loop {
            let Some(cluster) = &mut self.cluster else { return };
            let is_over = self.shutdown.is_shutdown();
            if !is_over && !cluster.node.outgoing.budget.has_room(recipient) {
                return;
            }
            let waiting = cluster.waiting.get_mut(recipient);
            let Some(id) = waiting.and_then(std::collections::VecDeque::pop_front) else {
                cluster.waiting.remove(recipient);
                return;
            };
            cluster.node.outgoing.budget.wait_no_more(recipient);
            // It may have to wait for somebody else next.
            for event in self.parked.remove(&id).unwrap_or_default() {
                self.handle(event);
            }
        }
    }

    /// In a drain no sender waits for room.
    fn all_go_on(&mut self) {
        let keys = |cluster: &Clustered| cluster.waiting.keys().cloned().collect::<Vec<_>>();
        let waiting = self.cluster.as_deref().map(keys);
        for recipient in waiting.unwrap_or_default() {
            self.go_on(&recipient);
        }
    }

    /// As [`relay`](Broker::relay), to clients of any node.
    pub(super) fn relay_clustered<'a>(
        &mut self,
        sender: (ConnectionId, usize),
        slice: &FrameSlice,
        names: impl Iterator<Item = &'a [u8]>,
        lines: Range<u64>,
        permit: &Permit,
    ) {
        let (id, sender) = sender;
        let (mut away, mut absent) = (Vec::new(), Vec::new());
        for name in names {
            let Some(cluster) = &self.cluster else { return };
            match self.find(name, sender) {
                Some(key) if !cluster.node.is_on_the_way(name) => {
                    self.owed += u64::from(slice.messages);
                    self.peers[sender].reached.add(key);
                    self.push(key, Pending::FrameSlice(slice.clone()));
                }
                _ => match Name::new(name) {
                    Ok(name) => away.push(name),
                    Err(_) => absent.push(name.to_vec()),
                },
            }
        }
        if away.is_empty() {
            if !absent.is_empty() {
                self.counters.unreachable_lines.add(u64::from(slice.messages));
                let names: Vec<&[u8]> = absent.iter().map(Vec::as_slice).collect();
                let errors = NoSuchPeerErrors::new(lines, protocol::missing(&names), permit);
                self.push_reply(sender, Unrendered::NoSuchPeerErrors(errors).into());
            }
            return;
        }
        let payload = self.payload(sender, slice, None);
        if let Some(cluster) = &mut self.cluster {
            cluster.node.forward(id.0, away, lines, absent, payload);
        }
    }

    /// What has to be kept of a slice for other nodes.
    pub(super) fn payload(
        &self,
        sender: usize,
        slice: &FrameSlice,
        room: Option<Room>,
    ) -> Payload<Arc<ChargedFrames>> {
        Payload {
            from: self.peers[sender].name.clone(),
            room,
            frames: Arc::clone(&slice.frames.bytes),
            range: slice.start..slice.end,
            charge: Arc::clone(&slice.frames),
        }
    }

    /// Keeps a reply while earlier ones wait for the engine; returns it otherwise.
    pub(super) fn unless_early(&mut self, key: usize, reply: Pending) -> Option<Pending> {
        let id = self.peers[key].id;
        match &mut self.cluster {
            Some(cluster) => cluster.node.answers.reply(id.0, reply),
            None => Some(reply),
        }
    }

    /// Asks the engine which clients are connected.
    pub(super) fn ask_who(
        &mut self,
        id: ConnectionId,
        names: Vec<Vec<u8>>,
        line: u64,
        permit: Arc<Permit>,
    ) {
        let Some(cluster) = &mut self.cluster else { return };
        let valid = names.iter().filter_map(|name| Name::new(name).ok()).collect();
        let number = cluster.node.ask_who(id.0, valid);
        let about = About::Clients(names);
        cluster.questions.insert(number, Question { line, about, permit });
    }

    /// A client's name is free.
    pub(super) fn log_out(&mut self, id: ConnectionId) {
        if let Some(cluster) = &mut self.cluster {
            cluster.node.log_out(id.0);
        }
    }

    /// A client has left, or was refused.
    pub(super) fn forget(&mut self, id: ConnectionId, peer: &Peer) {
        let Some(cluster) = &mut self.cluster else { return };
        for question in cluster.node.forget(id.0) {
            cluster.questions.remove(&question);
        }
        cluster.syncs.remove(&id);
        self.parked.remove(&id);
        if peer.is_claiming {
            // It was never counted, and the caller takes it off.
            self.counters.connected.add(1);
        }
    }

    /// Asks clients what has arrived of other nodes' messages, whose origins are then told.
    fn ask_arrivals(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        for _ in 0..cluster.to_ask.len().min(ASKED_AT_ONCE) {
            let Some(key) = cluster.to_ask.pop_front() else { break };
            let Some(peer) = self.peers.get_mut(key) else { continue };
            if peer.arrivals.is_asked() {
                cluster.to_ask.push_back(key);
            } else if let Some(share) = peer.arrivals.ask(&cluster.orders) {
                self.dirty.add(key, &mut peer.waits, true);
                peer.markers.push(Marker { of: EVERYONE, share });
            }
        }
    }

    /// A client asks whether everything is delivered, at other nodes too.
    pub(super) fn ask_elsewhere(&mut self, id: ConnectionId, share: &Share) {
        if let Some(cluster) = &mut self.cluster {
            if cluster.node.ask_about(id.0) {
                cluster.syncs.insert(id, share.another());
            }
        }
    }

    /// A client of another node is told of its losses there. False if it is none.
    pub(super) fn tell_elsewhere(
        &self,
        sender: ConnectionId,
        lines: LostLines,
        report: &LossReport,
    ) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        let Some((life, session)) = cluster.elsewhere.sender(sender) else { return false };
        if !cluster.node.knows(life) {
            return false;
        }
        let LossReport { recipient, reason, .. } = report;
        let (origin, recipient, reason) = (life.clone(), recipient.clone(), reason.clone());
        let order = Order::LostLines { origin, session, lines, recipient, reason };
        // At once: what is behind it says that everything before was told.
        let _ = cluster.orders.send(order);
        true
    }

    /// All readers are gone, and what they sent is routed.
    pub(super) fn cut(&mut self) {
        self.all_go_on();
        if let Some(cluster) = &mut self.cluster {
            cluster.node.cut(Instant::now());
        }
    }

    /// Everything from the ingress thread.
    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let mut effects = Vec::new();
        let Some(cluster) = &mut self.cluster else { return };
        match arrival {
            Arrival::Entries(entries) => {
                cluster.node.note_sent(cluster.link.sent());
                for entry in entries {
                    cluster.node.read(entry, &mut effects);
                }
            }
            Arrival::Enter(beginning) => {
                let Beginning { incarnation, life, sent } = *beginning;
                let is_new_life = life != *cluster.node.life();
                self.begin_again(is_new_life);
                let Some(cluster) = &mut self.cluster else { return };
                cluster.node.enter(incarnation, life, Instant::now(), sent, &mut effects);
            }
            Arrival::Leave => {
                cluster.node.leave(Instant::now());
                self.all_go_on();
            }
            Arrival::ReleaseRegardless => cluster.node.release_regardless(),
            Arrival::Tick => {
                cluster.node.tick(Instant::now(), cluster.login_timeout, &mut effects);
                self.ask_arrivals();
                self.look_for_slow_members();
            }
        }
        for effect in effects {
            self.take_effect(effect);
        }
    }

    /// In a new life all clients have to claim their names again, and wait meanwhile.
    fn begin_again(&mut self, is_new_life: bool) {
        if !is_new_life {
            self.distrust_forgotten_notices();
            return;
        }
        // What becomes of what others have taken over will not be heard of any more.
        if let Some(cluster) = &mut self.cluster {
            cluster.syncs.clear();
        }
        let ids: Vec<_> = self.by_id.iter().map(|(id, key)| (*id, *key)).collect();
        for (id, key) in ids {
            let peer = &mut self.peers[key];
            peer.reached.unaccounted = true;
            if peer.has_name {
                peer.has_name = false;
                peer.is_claiming = true;
                self.by_name.remove(peer.name.as_str().as_bytes());
                self.by_connect_order.remove(&id);
                self.counters.connected.sub(1);
            }
        }
    }

    /// Other nodes tell again what has ended, and not what they have lost. So whoever has something
    /// open there cannot be told that all of it is delivered.
    fn distrust_forgotten_notices(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        for (id, &key) in &self.by_id {
            if cluster.node.outgoing.is_open(id.0) {
                self.peers[key].reached.unaccounted = true;
            }
        }
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver(delivery) => self.deliver(&delivery),
            Effect::Spread(delivery) => self.spread(&delivery),
            Effect::LoggedIn { session } => self.logged_in(ConnectionId(session)),
            Effect::LoginRefused { session, is_reachable } => {
                self.login_refused(ConnectionId(session), is_reachable);
            }
            Effect::Answered { session } => self.answer(ConnectionId(session)),
            Effect::Who { session, question, count, names } => {
                self.answer_question(ConnectionId(session), question, count, &names);
            }
            Effect::Unsettled(unsettled) => {
                let loss = NodeLoss::of(&unsettled);
                let is_told = self.tell_doubt(&unsettled, &loss.told_as());
                self.note_loss(loss, is_told);
            }
            Effect::Unconfirmed(unsettled) => {
                self.tell_doubt(&unsettled, &LossReason::NodeGone);
            }
            Effect::HoldOver { name, origin, messages } => {
                let loss = NodeLoss::held(name, origin.node(), u64::from(messages));
                self.note_loss(loss, true);
            }
            Effect::Lost(LostElsewhere { sender, name, lines, reason }) => {
                self.tell_loss(ConnectionId(sender), lines, &name, &reason);
            }
            Effect::Accounted { session } => {
                let cluster = self.cluster.as_mut();
                let share = cluster.and_then(|it| it.syncs.remove(&ConnectionId(session)));
                if let Some(share) = share {
                    share.settle();
                }
            }
            Effect::Freed(recipient) => self.go_on(&recipient),
            Effect::Moved { room, name, has_joined } => self.moved(&room, &name, has_joined),
        }
    }

    fn note_loss(&mut self, loss: NodeLoss, is_told: bool) {
        let is_drain = self.shutdown.is_shutdown();
        if let Some(cluster) = &mut self.cluster {
            cluster.lost.note(loss, is_drain, is_told && !is_drain);
        }
    }

    /// Tells a client that its lines are in doubt, or that they were never sent. Copies
    /// for a room have no recipient to be named, so the next `/sync` is not confirmed.
    fn tell_doubt(&mut self, unsettled: &Unsettled, reason: &LossReason) -> bool {
        let Unsettled { name, sender, first_line: first, messages, .. } = unsettled;
        let (sender, count) = (ConnectionId(*sender), u64::from(*messages));
        if let Some(name) = name.client() {
            let lines = LostLines { first: *first, last: first + count.max(1) - 1, count };
            return self.tell_loss(sender, lines, name, reason);
        }
        if let Some(&key) = self.by_id.get(&sender) {
            self.peers[key].reached.unaccounted = true;
        }
        false
    }

    /// Tells a client that lines of it were lost; false if it is gone.
    fn tell_loss(
        &mut self,
        sender: ConnectionId,
        lines: LostLines,
        recipient: &Name,
        reason: &LossReason,
    ) -> bool {
        let Some(&key) = self.by_id.get(&sender) else { return false };
        let Peer { losses, window, reached, .. } = &mut self.peers[key];
        reached.lost = true;
        if let Some(notice) = losses.add(window, lines, recipient, reason) {
            self.push(key, Unrendered::LossNotice(notice).into());
        }
        true
    }

    /// Gives a client what another node has handed over.
    fn deliver(&mut self, delivery: &Delivery) {
        let Delivery { session, origin, number, piece, .. } = delivery;
        let Some(&key) = self.by_id.get(&ConnectionId(*session)) else {
            // Dropping the charge gives the sender its room back.
            drop(self.arrived(delivery));
            if let Some(cluster) = &self.cluster {
                let (number, messages) = (*number, piece.messages);
                let (origin, reason) = (origin.clone(), LossReason::Left);
                let _ = cluster.orders.send(Order::Lost { origin, number, messages, reason });
            }
            self.note_loss(NodeLoss::left(origin.node(), u64::from(piece.messages)), true);
            return;
        };
        let Some(slice) = self.arrived(delivery) else { return };
        self.push(key, Pending::FrameSlice(slice));
        if self.peers[key].arrivals.add(origin, *number) {
            if let Some(cluster) = &mut self.cluster {
                cluster.to_ask.push_back(key);
            }
        }
    }

    /// The frames of a delivery, charged to no client of this node; the origin is told when they are
    /// dropped.
    pub(super) fn arrived(&mut self, delivery: &Delivery) -> Option<FrameSlice> {
        let Delivery { origin, number, piece, frames, .. } = delivery;
        let cluster = self.cluster.as_mut()?;
        let (start, end) = (piece.frames.start, piece.frames.end);
        let permit = cluster.charge(origin.clone(), *number, (end - start) as usize);
        let sender = cluster.elsewhere.id(origin, piece.from);
        let charged = ChargedFrames {
            bytes: Arc::clone(frames),
            permit: Some(Arc::new(permit)),
            sender,
            first_line: piece.first_line,
        };
        let (frames, messages) = (Arc::new(charged), piece.messages);
        Some(FrameSlice { frames, start, end, messages, line: 0 })
    }

    fn logged_in(&mut self, id: ConnectionId) {
        let Some(&key) = self.by_id.get(&id) else { return };
        let peer = &mut self.peers[key];
        if !std::mem::take(&mut peer.is_claiming) {
            return;
        }
        peer.has_name = true;
        self.by_name.insert(NameKey(peer.name.clone()), key);
        self.by_connect_order.insert(id, key);
        self.counters.connected.add(1);
        self.enter_rooms_again(key);
        for event in self.parked.remove(&id).unwrap_or_default() {
            self.handle(event);
        }
    }

    fn login_refused(&mut self, id: ConnectionId, is_reachable: bool) {
        let Some(&key) = self.by_id.get(&id) else { return };
        let Some(peer) = self.remove(key) else { return };
        let (reason, rejection) = if is_reachable {
            (CloseReason::NameTaken, Rejection::NameTaken)
        } else {
            (CloseReason::ClusterUnreachable, Rejection::ClusterUnreachable)
        };
        // It may have had its name, in a former life of the node, and something is queued for it.
        let departed = self.departed.add(key);
        peer.close(reason, Some(rejection.line().into()), Some(departed));
    }

    /// Sends a client the replies whose turn it is.
    fn answer(&mut self, id: ConnectionId) {
        let Some(cluster) = &mut self.cluster else { return };
        let answers = cluster.node.ready_answers(id.0);
        let Some(&key) = self.by_id.get(&id) else { return };
        for answer in answers {
            let pending = match answer {
                Answer::Reply(reply) => reply,
                Answer::Absent { lines, names, charge } => {
                    self.counters.unreachable_lines.add(lines.end - lines.start);
                    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
                    let Some(permit) = charge.permit.as_deref() else { continue };
                    let errors = NoSuchPeerErrors::new(lines, protocol::missing(&names), permit);
                    Unrendered::NoSuchPeerErrors(errors).into()
                }
            };
            self.push(key, pending);
        }
        // A client that waits for its name has said something before.
        let is_leaving = |parked: &Vec<Event>| matches!(parked.first(), Some(Event::Leave { .. }));
        let is_claiming = self.peers.get(key).is_some_and(|peer| peer.is_claiming);
        let is_leaving = self.parked.get(&id).is_some_and(is_leaving) && !is_claiming;
        if is_leaving && !self.is_answering(id) {
            for event in self.parked.remove(&id).unwrap_or_default() {
                self.handle(event);
            }
        }
    }

    fn answer_question(&mut self, id: ConnectionId, number: u64, count: u64, found: &[Name]) {
        let receives = self.by_id.get(&id).is_some_and(|&key| self.peers[key].has_name);
        let Some(cluster) = &mut self.cluster else { return };
        let Some(Question { line, about, permit }) = cluster.questions.remove(&number) else {
            return;
        };
        let mut text = Vec::new();
        let found: Vec<&[u8]> = found.iter().map(|name| name.as_str().as_bytes()).collect();
        let total = usize::try_from(count).unwrap_or(usize::MAX);
        match about {
            About::Clients(names) if names.is_empty() => {
                protocol::push_who(&mut text, line, total, &found);
            }
            About::Clients(names) => {
                let names = names.iter().map(Vec::as_slice);
                let (present, absent): (Vec<_>, Vec<_>) =
                    names.partition(|name| found.contains(name));
                protocol::push_who_of(&mut text, line, &present, &absent);
            }
            About::Members(room) => {
                protocol::push_who_in(&mut text, line, room.as_str().as_bytes(), total, &found);
            }
            About::Join(room, ticket, size) => {
                ticket.answer(size);
                // It is counted itself, although it gets nothing more if it has half-closed.
                let members = u32::try_from(count).unwrap_or(u32::MAX) + u32::from(!receives);
                protocol::push_joined(&mut text, line, room.as_str().as_bytes(), members);
            }
        }
        let reply = Pending::FrameSlice(FrameSlice::reply(text, permit));
        cluster.node.answers.resolved(id.0, number, reply);
        self.answer(id);
    }
}
