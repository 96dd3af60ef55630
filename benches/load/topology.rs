//! Who sends to whom.

/// One sender and all that it sends to, by their place among the clients.
#[derive(Clone, Debug)]
pub struct Route {
    pub from: usize,
    pub to: Vec<usize>,
}

/// How many clients there are, which of them send, and to whom. Those that no route names are
/// connected and quiet.
#[derive(Clone, Debug)]
pub struct Topology {
    pub clients: usize,
    pub routes: Vec<Route>,
}

impl Topology {
    /// Client `i` sends to client `count + i`.
    pub fn pairs(count: usize) -> Self {
        let routes = (0..count).map(|from| Route { from, to: vec![count + from] });
        Self { clients: 2 * count, routes: routes.collect() }
    }

    /// Client 0 sends to all others.
    pub fn fan_out(count: usize) -> Self {
        Self { clients: count + 1, routes: vec![Route { from: 0, to: (1..=count).collect() }] }
    }

    /// All send to the last.
    pub fn fan_in(count: usize) -> Self {
        let routes = (0..count).map(|from| Route { from, to: vec![count] });
        Self { clients: count + 1, routes: routes.collect() }
    }

    /// Each of the first `busy` clients sends to the next one of them.
    pub fn ring(busy: usize, clients: usize) -> Self {
        let routes = (0..busy).map(|from| Route { from, to: vec![(from + 1) % busy] });
        Self { clients, routes: routes.collect() }
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
        format!("c{client:0width$}")
    }

    /// True if messages go to many at a time.
    pub fn is_group(&self) -> bool {
        self.routes.iter().any(|route| route.to.len() > 1)
    }
}
