//! Where in one client's stream the messages end that a `/sync` of another client asks about. Plain
//! state, owned by the client's writer; what is left of it after a failure goes to the broker.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::server::delivery::token::Share;
use crate::socket::connection::ConnectionId;

/// How long a writer waits at most until it looks again whether a mark is reached. The kernel has no
/// event for an acknowledgement.
pub(crate) const MAX_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Instead of a sender: a marker that asks about all messages, which any number may do at once.
#[cfg(feature = "cluster")]
pub(crate) const EVERYONE: ConnectionId = ConnectionId(u64::MAX);

/// So many peers that have left are not worth pruning.
const MIN_PRUNED: usize = 64;

/// A `/sync` that asks about one client's messages.
#[derive(Debug)]
pub(crate) struct Marker {
    /// Whose messages.
    pub(crate) of: ConnectionId,
    /// Settled once all of them have ended.
    pub(crate) share: Share,
}

/// The markers in one client's stream.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    placed: Vec<Mark>,
    /// Set once the client has left: further markers come here, since its queue has ended.
    departed: Option<Arc<Departed>>,
    /// Since when the oldest placed mark waits.
    since: Option<Instant>,
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Mark {
    /// Reached once this many messages are acknowledged.
    position: u64,
    marker: Marker,
}

/// Takes markers for a client that has left, while its writer still delivers.
///
/// Whoever works on that client's account holds it: its writer, then its reader, then the broker's
/// event. When the last of them drops it, nothing is left to be asked about.
#[derive(Debug, Default)]
pub(crate) struct Departed(Mutex<Hung>);

#[derive(Debug, Default)]
struct Hung {
    markers: Vec<Marker>,
    /// Everything was acknowledged, or its loss was told.
    is_over: bool,
}

/// The peers that have left while somebody may still work on their account. The broker's.
#[derive(Debug, Default)]
pub(crate) struct DepartedPeers {
    /// Each with the key that it had as a peer.
    peers: Vec<(usize, Weak<Departed>)>,
    /// With this many, those whose account is closed are dropped.
    prune_at: usize,
}

/// The markers that a writer could not settle. Their senders are told of what was lost first; then
/// the broker settles them.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    shares: Vec<Share>,
    departed: Option<Arc<Departed>>,
}

impl Marks {
    /// True if nobody asks at the moment.
    pub(crate) fn is_empty(&self) -> bool {
        self.placed.is_empty() && self.departed.is_none()
    }

    /// From now on markers come by way of `departed`.
    pub(crate) fn depart(&mut self, departed: Arc<Departed>) {
        self.departed = Some(departed);
    }

    /// Adds a marker. `position` tells which message is the last of that sender that is not
    /// acknowledged; without one the marker is settled.
    ///
    /// A sender waits for one answer at a time, so an older marker of the same sender's is one that
    /// it has given up.
    pub(crate) fn place(
        &mut self,
        marker: Marker,
        position: impl FnOnce(ConnectionId) -> Option<u64>,
    ) {
        #[cfg(feature = "cluster")]
        let asks_alone = marker.of != EVERYONE;
        #[cfg(not(feature = "cluster"))]
        let asks_alone = true;
        if asks_alone {
            self.placed.retain(|mark| mark.marker.of != marker.of);
            if self.placed.is_empty() {
                self.since = None;
            }
        }
        match position(marker.of) {
            Some(position) => {
                let now = Instant::now();
                self.since.get_or_insert(now);
                self.next_look = Some(now);
                self.placed.push(Mark { position, marker });
            }
            None => marker.share.settle(),
        }
    }

    /// Places what has come in since the client left.
    pub(crate) fn collect(&mut self, position: impl Fn(ConnectionId) -> Option<u64>) {
        let Some(departed) = self.departed.clone() else { return };
        for marker in departed.take() {
            self.place(marker, &position);
        }
    }

