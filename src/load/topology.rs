//! Who sends to whom. No thread runs here.

use std::ops::Range;

/// One sender and all that it sends to, by their place among the clients.
#[derive(Clone, Debug)]
pub struct Route {
    /// The sender.
    pub from: usize,
    /// Its recipients.
    pub to: Vec<usize>,
}

/// How many clients there are, which of them send, and to whom. Those that no route names are
/// connected and quiet.
#[derive(Clone, Debug)]
pub struct Topology {
    /// How many are connected.
    pub clients: usize,
    /// One for each sender.
    pub routes: Vec<Route>,
    /// What all their names begin with.
    pub prefix: String,
}

impl Topology {
    /// Client `i` sends to client `count + i`.
    pub fn pairs(count: usize) -> Self {
        let routes = (0..count).map(|from| Route { from, to: vec![count + from] });
        Self::of(2 * count, routes)
    }

    /// Client 0 sends to all others.
    pub fn fan_out(count: usize) -> Self {
        Self::of(count + 1, [Route { from: 0, to: (1..=count).collect() }])
    }

    /// All send to the last.
    pub fn fan_in(count: usize) -> Self {
        let routes = (0..count).map(|from| Route { from, to: vec![count] });
        Self::of(count + 1, routes)
    }

    /// Each of the first `busy` clients sends to the next one of them.
    pub fn ring(busy: usize, clients: usize) -> Self {
        let routes = (0..busy).map(|from| Route { from, to: vec![(from + 1) % busy] });
        Self::of(clients, routes)
    }

    /// Clients that are only connected.
    pub fn quiet(clients: usize) -> Self {
        Self::of(clients, [])
    }

    fn of(clients: usize, routes: impl IntoIterator<Item = Route>) -> Self {
        Self { clients, routes: routes.into_iter().collect(), prefix: "c".to_owned() }
    }

    /// The same, and two more clients of which the first sends to the second.
    pub fn and_a_pair(mut self) -> Self {
        let (from, to) = (self.clients, vec![self.clients + 1]);
        self.routes.push(Route { from, to });
        self.clients += 2;
        self
    }

    /// A client's name, as wide as all others'.
    pub fn name(&self, client: usize) -> String {
        let width = (self.clients - 1).max(1).ilog10() as usize + 1;
        format!("{}{client:0width$}", self.prefix)
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        (0..self.clients).map(|client| self.name(client)).collect()
    }

    /// Which senders a client may get messages from: the least range that has them all.
    pub(super) fn senders_to(&self) -> Vec<Range<usize>> {
        let mut senders = vec![0..0; self.clients];
        for Route { from, to } in &self.routes {
            for recipient in to {
                let known = &mut senders[*recipient];
                let first = if known.start == known.end { *from } else { known.start.min(*from) };
                *known = first..known.end.max(from + 1);
            }
        }
        senders
    }

    /// How many deliveries are owed when each sender has sent one message.
    pub fn deliveries(&self) -> u64 {
        self.routes.iter().map(|route| route.to.len() as u64).sum()
    }

    /// True if messages go to many at a time.
    pub fn is_group(&self) -> bool {
        self.routes.iter().any(|route| route.to.len() > 1)
    }
}
