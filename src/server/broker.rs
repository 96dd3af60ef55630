//! The broker thread. It owns the only map of connected peers, and exits when every reader, and in a
//! cluster `ingress`, has dropped its sender and all they sent is routed.
//!
//! It touches no socket and never blocks on a peer. Routing is a plain loop over its inbox, and only
//! disconnection ends the loop. Shutdown changes what is routed, never whether the loop goes on:
//! `/who` is no longer answered, and lines that come too late for the drain are not accepted.

#[cfg(feature = "users")]
mod users;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use foldhash::fast::RandomState;
use slab::Slab;

#[cfg(feature = "cluster")]
use crate::cluster::ingress::Arrival;
use crate::server::access::Access;
#[cfg(feature = "cluster")]
use crate::server::arrivals::Arrivals;
#[cfg(feature = "cluster")]
use crate::server::clustered::{Clustered, Remains};
use crate::server::delivery::loss_notice::OpenNotice;
use crate::server::delivery::losses::LossReport;
use crate::server::delivery::marks::{Departed, DepartedPeers, Marker, Unsettled};
use crate::server::delivery::pending::{
    ChargedFrames, FrameSlice, NoSuchPeerErrors, Pending, Unrendered,
};
use crate::server::delivery::reached::Reached;
use crate::server::delivery::ticket::Ticket;
use crate::server::delivery::token::Share;
use crate::server::delivery::window::{Permit, StandingPermit, Window};
use crate::server::report::CloseReason;
use crate::server::rooms::Rooms;
use crate::server::scheduling::{BusyPollReceiver, Turns};
use crate::server::shutdown::ShutdownHandle;
use crate::server::stats::Counters;
use crate::server::sync::Synced;
#[cfg(feature = "users")]
use crate::server::users::Version;
use crate::server::wakes::{Dirty, MAX_URGENT, Waits};
use crate::server::writer::{Close, Outgoing};
use crate::socket::connection::ConnectionId;
use crate::wire::batch::{Batch, Step};
use crate::wire::name::{Name, NameKey};
use crate::wire::protocol::{self, MAX_WHO_NAMES};
use crate::wire::reasons::Rejection;
use crate::wire::room::{Room, RoomSize};

#[cfg(feature = "cluster")]
mod nodes;
#[cfg(feature = "cluster")]
mod shared_rooms;
mod rooms;
mod sync;

/// How many events are routed before writers are woken. Large enough that under load each writer is
/// woken once for many batches, small enough that no writer waits long.
const MAX_ROUND_EVENTS: usize = 64;

/// A round also ends when lines to large rooms have queued this many entries: a millisecond's worth.
const MAX_ROUND_SPREAD: usize = 8 * 1024;

/// What readers send to the broker.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client logs in under a name; `queue` leads to its writer, and `window` takes the charge for
    /// what it is told without having asked. The access is boxed since few servers have users.
    Join {
        id: ConnectionId,
        name: Name,
        access: Option<Box<Access>>,
        queue: Sender<Outgoing>,
        window: Arc<Window>,
    },
    /// A client's lines, and the charge on its window for them. Boxed because every event is as
    /// large as the largest variant, both on each sender's stack and in the inbox.
    ///
    /// `errors` is held until the lines are routed, and bounds the error replies that they can
    /// cause beyond that charge.
    Batch { from: ConnectionId, batch: Box<Batch>, permit: Permit, errors: Option<Permit> },
    /// A client sends no more, but not all that it has sent could be read yet: from now on its name
    /// is free.
    ReleaseName { id: ConnectionId },
    /// A client enters a room.
    JoinRoom(Box<JoinRoom>),
    /// A client that is in rooms waits for its window.
    HeldUp { id: ConnectionId },
    /// A client disconnected or will send no more. Nothing but its losses follows.
    Leave { id: ConnectionId },
    /// What was lost on the way to a client that has left.
    Lost(Box<LossReport>),
    /// All that was lost on the way to that client was reported, and some clients ask for it; or, if
    /// this is not complete, it cannot be known who would have to be told.
    Settled { unsettled: Box<Unsettled>, is_complete: bool },
    /// A line that asks whether all lines of the client's before it are delivered: `share` is
    /// settled once they are, or their loss was told.
    Sync { id: ConnectionId, share: Share },
    /// The client gets its reply.
    Synced(Box<Synced>),
    /// The user file has changed.
    #[cfg(feature = "users")]
    Users(Arc<Version>),
    /// From other nodes, or from the engine between them.
    #[cfg(feature = "cluster")]
    Cluster(Arrival),
    /// No reader sends anything any more.
    #[cfg(feature = "cluster")]
    ReadersGone,
}

/// A line that asks to enter a room.
#[derive(Debug)]
pub(crate) struct JoinRoom {
    pub(crate) from: ConnectionId,
    pub(crate) line: u64,
    pub(crate) room: Room,
    /// Whether to be told who else comes and goes; `None` leaves that as it is.
    pub(crate) loud: Option<bool>,
    /// For the reply.
    pub(crate) permit: Permit,
    /// Held as long as the client is in the room.
    pub(crate) standing: StandingPermit,
    /// The reader waits for the room's size.
    pub(crate) ticket: Ticket<RoomSize>,
}

#[cfg(feature = "cluster")]
impl From<Arrival> for Event {
    fn from(arrival: Arrival) -> Self {
        Self::Cluster(arrival)
    }
}