    /// Settles the marks that are reached once this many messages are acknowledged.
    pub(crate) fn settle(&mut self, acknowledged: u64) {
        let placed = std::mem::take(&mut self.placed).into_iter();
        let (reached, waiting): (Vec<_>, Vec<_>) =
            placed.partition(|mark| mark.position <= acknowledged);
        for mark in reached {
            mark.marker.share.settle();
        }
        self.placed = waiting;
        let now = Instant::now();
        if self.placed.is_empty() {
            (self.placed, self.since) = (Vec::new(), None);
            self.next_look = self.departed.is_some().then(|| now + MAX_LOOK_INTERVAL);
        } else {
            // Soon at first. A recipient that has kept a sender waiting for long is looked at less
            // often, which delays the answer by an eighth at most.
            let waited = self.since.map_or(Duration::ZERO, |since| now - since);
            let interval = (waited / 8).clamp(Duration::from_millis(1), MAX_LOOK_INTERVAL);
            self.next_look = Some(now + interval);
        }
    }

    /// When to look next whether a mark is reached; `None` if nobody asks.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.next_look.filter(|_| !self.is_empty())
    }

    /// Everything is acknowledged: settles all marks, those too that are still to come.
    pub(crate) fn finish(&mut self) {
        std::mem::take(self).into_unsettled(Vec::new()).settle();
    }

    /// What to hand over after a failure, together with markers that were never placed.
    pub(crate) fn into_unsettled(self, markers: Vec<Marker>) -> Unsettled {
        let placed = self.placed.into_iter().map(|mark| mark.marker);
        let shares = placed.chain(markers).map(|marker| marker.share).collect();
        Unsettled { shares, departed: self.departed }
    }
}

impl Departed {
    /// Adds a marker, or settles it if everything is over.
    pub(crate) fn hang(&self, marker: Marker) {
        let mut hung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hung.is_over {
            marker.share.settle();
        } else {
            hung.markers.push(marker);
        }
    }

    fn take(&self) -> Vec<Marker> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).markers)
    }

    fn finish(&self) {
        let mut hung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hung.is_over = true;
        for marker in hung.markers.drain(..) {
            marker.share.settle();
        }
    }
}

impl DepartedPeers {
    /// Adds one; its writer is to get the result.
    pub(crate) fn add(&mut self, key: usize) -> Arc<Departed> {
        if self.peers.len() >= self.prune_at {
            self.peers.retain(|(_, departed)| departed.strong_count() > 0);
            self.prune_at = MIN_PRUNED.max(2 * self.peers.len());
        }
        let departed = Arc::default();
        self.peers.push((key, Arc::downgrade(&departed)));
        departed
    }

    /// Visits those whose account is open, with the keys that they had.
    pub(crate) fn for_each(&mut self, mut visit: impl FnMut(usize, &Departed)) {
        self.peers.retain(|(key, departed)| {
            let departed = departed.upgrade();
            if let Some(departed) = &departed {
                visit(*key, departed);
            }
            departed.is_some()
        });
    }
}

