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
    /// Gives the place back, unless it was lost before.
    pub(crate) fn give_back(&mut self) {
        if self.state == State::Held {
            let removed = self.places.taken().remove(self.source, |places| {
                let index = places.iter().position(|waiting| waiting.connection.id() == self.id)?;
                places.remove(index)
            });
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