/// What the thread leaves behind.
#[cfg(feature = "cluster")]
pub(crate) type Ended = Option<Remains>;
#[cfg(not(feature = "cluster"))]
pub(crate) type Ended = ();

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Broker {
    peers: Slab<Peer>,
    by_name: HashMap<NameKey, usize, RandomState>,
    by_id: HashMap<ConnectionId, usize, RandomState>,
    /// In the order in which they connected.
    by_connect_order: BTreeMap<ConnectionId, usize>,
    rooms: Rooms,
    /// The peers with pending deliveries.
    dirty: Dirty,
    /// How many entries lines to large rooms have queued in this round.
    round_spread: usize,
    /// Deliveries that became owed in this round.
    owed: u64,
    departed: DepartedPeers,
    counters: Arc<Counters>,
    shutdown: ShutdownHandle,
    /// The latest user table, once it was needed.
    #[cfg(feature = "users")]
    users: Option<Arc<Version>>,
    /// Set if the server is a node of a cluster.
    #[cfg(feature = "cluster")]
    cluster: Option<Box<Clustered>>,
    /// What clients said before the cluster has given them their names, or while there is no room for
    /// it at other nodes.
    #[cfg(feature = "cluster")]
    parked: HashMap<ConnectionId, Vec<Event>, RandomState>,
}

#[derive(Debug)]
struct Peer {
    id: ConnectionId,
    name: Name,
    /// The right to its name, on a server that has users.
    #[cfg_attr(not(feature = "users"), expect(dead_code, reason = "nobody has users"))]
    access: Option<Box<Access>>,
    queue: Sender<Outgoing>,
    window: Arc<Window>,
    losses: OpenNotice,
    /// Whom its next `/sync` asks about.
    reached: Reached,
    /// Who asks about this peer's messages in this round.
    markers: Vec<Marker>,
    /// What is queued for the peer until its writer is woken.
    pending: Vec<Pending>,
    /// Whether its writer is about to be.
    waits: Waits,
    /// Complete lines accepted from the peer.
    accepted: u64,
    /// Whether others can reach the peer under its name.
    has_name: bool,
    /// The cluster has not given it its name yet.
    #[cfg(feature = "cluster")]
    is_claiming: bool,
    /// What it was sent from other nodes.
    #[cfg(feature = "cluster")]
    arrivals: Arrivals,
    /// Lines came from it that the drain had no time left for.
    was_cut_off: bool,
}

impl Broker {
    /// `max_lag` is how much longer than the fastest one a room's member may take.
    pub(crate) fn new(
        counters: Arc<Counters>,
        shutdown: ShutdownHandle,
        max_lag: Duration,
    ) -> Self {
        Self {
            peers: Slab::new(),
            by_name: HashMap::default(),
            by_id: HashMap::default(),
            by_connect_order: BTreeMap::new(),
            rooms: Rooms::new(max_lag),
            dirty: Dirty::default(),
            round_spread: 0,
            owed: 0,
            departed: DepartedPeers::default(),
            counters,
            shutdown,
            #[cfg(feature = "users")]
            users: None,
            #[cfg(feature = "cluster")]
            cluster: None,
            #[cfg(feature = "cluster")]
            parked: HashMap::default(),
        }
    }

    /// Makes this the broker of a node.
    #[cfg(feature = "cluster")]
    pub(crate) fn in_cluster(self, cluster: Option<Box<Clustered>>) -> Self {
        Self { cluster, ..self }
    }

    /// The thread: routes until the inbox is disconnected, then queues the closing notices.
    pub(crate) fn run(mut self, inbox: &Receiver<Event>, turns: &Turns) -> Ended {
        let mut events = BusyPollReceiver::new(inbox, turns);
        let (mut rounds, mut handled) = (0, 0);
        while let Some(event) = self.next(&mut events, inbox) {
            self.counters.pulse.begin(rounds);
            self.handle(event);
            handled += 1;
            for event in inbox.try_iter().take(MAX_ROUND_EVENTS - 1) {
                self.handle(event);
                handled += 1;
                if self.round_spread > MAX_ROUND_SPREAD {
                    break;
                }
            }
            self.flush_round();
            rounds += 1;
            self.counters.pulse.end(rounds, handled);
        }
        for peer in self.peers.drain() {
            #[cfg(feature = "cluster")]
            let peer = peer.asked_finally(self.cluster.as_deref());
            #[cfg(feature = "cluster")]
            if peer.is_claiming {
                // It has no name, or not any more, and is not counted.
                peer.close_for_shutdown();
                continue;
            }
            self.counters.connected.sub(1);
            peer.close_for_shutdown();
        }
        #[cfg(feature = "cluster")]
        return self.cluster.map(|cluster| cluster.end());
    }

    /// The next event; meanwhile the writers are woken that are still to be.
    fn next(
        &mut self,
        events: &mut BusyPollReceiver<'_, Event>,
        inbox: &Receiver<Event>,
    ) -> Option<Event> {
        while self.dirty.has_spread() {
            if let Ok(event) = inbox.try_recv() {
                return Some(event);
            }
            self.flush_round();
        }
        events.next()
    }

