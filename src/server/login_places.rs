//! Places for connections before their login. Plain state behind a mutex: the acceptor takes them,
//! readers give them back.
//!
//! They are fewer than connections, so strangers who never log in cannot take the places of those
//! who do. When they are all taken, the oldest of the source with the most makes room.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::server::per_source::SourcePrefix;
use crate::socket::connection::{Connection, ConnectionId};
use crate::wire::reasons::Rejection;

/// The default limit, and the number of connections below which it is no less.
const DEFAULT_LIMIT: usize = 512;
const MIN_DEFAULT: usize = 8;

/// How long a connection keeps its place at least: its client may have sent its line already.
const MIN_STAY: Duration = Duration::from_millis(100);

/// The connections before their login.
#[derive(Debug)]
pub(crate) struct LoginPlaces {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// From the oldest to the newest of each source; none of these is empty.
    by_source: HashMap<Option<SourcePrefix>, VecDeque<Waiting>, RandomState>,
    count: usize,
}

#[derive(Debug)]
struct Waiting {
    connection: Arc<Connection>,
    since: Instant,
}

/// A connection's place. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct LoginPlace {
    places: Arc<LoginPlaces>,
    source: Option<SourcePrefix>,
    id: ConnectionId,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    GivenBack,
    Lost,
}

impl LoginPlaces {
    /// Places for this many connections, or for as many as suit a server of this capacity.
    pub(crate) fn new(limit: Option<usize>, capacity: usize) -> Arc<Self> {
        let default = (capacity / 4).clamp(MIN_DEFAULT, DEFAULT_LIMIT);
        Arc::new(Self { limit: limit.unwrap_or(default), taken: Mutex::default() })
    }

    /// Takes a place, and makes room for it if there is none. False beside it if there is still
    /// none, because all others have just come, or have sent something that was not read yet: that
    /// is not their fault.
    pub(crate) fn take(
        self: &Arc<Self>,
        source: Option<SourcePrefix>,
        connection: &Arc<Connection>,
    ) -> (LoginPlace, bool) {
        let mut taken = self.taken();
        let now = Instant::now();
        let is_within = taken.count < self.limit || taken.make_room(now);
        let waiting = Waiting { connection: Arc::clone(connection), since: now };
        taken.by_source.entry(source).or_default().push_back(waiting);
        taken.count += 1;
        (
            LoginPlace {
                places: Arc::clone(self),
                source,
                id: connection.id(),
                state: State::Held,
            },
            is_within,
        )
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Ends one connection; false if there is none that could be ended.
    fn make_room(&mut self, now: Instant) -> bool {
        let most = self.by_source.values().map(VecDeque::len).max().unwrap_or(0);
        let mut greedy: Vec<_> =
            self.by_source.iter().filter(|(_, places)| places.len() == most).collect();
        // Of several, the one that waits longest.
        greedy.sort_by_key(|(_, places)| places.front().map(|waiting| waiting.since));
        // Whoever has sent something waits for the server, and not the server for it.
        let victim = greedy.into_iter().find_map(|(source, places)| {
            let old = places
                .iter()
                .take_while(|waiting| now.saturating_duration_since(waiting.since) >= MIN_STAY);
            let index = old.enumerate().find_map(|(index, waiting)| {
                (waiting.connection.readable_bytes() == 0).then_some(index)
            })?;
            Some((*source, index))
        });
        let Some((source, index)) = victim else { return false };
        if let Some(Waiting { connection, .. }) = self.remove(source, |places| places.remove(index))
        {
            let text = Rejection::LoginCrowd.line();
            // A new socket accepts one line, and nothing more can be done.
            let _ = connection.write(&[IoSlice::new(text.as_bytes())]);
            // Wakes its reader.
            connection.close();
        }
        true
    }

    fn remove_by_id(&mut self, source: Option<SourcePrefix>, id: ConnectionId) -> Option<Waiting> {
        self.remove(source, |places| {
            let index = places.iter().position(|waiting| waiting.connection.id() == id)?;
            places.remove(index)
        })
    }

    fn remove(
        &mut self,
        source: Option<SourcePrefix>,
        take: impl FnOnce(&mut VecDeque<Waiting>) -> Option<Waiting>,
    ) -> Option<Waiting> {
        let places = self.by_source.get_mut(&source)?;
        let removed = take(places);
        if places.is_empty() {
            self.by_source.remove(&source);
        }
        self.count -= usize::from(removed.is_some());
        removed
    }
}

impl LoginPlace {
    /// Counts the connection among those of another source from now on: a proxy has said who its
    /// client is. It keeps its age.
    #[cfg(feature = "proxy")]
    pub(crate) fn move_to(&mut self, source: Option<SourcePrefix>) {
        let mut taken = self.places.taken();
        let Some(waiting) = taken.remove_by_id(self.source, self.id) else { return };
        let places = taken.by_source.entry(source).or_default();
        let index = places.partition_point(|other| other.since <= waiting.since);
        places.insert(index, waiting);
        taken.count += 1;
        drop(taken);
        self.source = source;
    }

