//! The broker thread: it owns the only map of peers and ends when all readers have dropped their
//! senders, having routed everything they sent.
//!
//! It touches no socket, never blocks on a peer and never asks whether the server is stopping:
//! routing is a plain loop over its inbox, and the stop is the end of that loop.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use foldhash::fast::RandomState;
use slab::Slab;

use crate::batch::{Batch, Step};
use crate::connection::ConnectionId;
use crate::protocol::{self, Name, Rejection, WHO_NAMES};
use crate::report::CloseReason;
use crate::stats::Counters;
use crate::window::Permit;
use crate::writer::{Goodbye, Outgoing, Piece};

/// How many events are routed before the writers are woken: enough that under load each of them
/// is woken once for many batches, few enough that none of them waits for long.
const ROUND: usize = 64;

/// What readers tell the broker.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client wants to be reached under a name, through a queue.
    Join { id: ConnectionId, name: Name, queue: Sender<Outgoing> },
    /// A client's lines, and the charge on its window for them. In a box, since every event is
    /// as large as the largest, on each sender's stack as in the inbox.
    Batch { from: ConnectionId, batch: Box<Batch>, permit: Permit },
    /// A client is gone or will send no more. Nothing of it comes after this.
    Leave { id: ConnectionId },
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Broker {
    peers: Slab<Peer>,
    by_name: HashMap<Name, usize, RandomState>,
    by_id: HashMap<ConnectionId, usize, RandomState>,
    /// The peers that got something in this round.
    touched: Vec<usize>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Peer {
    name: Name,
    queue: Sender<Outgoing>,
    /// What this round has for it so far.
    pending: Vec<Piece>,
    /// Complete lines taken from it.
    accepted: u64,
}

impl Broker {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self {
            peers: Slab::new(),
            by_name: HashMap::default(),
            by_id: HashMap::default(),
            touched: Vec::new(),
            counters,
        }
    }

    /// The thread: routes until the inbox is disconnected, then says goodbye to everyone.
    pub(crate) fn run(mut self, inbox: &Receiver<Event>) {
        while let Ok(event) = inbox.recv() {
            self.handle(event);
            for event in inbox.try_iter().take(ROUND - 1) {
                self.handle(event);
            }
            self.wake_writers();
        }
        for peer in self.peers.drain() {
            let text = protocol::closing_notice(peer.accepted).into_bytes();
            peer.part(CloseReason::Shutdown, Some(text));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Join { id, name, queue } => self.join(id, name, queue),
            Event::Batch { from, batch, permit } => self.route(from, &batch, &Arc::new(permit)),
            Event::Leave { id } => self.leave(id),
        }
    }

    fn join(&mut self, id: ConnectionId, name: Name, queue: Sender<Outgoing>) {
        #[cfg(test)]
        crate::fault::point("panic-broker", name.as_str().as_bytes());
        let peer = Peer { name: name.clone(), queue, pending: Vec::new(), accepted: 0 };
        if self.by_name.contains_key(&name) {
            // The connection gets no entry, so that nothing it has sent already is routed.
            peer.part(CloseReason::NameTaken, Some(Rejection::NameTaken.line().into()));
            return;
        }
        let key = self.peers.insert(peer);
        self.by_name.insert(name, key);
        self.by_id.insert(id, key);
        self.counters.connected.add(1);
    }

    /// Frees the name at once, also while the peer's writer still delivers what is queued.
    fn leave(&mut self, id: ConnectionId) {
        let Some(key) = self.by_id.remove(&id) else {
            return;
        };
        let mut peer = self.peers.remove(key);
        self.by_name.remove(&peer.name);
        self.touched.retain(|&touched| touched != key);
        self.counters.connected.sub(1);
        peer.wake_writer();
        peer.part(CloseReason::Left, None);
    }

    fn route(&mut self, from: ConnectionId, batch: &Batch, permit: &Arc<Permit>) {
        let Some(&sender) = self.by_id.get(&from) else {
            return;
        };
        self.peers[sender].accepted += batch.lines;
        self.counters.accepted.add(batch.lines);
        for step in &batch.steps {
            match step {
                Step::Relay { recipients, frames, first_line, messages } => {
                    let piece = Piece {
                        frames: Arc::clone(&batch.frames),
                        start: frames.start,
                        end: frames.end,
                        messages: *messages,
                        permit: Some(Arc::clone(permit)),
                    };
                    let missing = self.relay(&piece, batch.names(recipients));
                    if !missing.is_empty() {
                        let lines = *first_line..first_line + u64::from(*messages);
                        let mut text = Vec::new();
                        for line in lines {
                            protocol::push_no_such_peer(&mut text, line, &missing);
                        }
                        self.reply(sender, text, permit);
                    }
                }
                Step::Who { recipients, line } => {
                    let text = self.who(batch.names(recipients), *line);
                    self.reply(sender, text, permit);
                }
                Step::Reply { frames } => {
                    let text = &batch.frames[frames.start as usize..frames.end as usize];
                    self.reply(sender, text.to_vec(), permit);
                }
            }
        }
    }

    /// Gives a piece to each of these peers; returns the names that nobody has.
    fn relay<'a>(&mut self, piece: &Piece, names: impl Iterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
        let mut missing = Vec::new();
        for name in names {
            match self.by_name.get(name) {
                Some(&key) => {
                    self.counters.owed.add(u64::from(piece.messages));
                    self.push(key, piece.clone());
                }
                None => missing.push(name),
            }
        }
        missing
    }

    fn who<'a>(&self, names: impl Iterator<Item = &'a [u8]>, line: u64) -> Vec<u8> {
        let mut text = Vec::new();
        let (here, away): (Vec<_>, Vec<_>) =
            names.partition(|&name| self.by_name.contains_key(name));
        if here.is_empty() && away.is_empty() {
            let some = self.peers.iter().take(WHO_NAMES);
            let names: Vec<_> = some.map(|(_, peer)| peer.name.as_str().as_bytes()).collect();
            protocol::push_who(&mut text, line, self.peers.len(), &names);
        } else {
            protocol::push_who_of(&mut text, line, &here, &away);
        }
        text
    }

    /// Answers the sender. The answer holds the permit of the batch that caused it, so that a
    /// client which does not read its errors is read from no more.
    fn reply(&mut self, sender: usize, text: Vec<u8>, permit: &Arc<Permit>) {
        self.push(sender, Piece::reply(text, Arc::clone(permit)));
    }

    fn push(&mut self, key: usize, piece: Piece) {
        let peer = &mut self.peers[key];
        if peer.pending.is_empty() {
            self.touched.push(key);
        }
        peer.pending.push(piece);
    }

    fn wake_writers(&mut self) {
        for key in self.touched.drain(..) {
            self.peers[key].wake_writer();
        }
    }
}

impl Peer {
    /// Hands this round's pieces over with one send, which wakes the writer once.
    fn wake_writer(&mut self) {
        let outgoing = match self.pending.len() {
            0 => return,
            1 => self.pending.pop().map(Outgoing::One),
            _ => Some(Outgoing::Many(std::mem::take(&mut self.pending))),
        };
        // A writer outlives its queue's sender, so the queue can not be disconnected here.
        let sent = outgoing.map(|outgoing| self.queue.send(outgoing));
        debug_assert_eq!(sent.and_then(Result::err).map(drop), None);
    }

    /// Queues the last thing for this peer and lets its queue go.
    fn part(self, reason: CloseReason, text: Option<Vec<u8>>) {
        let goodbye = Goodbye { reason, accepted: self.accepted, text };
        let sent = self.queue.send(Outgoing::Last(goodbye));
        debug_assert!(sent.is_ok(), "a writer outlives its queue's sender");
    }
}