    fn handle(&mut self, event: Event) {
        #[cfg(feature = "cluster")]
        let Some(event) = self.unless_waiting(event) else {
            return;
        };
        match event {
            Event::Join { id, name, access, queue, window } => {
                self.join(id, name, access, queue, window);
            }
            Event::Batch { from, batch, permit, errors } => {
                self.route(from, &batch, &Arc::new(permit));
                drop(errors);
            }
            Event::ReleaseName { id } => self.release_name(id),
            Event::JoinRoom(join) => self.join_room(*join),
            Event::HeldUp { id } => self.held_up(id, Instant::now()),
            Event::Leave { id } => self.leave(id),
            Event::Lost(report) => self.tell_senders(&report),
            Event::Settled { unsettled, is_complete: true } => unsettled.settle(),
            Event::Settled { unsettled, is_complete: false } => self.distrust(*unsettled),
            Event::Sync { id, share } => self.ask_recipients(id, share),
            Event::Synced(synced) => self.reply_to_sync(*synced),
            #[cfg(feature = "users")]
            Event::Users(version) => self.adopt(&version),
            #[cfg(feature = "cluster")]
            Event::Cluster(arrival) => self.arrive(arrival),
            #[cfg(feature = "cluster")]
            Event::ReadersGone => self.cut(),
        }
    }

    fn join(
        &mut self,
        id: ConnectionId,
        name: Name,
        access: Option<Box<Access>>,
        queue: Sender<Outgoing>,
        window: Arc<Window>,
    ) {
        #[cfg(test)]
        crate::fault::point("panic-broker", name.as_str().as_bytes());
        #[cfg(feature = "users")]
        let mut access = access;
        #[cfg(feature = "users")]
        let refused = access.as_mut().and_then(|access| self.judge(&name, access));
        let peer = Peer {
            id,
            name: name.clone(),
            access,
            queue,
            window,
            losses: OpenNotice::default(),
            reached: Reached::default(),
            markers: Vec::new(),
            pending: Vec::new(),
            waits: Waits::default(),
            accepted: 0,
            has_name: true,
            #[cfg(feature = "cluster")]
            is_claiming: false,
            #[cfg(feature = "cluster")]
            arrivals: Arrivals::default(),
            was_cut_off: false,
        };
        #[cfg(feature = "users")]
        if let Some(reason) = refused {
            return peer.close(reason, Some(Rejection::WrongToken.line().into()), None);
        }
        #[cfg(feature = "cluster")]
        if self.cluster.is_some() {
            self.claim(id, &name, peer);
            return;
        }
        if self.by_name.contains_key(name.as_str().as_bytes()) {
            // The connection gets no entry, so nothing that it already sent is routed.
            peer.close(CloseReason::NameTaken, Some(Rejection::NameTaken.line().into()), None);
            return;
        }
        let key = self.peers.insert(peer);
        self.by_name.insert(NameKey(name), key);
        self.by_id.insert(id, key);
        self.by_connect_order.insert(id, key);
        self.counters.connected.add(1);
    }

    /// Makes a name available to others. Nothing more is sent to the peer, but its own lines are
    /// still routed.
    fn release_name(&mut self, id: ConnectionId) {
        let Some(&key) = self.by_id.get(&id) else {
            return;
        };
        #[cfg(feature = "cluster")]
        self.log_out(id);
        let peer = &mut self.peers[key];
        if std::mem::take(&mut peer.has_name) {
            self.by_name.remove(peer.name.as_str().as_bytes());
            self.by_connect_order.remove(&id);
            self.leave_rooms(key, true);
        }
    }

    /// Frees the name immediately, even while the peer's writer still delivers its queue.
    fn leave(&mut self, id: ConnectionId) {
        let Some(&key) = self.by_id.get(&id) else {
            return;
        };
        let Some(peer) = self.remove(key) else {
            return;
        };
        if peer.was_cut_off {
            peer.close_for_shutdown();
        } else {
            peer.close(CloseReason::Left, None, Some(self.departed.add(key)));
        }
    }

    /// Tells each sender that is still connected which of its lines were lost.
    fn tell_senders(&mut self, report: &LossReport) {
        let LossReport { recipient, reason, records } = report;
        for &(sender, lines) in records {
            let Some(&key) = self.by_id.get(&sender) else {
                #[cfg(feature = "cluster")]
                if self.tell_elsewhere(sender, lines, report) {
                    self.counters.lost_told.add(lines.count);
                    continue;
                }
                self.counters.lost_sender_gone.add(lines.count);
                continue;
            };
            self.counters.lost_told.add(lines.count);
            let Peer { losses, window, reached, .. } = &mut self.peers[key];
            reached.lost = true;
            if let Some(notice) = losses.add(window, lines, recipient, reason) {
                self.push(key, Unrendered::LossNotice(notice).into());
            }
        }
    }

    /// Removes a peer, whose queue then lacks nothing but its last entry.
    fn remove(&mut self, key: usize) -> Option<Peer> {
        let id = self.peers.get(key)?.id;
        self.release_name(id);
        self.by_id.remove(&id);
        self.leave_rooms(key, false);
        let peer = self.peers.remove(key);
        #[cfg(feature = "cluster")]
        self.forget(id, &peer);
        self.counters.connected.sub(1);
        self.counters.owed.add(std::mem::take(&mut self.owed));
        #[cfg(feature = "cluster")]
        let peer = peer.asked_finally(self.cluster.as_deref());
        let mut peer = peer;
        peer.flush();
        Some(peer)
    }

