//! The graph of senders and recipients. Plain data.

use std::ops::Range;

use super::link::Target;
use super::tokens;

/// One sender and its recipients, by their index among the clients.
#[derive(Clone, Debug)]
pub struct Route {
    /// The sender.
    pub from: usize,
    /// Its recipients.
    pub to: Vec<usize>,
}

/// The clients, and which of them send to whom. Clients on no route are connected and idle.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The number of clients.
    pub clients: usize,
    /// One route per sender.
    pub routes: Vec<Route>,
    /// The prefix of all client names.
    pub prefix: String,
    /// All clients are in one room, and send to it.
    pub is_room: bool,
    /// Further servers of the same cluster, over which the clients are spread.
    pub others: Vec<Target>,
}

/// The room of a topology whose clients are in one.
pub const ROOM: &str = "#all";

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

    /// All clients send to the last one.
    pub fn fan_in(count: usize) -> Self {
        let routes = (0..count).map(|from| Route { from, to: vec![count] });
        Self::of(count + 1, routes)
    }

    /// Every client sends to all others, in one room. `echoes` says whether the server sends clients
    /// what they send themselves, too.
    pub fn room(clients: usize, echoes: bool) -> Self {
        let others = |from| (0..clients).filter(|&to| echoes || to != from).collect();
        let routes = (0..clients).map(|from| Route { from, to: others(from) });
        Self { is_room: true, ..Self::of(clients, routes) }
    }

    /// Each of the first `busy` clients sends to the next one, in a ring.
    pub fn ring(busy: usize, clients: usize) -> Self {
        let routes = (0..busy).map(|from| Route { from, to: vec![(from + 1) % busy] });
        Self::of(clients, routes)
    }

    /// Clients that are connected and idle.
    pub fn quiet(clients: usize) -> Self {
        Self::of(clients, [])
    }

    fn of(clients: usize, routes: impl IntoIterator<Item = Route>) -> Self {
        let routes = routes.into_iter().collect();
        Self { clients, routes, prefix: "c".to_owned(), is_room: false, others: Vec::new() }
    }

    /// Adds two clients, the first of which sends to the second.
    pub fn with_pair(mut self) -> Self {
        let (from, to) = (self.clients, vec![self.clients + 1]);
        self.routes.push(Route { from, to });
        self.clients += 2;
        self
    }

    /// The server that a client connects to, where `first` is the first of them: a neighbour's next one
    /// in a ring, and another one than its only sender's.
    pub(super) fn server<'a>(&'a self, first: &'a Target, client: usize) -> &'a Target {
        if self.others.is_empty() {
            return first;
        }
        let only_sender =
            self.routes.iter().find(|route| route.to == [client] && route.from < client);
        let place = only_sender.map_or(client, |route| route.from + 1) % (1 + self.others.len());
        if place == 0 { first } else { &self.others[place - 1] }
    }

    /// A client's name; all names have the same width.
    pub fn name(&self, client: usize) -> String {
        if let Some(name) = tokens::name(client) {
            return name.to_string();
        }
        let width = (self.clients - 1).max(1).ilog10() as usize + 1;
        format!("{}{client:0width$}", self.prefix)
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        (0..self.clients).map(|client| self.name(client)).collect()
    }

    /// The smallest range that contains all senders of each client.
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

    /// Deliveries owed once each sender has sent one message.
    pub fn deliveries(&self) -> u64 {
        self.routes.iter().map(|route| route.to.len() as u64).sum()
    }

    /// True if messages have several recipients.
    pub fn is_group(&self) -> bool {
        self.routes.iter().any(|route| route.to.len() > 1)
    }
}