impl Unsettled {
    /// True if nobody asks, and nobody can any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.shares.is_empty() && self.departed.is_none()
    }

    /// Settles all of them.
    pub(crate) fn settle(self) {
        self.shares.into_iter().for_each(Share::settle);
        if let Some(departed) = self.departed {
            departed.finish();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::server::delivery::token::{Settlement, Token};

    /// A marker of client 1's, and what it waits on.
    fn marker() -> (Arc<Token>, Marker) {
        let (token, share) = Token::new();
        (token, Marker { of: ConnectionId(1), share })
    }

    /// What has become of it; `None` while it waits.
    fn outcome(token: &Token) -> Option<Settlement> {
        token.wait(|| Err(())).ok()
    }

    #[test]
    fn a_mark_is_settled_once_its_message_is_acknowledged_and_not_before() {
        let mut marks = Marks::default();
        let (token, marker) = marker();
        marks.place(marker, |of| (of == ConnectionId(1)).then_some(7));
        marks.settle(6);
        assert_eq!((outcome(&token), marks.is_empty()), (None, false));
        marks.settle(7);
        assert_eq!((outcome(&token), marks.is_empty()), (Some(Settlement::Confirmed), true));
        assert_eq!(marks.next_look(), None, "nobody asks, so nobody looks");
    }

    #[test]
    fn a_writer_without_messages_of_the_client_settles_at_once() {
        let (token, marker) = marker();
        Marks::default().place(marker, |_| None);
        assert_eq!(outcome(&token), Some(Settlement::Confirmed));
    }

    #[test]
    fn a_second_marker_of_a_client_takes_the_place_of_the_one_it_gave_up() {
        let mut marks = Marks::default();
        let ((first, one), (second, two)) = (marker(), marker());
        marks.place(one, |_| Some(7));
        marks.place(two, |_| Some(9));
        assert_eq!(outcome(&first), Some(Settlement::NotConfirmed));
        marks.settle(9);
        assert_eq!(outcome(&second), Some(Settlement::Confirmed));
    }

    #[test]
    fn a_mark_that_was_given_up_leaves_nothing_to_look_for() {
        let mut marks = Marks::default();
        let ((_first, one), (second, two)) = (marker(), marker());
        marks.place(one, |_| Some(7));
        // Acknowledged meanwhile.
        marks.place(two, |_| None);
        assert_eq!(outcome(&second), Some(Settlement::Confirmed));
        assert_eq!((marks.next_look(), marks.since), (None, None));
    }

    #[test]
    fn a_writer_looks_at_once_and_then_the_less_often_the_longer_it_waits() {
        let mut marks = Marks::default();
        let (_token, marker) = marker();
        marks.place(marker, |_| Some(7));
        assert!(marks.next_look().is_some_and(|look| look <= Instant::now()));
        for (waited, least, most) in [(0, 1, 2), (80, 10, 20), (3_600_000, 250, 250)] {
            marks.since = Instant::now().checked_sub(Duration::from_millis(waited));
            let before = Instant::now();
            marks.settle(0);
            let interval = marks.next_look().expect("somebody asks") - before;
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            let slack = before.elapsed() + Duration::from_millis(1);
            assert!(interval >= least && interval <= most + slack, "{waited} ms: {interval:?}");
        }
    }

    #[test]
    fn a_client_that_has_left_is_asked_until_its_account_is_closed() {
        let (mut peers, mut marks) = (DepartedPeers::default(), Marks::default());
        marks.depart(peers.add(3));
        let hang = |peers: &mut DepartedPeers| {
            let (token, marker) = marker();
            let mut marker = Some(marker);
            peers.for_each(|key, departed| {
                assert_eq!(key, 3);
                departed.hang(marker.take().expect("one"));
            });
            (token, marker.is_none())
        };
        let (token, was_hung) = hang(&mut peers);
        assert!(was_hung && outcome(&token).is_none());
        marks.collect(|_| Some(5));
        marks.settle(4);
        assert_eq!(outcome(&token), None);
        // Its writer has failed: whoever asks by now and from now on waits for the account.
        let unsettled = marks.into_unsettled(Vec::new());
        let (later, was_hung) = hang(&mut peers);
        assert!(was_hung && outcome(&later).is_none() && outcome(&token).is_none());
        unsettled.settle();
        assert_eq!([outcome(&token), outcome(&later)], [Some(Settlement::Confirmed); 2]);
        assert!(!hang(&mut peers).1, "nobody is left to be asked");
    }

    #[test]
    fn what_a_failed_thread_drops_is_not_confirmed() {
        let (mut peers, mut marks) = (DepartedPeers::default(), Marks::default());
        marks.depart(peers.add(0));
        let (token, marker) = marker();
        let mut marker = Some(marker);
        peers.for_each(|_, departed| departed.hang(marker.take().expect("one")));
        drop(marks);
        assert_eq!(outcome(&token), Some(Settlement::NotConfirmed));
    }
}