    /// Accepts lines from a client, unless they come too late for the drain.
    fn accept(&mut self, from: ConnectionId, lines: u64) -> Option<usize> {
        let &sender = self.by_id.get(&from)?;
        if self.shutdown.routing_expired() {
            // Whatever follows from this client meets the same end, so the notice can state how
            // many of its lines were accepted.
            self.peers[sender].was_cut_off = true;
            return None;
        }
        self.peers[sender].accepted += lines;
        self.counters.accepted.add(lines);
        Some(sender)
    }

    fn route(&mut self, from: ConnectionId, batch: &Batch, permit: &Arc<Permit>) {
        // Before the lines count as accepted: whoever sees that count and then requests the shutdown
        // gets all replies.
        let is_shutdown = self.shutdown.is_shutdown();
        let Some(sender) = self.accept(from, batch.lines) else {
            return;
        };
        self.counters.unterminated.add(batch.unterminated);
        if batch.refused > 0 {
            self.counters.refused_lines.add(batch.refused);
        }
        let charged = Arc::new(ChargedFrames {
            bytes: Arc::clone(&batch.frames),
            permit: Some(Arc::clone(permit)),
            sender: from,
            first_line: batch.first_line,
        });
        for step in &batch.steps {
            match step {
                Step::Relay { recipients, frames, first_line, messages } => {
                    let slice = slice_of(&charged, frames, *messages, *first_line);
                    #[cfg(feature = "cluster")]
                    if self.cluster.is_some() {
                        let lines = *first_line..first_line + u64::from(*messages);
                        let names = batch.names(recipients);
                        self.relay_clustered((from, sender), &slice, names, lines, permit);
                        continue;
                    }
                    let missing = self.relay(sender, slice, batch.names(recipients));
                    if !missing.is_empty() {
                        self.counters.unreachable_lines.add(u64::from(*messages));
                        let lines = *first_line..first_line + u64::from(*messages);
                        let errors =
                            NoSuchPeerErrors::new(lines, protocol::missing(&missing), permit);
                        self.push(sender, Unrendered::NoSuchPeerErrors(errors).into());
                    }
                }
                // Delivering what is accepted comes first: a client that is about to get its closing
                // notice needs no list.
                Step::Who { .. } | Step::WhoIn { .. } if is_shutdown => {}
                #[cfg(feature = "cluster")]
                Step::Who { recipients, line } if self.cluster.is_some() => {
                    let names = batch.names(recipients).map(<[u8]>::to_vec).collect();
                    self.ask_who(from, names, *line, Arc::clone(permit));
                }
                Step::Who { recipients, line } => {
                    let text = self.who(sender, batch.names(recipients), *line);
                    self.push(
                        sender,
                        Pending::FrameSlice(FrameSlice::reply(text, Arc::clone(permit))),
                    );
                }
                Step::RelayRoom { room, frames, first_line, messages, charged: paid } => {
                    let slice = slice_of(&charged, frames, *messages, *first_line);
                    let room = batch.name(room);
                    let lines = *first_line..first_line + u64::from(*messages);
                    #[cfg(feature = "cluster")]
                    let relayed = if self.cluster.is_some() {
                        let lines = lines.clone();
                        self.relay_room_clustered((from, sender), &slice, room, *paid, lines)
                    } else {
                        self.relay_room(sender, &slice, room, *paid)
                    };
                    #[cfg(not(feature = "cluster"))]
                    let relayed = self.relay_room(sender, &slice, room, *paid);
                    if let Err(refusal) = relayed {
                        self.refuse_room(sender, lines, refusal.of(room), permit);
                    }
                }
                #[cfg(feature = "cluster")]
                Step::WhoIn { room, line } if self.cluster.is_some() => {
                    self.ask_who_in(from, batch.name(room), *line, permit);
                }
                Step::WhoIn { room, line } => self.who_in(sender, batch.name(room), *line, permit),
                Step::Leave { room, line } => {
                    self.leave_room(sender, batch.name(room), *line, permit);
                }
                Step::Reply { frames } => {
                    let reply = Pending::FrameSlice(slice_of(&charged, frames, 0, 0));
                    self.push_reply(sender, reply);
                }
            }
        }
    }