    /// Gives the place back, unless it was lost before.
    pub(crate) fn give_back(&mut self) {
        if self.state == State::Held {
            let removed = self.places.taken().remove_by_id(self.source, self.id);
            self.state = if removed.is_some() { State::GivenBack } else { State::Lost };
        }
    }

    /// Whether another connection has got the place. If not, it is given back.
    pub(crate) fn is_lost(&mut self) -> bool {
        self.give_back();
        self.state == State::Lost
    }
}

impl Drop for LoginPlace {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(all(test, feature = "proxy"))]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::socket::peer::Peer;

    fn source(address: [u8; 4]) -> Option<SourcePrefix> {
        SourcePrefix::of(Peer::tcp(SocketAddr::from((address, 7))))
    }

    struct Stranger {
        place: LoginPlace,
        _client: UnixStream,
    }

    /// A connection of a proxy, which has said nothing yet.
    fn arrive(places: &Arc<LoginPlaces>, id: u64) -> Stranger {
        let (socket, client) = UnixStream::pair().expect("two descriptors");
        let peer = Peer::tcp(SocketAddr::from(([127, 0, 0, 1], 7)));
        let connection = Arc::new(Connection::new(ConnectionId(id), socket, peer));
        let (place, _) = places.take(None, &connection);
        Stranger { place, _client: client }
    }

    #[test]
    fn strangers_behind_a_proxy_make_room_by_their_own_addresses() {
        let places = LoginPlaces::new(Some(4), 100);
        let mut strangers: Vec<_> = (1..=4).map(|id| arrive(&places, id)).collect();
        // The oldest is alone at its address; the second of three is the first to say where it is.
        for (stranger, address) in [(2, 8), (1, 8), (0, 7), (3, 8)] {
            strangers[stranger].place.move_to(source([203, 0, 113, address]));
        }
        assert_eq!(places.taken().count, 4);
        let youngest = Instant::now();
        while youngest.elapsed() < MIN_STAY {
            thread::yield_now();
        }
        let newcomer = arrive(&places, 5);
        let lost: Vec<_> = strangers.iter_mut().map(|it| it.place.is_lost()).collect();
        assert_eq!(lost, [false, true, false, false], "the oldest of the address with the most");
        drop((strangers, newcomer));
        assert!(places.taken().by_source.is_empty() && places.taken().count == 0);
    }

    #[test]
    fn a_place_that_is_lost_is_not_found_again_by_moving() {
        let places = LoginPlaces::new(Some(1), 100);
        let mut stranger = arrive(&places, 1);
        let began = Instant::now();
        while began.elapsed() < MIN_STAY {
            thread::yield_now();
        }
        let newcomer = arrive(&places, 2);
        stranger.place.move_to(source([203, 0, 113, 7]));
        assert_eq!(places.taken().count, 1);
        assert!(stranger.place.is_lost());
        drop((stranger, newcomer));
        assert_eq!(places.taken().count, 0);
    }
}
