//! What the broker does about `/sync`: it asks everyone who may still hold messages of the client's,
//! and queues the reply once they have ended. Runs on the broker's thread.

use std::sync::Arc;
use std::time::Duration;

use super::{Broker, MAX_URGENT};
use crate::server::delivery::marks::{Marker, Unsettled};
use crate::server::delivery::pending::{FrameSlice, Pending};
use crate::server::delivery::token::Share;
use crate::server::sync::Synced;
use crate::socket::connection::ConnectionId;
use crate::wire::sync::{self, SyncOutcome};

impl Broker {
    /// Asks everyone who may still have messages of this client's. Markers come behind all that was
    /// queued before, and whoever has none of its messages settles at once.
    pub(super) fn ask_recipients(&mut self, id: ConnectionId, share: Share) {
        // An unaccepted line, or a client that is not connected, is not confirmed either.
        let Some(sender) = self.accept(id, 1) else {
            return;
        };
        let reached = std::mem::take(&mut self.peers[sender].reached);
        let mut asked = Vec::new();
        if !reached.is_empty() {
            // The first share keeps the token open until all the others are handed out.
            let marker = || Marker { of: id, share: share.another() };
            asked
                .extend(self.peers.iter().map(|(key, _)| key).filter(|&key| reached.contains(key)));
            // As for a line to a large room: nobody else waits until thousands are woken.
            let is_urgent = asked.len() <= MAX_URGENT;
            if !is_urgent {
                self.round_spread += asked.len();
            }
            for &key in &asked {
                self.mark(key, marker(), is_urgent);
            }
            self.departed.for_each(|key, departed| {
                if reached.contains(key) {
                    departed.hang(marker());
                    // Unless it is confirmed now, the next one must ask again.
                    asked.push(key);
                }
            });
        }
        #[cfg(feature = "cluster")]
        self.ask_elsewhere(id, &share);
        share.settle();
        let peer = &mut self.peers[sender];
        peer.reached = reached;
        peer.reached.note_asked(&asked);
    }

    fn mark(&mut self, key: usize, marker: Marker, is_urgent: bool) {
        let peer = &mut self.peers[key];
        self.dirty.add(key, &mut peer.waits, is_urgent);
        peer.markers.push(marker);
    }

    /// Replies to a `/sync`. What its client was told before stands before this.
    pub(super) fn reply_to_sync(&mut self, synced: Synced) {
        let Synced { id, line, mut outcome, permit } = synced;
        let Some(&key) = self.by_id.get(&id) else {
            return;
        };
        let peer = &mut self.peers[key];
        if peer.was_cut_off {
            // The line came too late for the drain.
            return;
        }
        if outcome == SyncOutcome::Delivered {
            peer.reached.clear();
            if std::mem::take(&mut peer.reached.unaccounted) {
                outcome = SyncOutcome::NotInTime(Duration::ZERO);
            } else if std::mem::take(&mut peer.reached.lost) {
                outcome = SyncOutcome::DeliveredOrLost;
            }
        }
        let mut text = Vec::new();
        sync::push_sync(&mut text, line, outcome);
        self.push(key, Pending::FrameSlice(FrameSlice::reply(text, Arc::new(permit))));
    }

    /// A thread failed in the middle of its account, so everyone may have lost something: no client
    /// is confirmed the next time it asks.
    pub(super) fn distrust(&mut self, unsettled: Unsettled) {
        for (_, peer) in &mut self.peers {
            peer.reached.unaccounted = true;
        }
        drop(unsettled);
    }
}