    /// Queues a slice for each of these peers; returns the names that are not connected.
    ///
    /// The last of them gets the slice itself: a clone to a single recipient would count twice, in a
    /// cache line that writers count in, too.
    fn relay<'a>(
        &mut self,
        sender: usize,
        slice: FrameSlice,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> Vec<&'a [u8]> {
        let (mut missing, mut last) = (Vec::new(), None);
        for name in names {
            let Some(key) = self.find(name, sender) else {
                missing.push(name);
                continue;
            };
            self.owed += u64::from(slice.messages);
            self.peers[sender].reached.add(key);
            if let Some(before) = last.replace(key) {
                self.push(before, Pending::FrameSlice(slice.clone()));
            }
        }
        if let Some(key) = last {
            self.push(key, Pending::FrameSlice(slice));
        }
        missing
    }

    fn who<'a>(&self, sender: usize, names: impl Iterator<Item = &'a [u8]>, line: u64) -> Vec<u8> {
        let mut text = Vec::new();
        let (present, absent): (Vec<_>, Vec<_>) =
            names.partition(|&name| self.find(name, sender).is_some());
        if present.is_empty() && absent.is_empty() {
            let itself = (!self.peers[sender].has_name).then_some(sender);
            let all = self.by_connect_order.values().copied().chain(itself);
            let count = self.by_connect_order.len() + usize::from(itself.is_some());
            let names: Vec<_> = all
                .take(MAX_WHO_NAMES)
                .map(|key| self.peers[key].name.as_str().as_bytes())
                .collect();
            protocol::push_who(&mut text, line, count, &names);
        } else {
            protocol::push_who_of(&mut text, line, &present, &absent);
        }
        text
    }

    /// The peer that `sender` reaches under this name. A sender that has released its own name
    /// still reaches itself under it, whoever has taken it meanwhile.
    fn find(&self, name: &[u8], sender: usize) -> Option<usize> {
        let peer = &self.peers[sender];
        if !peer.has_name && peer.name.as_str().as_bytes() == name {
            return Some(sender);
        }
        self.by_name.get(name).copied()
    }

    /// Queues something for a peer. Replies hold the permit of the batch that caused them too, so a
    /// client that does not read its errors is no longer read from.
    fn push(&mut self, key: usize, pending: Pending) {
        let peer = &mut self.peers[key];
        self.dirty.add(key, &mut peer.waits, true);
        peer.pending.push(pending);
    }

    /// Queues a reply to a line, behind those to earlier lines.
    fn push_reply(&mut self, key: usize, reply: Pending) {
        #[cfg(feature = "cluster")]
        let Some(reply) = self.unless_early(key, reply) else {
            return;
        };
        self.push(key, reply);
    }

    /// Wakes the writers of all peers that were sent something. Deliveries are counted as owed
    /// before they can be delivered.
    fn flush_round(&mut self) {
        self.counters.owed.add(std::mem::take(&mut self.owed));
        self.round_spread = 0;
        // Before writers see what it is about.
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &mut self.cluster {
            cluster.flush();
        }
        for (key, turn) in self.dirty.next_round() {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.waits.woken(turn);
                peer.flush();
            }
        }
    }
}

/// The slice of a batch that holds these frames, of the messages from this line on.
fn slice_of(
    frames: &Arc<ChargedFrames>,
    range: &Range<u32>,
    messages: u32,
    first_line: u64,
) -> FrameSlice {
    let line = u32::try_from(first_line.saturating_sub(frames.first_line)).unwrap_or(u32::MAX);
    FrameSlice { frames: Arc::clone(frames), start: range.start, end: range.end, messages, line }
}

impl Peer {
    /// Sends everything from this round at once, which wakes the writer once.
    fn flush(&mut self) {
        if !self.markers.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            let marked = Box::new((pending, std::mem::take(&mut self.markers)));
            let sent = self.queue.send(Outgoing::Marked(marked));
            debug_assert!(sent.is_ok(), "a writer outlives its queue's sender");
            return;
        }
        let outgoing = match self.pending.len() {
            0 => return,
            1 => self.pending.pop().map(Outgoing::One),
            _ => Some(Outgoing::Many(std::mem::take(&mut self.pending))),
        };
        // A writer outlives its queue's sender, so the queue cannot be disconnected here.
        let sent = outgoing.map(|outgoing| self.queue.send(outgoing));
        debug_assert_eq!(sent.and_then(Result::err).map(drop), None);
    }

    /// Queues the closing notice, and drops the queue.
    fn close_for_shutdown(self) {
        let text = protocol::closing_notice(self.accepted).into_bytes();
        self.close(CloseReason::Shutdown, Some(text), None);
    }

    /// Queues the last entry for this peer and drops its queue.
    fn close(self, reason: CloseReason, text: Option<Vec<u8>>, departed: Option<Arc<Departed>>) {
        let close = Close { reason, accepted: self.accepted, text, departed };
        let sent = self.queue.send(Outgoing::Close(Box::new(close)));
        debug_assert!(sent.is_ok(), "a writer outlives its queue's sender");
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;
    use crate::server::delivery::ticket::{Answer, ticket};
    use crate::server::delivery::token::Token;
    use crate::wire::batch::BatchBuilder;
    use crate::wire::framing::Line;

    /// A broker without threads and sockets: events in, queues out.
    struct Bench {
        broker: Broker,
        window: Arc<Window>,
    }

    impl Bench {
        fn new() -> Self {
            let counters = Arc::new(Counters::default());
            let window = Arc::new(Window::new(1 << 20, Arc::clone(&counters)));
            let shutdown = ShutdownHandle::new(Duration::from_secs(3600)).expect("descriptors");
            let broker = Broker::new(counters, shutdown, Duration::from_secs(10));
            Self { broker, window }
        }

        fn join(&mut self, id: u64, name: &str) -> Receiver<Outgoing> {
            let (queue, inbox) = unbounded();
            let name = Name::new(name.as_bytes()).expect("a valid name");
            let (id, window) = (ConnectionId(id), Arc::clone(&self.window));
            self.broker.handle(Event::Join { id, name, access: None, queue, window });
            inbox
        }

        fn join_event(&self, id: u64, room: &str) -> (Event, Answer<RoomSize>) {
            let permit = || {
                let never = || -> Result<_, ()> { panic!("there is room") };
                self.window.acquire(512, never).expect("there is room")
            };
            let (ticket, answer) = ticket();
            let join = JoinRoom {
                from: ConnectionId(id),
                line: 7,
                room: Room::new(room).expect("a room"),
                loud: None,
                permit: permit(),
                standing: StandingPermit::new(permit()),
                ticket,
            };
            (Event::JoinRoom(Box::new(join)), answer)
        }

        fn join_room(&mut self, id: u64, room: &str) -> RoomSize {
            let (join, answer) = self.join_event(id, room);
            self.broker.handle(join);
            self.broker.flush_round();
            let size = answer.wait(|| Err("it is not answered"));
            size.expect("no wait").expect("an answer")
        }

        /// A line to a room, as it is charged now.
        fn in_room(name: &str, size: &RoomSize, line: &str) -> BatchBuilder {
            let mut builder = BatchBuilder::new(&Name::new(name).expect("a valid name"), 100);
            builder.joined(Room::new("#dev").expect("a room"), size.clone());
            assert!(builder.push(Line::Text(line.as_bytes())).is_none());
            builder
        }

        fn room_line(&mut self, id: u64, name: &str, size: &RoomSize, line: &str) {
            let mut builder = Self::in_room(name, size, line);
            self.batch(id, &mut builder);
        }

        fn lines(&mut self, id: u64, name: &str, lines: &[&str]) {
            let name = Name::new(name.as_bytes()).expect("a valid name");
            let mut builder = BatchBuilder::new(&name, 100);
            for line in lines {
                assert!(builder.push(Line::Text(line.as_bytes())).is_none());
            }
            self.batch(id, &mut builder);
        }

        fn batch(&mut self, id: u64, builder: &mut BatchBuilder) {
            let never = || -> Result<_, ()> { panic!("there is room") };
            let permit = self.window.acquire(builder.charge(), never).expect("there is room");
            let batch = Box::new(builder.finish());
            let from = ConnectionId(id);
            self.broker.handle(Event::Batch { from, batch, permit, errors: None });
            self.broker.flush_round();
        }
    }

    /// Everything queued, as text; a close as its reason and its line.
    fn queued(inbox: &Receiver<Outgoing>) -> String {
        let text = |pending: Pending| match pending {
            Pending::FrameSlice(slice) => String::from_utf8_lossy(slice.bytes()).into_owned(),
            Pending::Unrendered(unrendered) => match *unrendered {
                Unrendered::NoSuchPeerErrors(mut errors) => {
                    String::from_utf8_lossy(errors.next_slice().bytes()).into_owned()
                }
                Unrendered::RoomNews(news) => String::from_utf8(news.spell_out()).expect("text"),
                Unrendered::LossNotice(notice) => {
                    String::from_utf8(notice.render().0).expect("text")
                }
            },
        };
        let outgoing = inbox.try_iter().map(|outgoing| match outgoing {
            Outgoing::One(pending) => text(pending),
            Outgoing::Many(pending) => pending.into_iter().map(text).collect(),
            Outgoing::Marked(marked) => marked.0.into_iter().map(text).collect(),
            Outgoing::Close(close) => {
                let Close { reason, accepted, text, .. } = *close;
                let text = String::from_utf8(text.unwrap_or_default()).expect("text");
                format!("[{reason}, {accepted} accepted] {text}")
            }
        });
        outgoing.collect()
    }

    #[test]
    fn a_message_reaches_connected_recipients_and_the_sender_gets_an_error_for_the_others() {
        let mut bench = Bench::new();
        let (alice, bob) = (bench.join(1, "alice"), bench.join(2, "bob"));
        bench.lines(1, "alice", &["bob, carol: x", "bob: y", "alice: z"]);
        assert_eq!(queued(&bob), "from alice: x\nfrom alice: y\n");
        assert_eq!(queued(&alice), "error: line 1: no such peer: carol\nfrom alice: z\n");
        assert_eq!(
            (bench.broker.counters.owed.get(), bench.broker.counters.accepted.get()),
            (3, 3)
        );
    }

    #[test]
    fn each_line_of_a_run_gets_its_own_error() {
        let mut bench = Bench::new();
        let alice = bench.join(1, "alice");
        bench.lines(1, "alice", &["x: 1", "x: 2"]);
        let replies = "error: line 1: no such peer: x\nerror: line 2: no such peer: x\n";
        assert_eq!(queued(&alice), replies);
    }

    #[test]
    fn error_replies_are_charged_in_full_until_they_are_dropped() {
        let mut bench = Bench::new();
        let alice = bench.join(1, "alice");
        // A run, whose further lines are charged only for their text.
        let mut builder = BatchBuilder::new(&Name::new(b"alice").expect("a valid name"), 100);
        assert!(builder.push(Line::Text(b"x:")).is_none());
        builder.push_run(&b"x:\n".repeat(99), usize::MAX, usize::MAX);
        bench.batch(1, &mut builder);
        let charged = bench.window.used();
        let replies = queued(&alice);
        assert_eq!(replies.lines().count(), 100);
        assert!(charged >= replies.len(), "{charged} for {} bytes", replies.len());
        assert_eq!(bench.window.used(), 0);
    }

    #[test]
    fn a_login_with_a_taken_name_is_rejected_and_none_of_its_lines_are_routed() {
        let mut bench = Bench::new();
        let (first, second) = (bench.join(1, "alice"), bench.join(2, "alice"));
        bench.lines(2, "alice", &["alice: forged"]);
        bench.broker.handle(Event::Leave { id: ConnectionId(2) });
        assert_eq!(queued(&second), "[name taken, 0 accepted] error: name taken\n");
        bench.lines(1, "alice", &["alice: mine"]);
        assert_eq!(queued(&first), "from alice: mine\n");
        assert_eq!(bench.broker.counters.accepted.get(), 1);
    }

    #[test]
    fn a_client_that_leaves_gets_its_queue_and_frees_its_name() {
        let mut bench = Bench::new();
        let (_alice, old) = (bench.join(1, "alice"), bench.join(2, "bob"));
        bench.lines(1, "alice", &["bob: old"]);
        bench.broker.handle(Event::Leave { id: ConnectionId(2) });
        let new = bench.join(3, "bob");
        bench.lines(1, "alice", &["bob: new"]);
        // The late `Leave` of the old connection does not concern the new one.
        bench.broker.handle(Event::Leave { id: ConnectionId(2) });
        bench.lines(1, "alice", &["bob: newer"]);
        assert_eq!(queued(&old), "from alice: old\n[left, 0 accepted] ");
        assert_eq!(queued(&new), "from alice: new\nfrom alice: newer\n");
    }

    #[test]
    fn a_released_name_is_free_while_its_former_owner_still_sends() {
        let mut bench = Bench::new();
        let (old, bob) = (bench.join(1, "alice"), bench.join(2, "bob"));
        bench.broker.handle(Event::ReleaseName { id: ConnectionId(1) });
        bench.lines(1, "alice", &["alice: to itself", "/who alice", "/who"]);
        let notices = "notice: line 2: here: alice\nnotice: line 3: 2 here: bob, alice\n";
        assert_eq!(queued(&old), format!("from alice: to itself\n{notices}"));
        bench.lines(2, "bob", &["alice: x"]);
        assert_eq!(queued(&bob), "error: line 1: no such peer: alice\n");
        let new = bench.join(3, "alice");
        bench.lines(1, "alice", &["bob: from the old one", "alice: to itself", "/who"]);
        assert_eq!(queued(&bob), "from alice: from the old one\n");
        assert_eq!(queued(&new), "");
        let notice = "notice: line 3: 3 here: bob, alice, alice\n";
        assert_eq!(queued(&old), format!("from alice: to itself\n{notice}"));
        bench.broker.handle(Event::ReleaseName { id: ConnectionId(1) });
        bench.broker.handle(Event::Leave { id: ConnectionId(1) });
        assert_eq!(queued(&old), "[left, 6 accepted] ");
        bench.lines(2, "bob", &["alice: still there"]);
        assert_eq!(queued(&new), "from bob: still there\n");
    }

    #[test]
    fn who_command_is_not_answered_once_shutdown_has_begun() {
        let mut bench = Bench::new();
        let (alice, bob) = (bench.join(1, "alice"), bench.join(2, "bob"));
        bench.broker.shutdown.shutdown();
        bench.lines(1, "alice", &["/who", "bob: x", "/who bob", "nonsense"]);
        assert_eq!(queued(&bob), "from alice: x\n");
        let error = "error: line 4: no ':' in it, expected \"name, name: text\"\n";
        assert_eq!(queued(&alice), error);
        assert_eq!(bench.broker.counters.accepted.get(), 4);
    }

    #[test]
    fn lines_that_come_too_late_for_the_drain_are_not_accepted_and_the_notices_say_so() {
        let mut bench = Bench::new();
        let (alice, bob) = (bench.join(1, "alice"), bench.join(2, "bob"));
        bench.lines(1, "alice", &["bob: in time"]);
        bench.lines(2, "bob", &["alice: in time"]);
        bench.broker.shutdown.force();
        bench.lines(1, "alice", &["bob: too late", "bob: as well"]);
        bench.lines(2, "bob", &["alice: too late"]);
        bench.broker.handle(Event::Leave { id: ConnectionId(2) });
        let (events, inbox) = unbounded();
        drop(events);
        let counters = Arc::clone(&bench.broker.counters);
        bench.broker.run(&inbox, &Turns::new());
        let notice = format!("[server shut down, 1 accepted] {}", protocol::closing_notice(1));
        assert_eq!(queued(&bob), format!("from alice: in time\n{notice}"));
        assert_eq!(queued(&alice), format!("from bob: in time\n{notice}"));
        assert_eq!((counters.accepted.get(), counters.owed.get()), (2, 2));
        assert_eq!(bench.window.used(), 0);
    }

    #[test]
    fn who_command_lists_clients_in_connect_order() {
        let mut bench = Bench::new();
        // After a crowd has left, free slots are reused from the last one backwards; one of the
        // crowd stays.
        let mut crowd: Vec<_> = (1..=300).map(|id| bench.join(id, &format!("crowd{id}"))).collect();
        for id in 1..300 {
            bench.broker.handle(Event::Leave { id: ConnectionId(id) });
        }
        let asks = crowd.pop().expect("the last one");
        for id in 301..=450 {
            crowd.push(bench.join(id, &format!("new{id}")));
        }
        bench.lines(300, "crowd300", &["/who"]);
        let names: Vec<_> = (301..400).map(|id| format!("new{id}")).collect();
        let expected = format!("notice: line 1: 151 here: crowd300, {}, ...\n", names.join(", "));
        assert_eq!(queued(&asks), expected);
    }

    #[test]
    fn a_line_to_a_room_reaches_its_other_members() {
        let mut bench = Bench::new();
        let queues =
            [(1, "alice"), (2, "bob"), (3, "carol")].map(|(id, name)| bench.join(id, name));
        let sizes = [1, 2, 3].map(|id| bench.join_room(id, "#dev"));
        assert!(sizes.iter().all(|size| size.get() == 3), "they share it");
        assert!(queues.iter().all(|queue| queued(queue).starts_with("notice: line 7: in #dev, ")));
        bench.room_line(1, "alice", &sizes[0], "#dev: x");
        assert_eq!(queued(&queues[0]), "");
        assert_eq!(queued(&queues[1]), "from alice #dev: x\n");
        assert_eq!(queued(&queues[2]), "from alice #dev: x\n");
        assert_eq!(bench.broker.counters.owed.get(), 2);
    }

    #[test]
    fn a_line_to_a_room_that_has_more_than_doubled_is_refused() {
        let mut bench = Bench::new();
        let alice = bench.join(1, "alice");
        let size = bench.join_room(1, "#dev");
        queued(&alice);
        let mut builder = Bench::in_room("alice", &size, "#dev: x");
        let bob = bench.join(2, "bob");
        bench.join_room(2, "#dev");
        queued(&bob);
        bench.batch(1, &mut builder);
        assert_eq!(queued(&alice), "error: line 1: #dev has grown, send it again\n");
        bench.room_line(1, "alice", &size, "#dev: y");
        assert_eq!(queued(&bob), "from alice #dev: y\n");
        bench.broker.handle(Event::Leave { id: ConnectionId(2) });
        bench.room_line(1, "alice", &size, "#dev: z");
        assert_eq!(queued(&alice), "error: line 1: nobody else is in #dev\n");
        assert_eq!(bench.broker.counters.owed.get(), 1);
    }

    #[test]
    fn the_next_client_under_a_name_is_in_no_room() {
        let mut bench = Bench::new();
        let (alice, old) = (bench.join(1, "alice"), bench.join(2, "bob"));
        let size = bench.join_room(1, "#dev");
        bench.join_room(2, "#dev");
        bench.broker.handle(Event::ReleaseName { id: ConnectionId(2) });
        queued(&old);
        // It has half-closed: what it had sent before is still routed, and nothing sent to it.
        bench.room_line(2, "bob", &size, "#dev: last");
        bench.room_line(1, "alice", &size, "#dev: too late");
        let replies = queued(&alice);
        assert!(
            replies.ends_with("from bob #dev: last\nerror: line 1: nobody else is in #dev\n"),
            "{replies}"
        );
        assert_eq!(queued(&old), "");
        bench.broker.handle(Event::Leave { id: ConnectionId(2) });
        let new = bench.join(3, "bob");
        bench.room_line(3, "bob", &size, "#dev: forged");
        assert_eq!(queued(&new), "error: line 1: not in #dev\n");
        assert_eq!(queued(&alice), "");
        let charged = bench.window.used();
        bench.broker.handle(Event::Leave { id: ConnectionId(1) });
        assert!(charged > 0 && bench.window.used() == 0, "a membership is charged while it lasts");
    }

    /// What was queued in the same round must not be overtaken, and whoever got nothing is not asked.
    #[test]
    fn a_marker_comes_behind_all_that_was_queued_before_it() {
        let mut bench = Bench::new();
        let (_alice, bob) = (bench.join(1, "alice"), bench.join(2, "bob"));
        let carol = bench.join(3, "carol");
        let mut builder = BatchBuilder::new(&Name::new(b"alice").expect("a valid name"), 100);
        assert!(builder.push(Line::Text(b"bob: before")).is_none());
        let never = || -> Result<_, ()> { panic!("there is room") };
        let permit = bench.window.acquire(builder.charge(), never).expect("there is room");
        let (batch, from) = (Box::new(builder.finish()), ConnectionId(1));
        let (token, share) = Token::new();
        bench.broker.handle(Event::Batch { from, batch, permit, errors: None });
        bench.broker.handle(Event::Sync { id: from, share });
        bench.broker.flush_round();
        let outgoing = bob.try_recv().expect("one entry, and one wake");
        let Outgoing::Marked(marked) = outgoing else { panic!("{outgoing:?}") };
        let (pending, markers) = *marked;
        let slice = pending[0].as_slice().expect("a message");
        assert_eq!((slice.bytes(), markers.len()), (b"from alice: before\n".as_slice(), 1));
        assert!(carol.try_recv().is_err(), "she got nothing");
        let settled = || token.wait(|| Err(())).is_ok();
        assert!(!settled());
        for marker in markers {
            marker.share.settle();
        }
        assert!(settled());
    }

    #[test]
    fn a_reader_that_waits_for_a_broker_that_failed_is_woken() {
        let bench = Bench::new();
        let (join, answer) = bench.join_event(1, "#dev");
        drop((join, bench));
        assert!(matches!(answer.wait(|| Err("it sleeps")), Ok(None)));
    }

    #[test]
    fn a_disconnected_inbox_is_routed_to_its_end_before_the_closing_notices() {
        let mut bench = Bench::new();
        let (alice, bob) = (bench.join(1, "alice"), bench.join(2, "bob"));
        bench.lines(1, "alice", &["bob: x", "", "bob: y"]);
        let (events, inbox) = unbounded();
        drop(events);
        bench.broker.run(&inbox, &Turns::new());
        let notice = |count| {
            let text = protocol::closing_notice(count);
            format!("[server shut down, {count} accepted] {text}")
        };
        assert_eq!(queued(&alice), notice(3));
        assert_eq!(queued(&bob), format!("from alice: x\nfrom alice: y\n{}", notice(0)));
        assert_eq!(bench.window.used(), 0, "every permit is given back");
    }
}
