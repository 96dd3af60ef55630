//! The wiring of a node: the state that its broker owns, and how `ingress` and `egress` are spawned and
//! joined, on the server's own thread. The broker's part in a cluster is in `broker/nodes.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use foldhash::fast::RandomState;

use crate::cluster::egress::{Egress, EgressExit, random};
use crate::cluster::engine::{Engine, Hello, Life, Recipient};
use crate::cluster::ingress::{Arrival, Deliver, Ingress, IngressExit, new_life};
use crate::cluster::link::{Counts, Link, Stop};
use crate::cluster::node::Node;
use crate::cluster::options::Cluster;
use crate::cluster::orders::Order;
use crate::error::Error;
use crate::server::cluster_report::{NodeLoss, NodeLossReason, RoomCopies};
use crate::server::context::{Shared, spawn_stage};
use crate::server::delivery::pending::{ChargedFrames, Pending};
use crate::server::delivery::ticket::Ticket;
use crate::server::delivery::token::Share;
use crate::server::delivery::window::{Held, Permit, Window};
use crate::server::elsewhere::Elsewhere;
use crate::server::report::NodeTotals;
use crate::server::shutdown::{Phase, ShutdownHandle};
use crate::server::stats::Counters;
use crate::socket::connection::ConnectionId;
use crate::wire::room::{Room, RoomSize};

/// How long the engine may take to answer when the server starts.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// How many losses are kept by name; they are all counted.
const MAX_NAMED: usize = 1_000;

/// The broker's part.
#[derive(Debug)]
pub(crate) struct Clustered {
    pub(crate) node: Node<Pending, Arc<ChargedFrames>>,
    pub(crate) orders: Sender<Order>,
    pub(crate) link: Arc<Link>,
    /// Which lines wait for an answer of the engine, and how it is told.
    pub(crate) questions: HashMap<u64, Question, RandomState>,
    /// Senders at other nodes.
    pub(crate) elsewhere: Elsewhere,
    /// Clients that have got something from other nodes since they were last asked about it.
    pub(crate) to_ask: VecDeque<usize>,
    /// Held by everything that arrived and is not written.
    pub(crate) in_hand: Arc<()>,
    /// Clients that have asked with `/sync` whether everything is delivered.
    pub(crate) syncs: HashMap<ConnectionId, Share, RandomState>,
    /// The clients that wait for room, by recipient.
    pub(crate) waiting: HashMap<Recipient, VecDeque<ConnectionId>, RandomState>,
    /// The charge for what other nodes have handed over.
    pub(crate) arrivals: Arc<Window>,
    /// How long a login waits for the engine.
    pub(crate) login_timeout: Duration,
    pub(crate) lost: Lost,
}

/// A line that the engine has to be asked about.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) line: u64,
    pub(crate) about: About,
    pub(crate) permit: Arc<Permit>,
}

#[derive(Debug)]
pub(crate) enum About {
    /// `/who`, with its names.
    Clients(Vec<Vec<u8>>),
    /// `/who #dev`.
    Members(Room),
    /// `/join #dev`: the client's reader waits for the answer.
    Join(Room, Ticket<RoomSize>, RoomSize),
}

/// What this node has lost of what others handed over, and what it has to name.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    pub(crate) before_drain: u64,
    pub(crate) in_drain: u64,
    in_doubt_in_drain: u64,
    /// Those of the lost that no sender was told of.
    untold: u64,
    named: Vec<NodeLoss>,
}

impl Lost {
    /// Counts and names what was lost, or is in doubt. Copies of rooms' messages have sums of their
    /// own.
    pub(crate) fn note(&mut self, loss: NodeLoss, is_drain: bool, is_told: bool) {
        let is_in_doubt = loss.reason == NodeLossReason::InDoubt;
        if !is_told && loss.room.is_none() && !is_in_doubt {
            self.untold += loss.messages;
        }
        match (is_in_doubt, is_drain) {
            (true, true) => self.in_doubt_in_drain += loss.messages,
            (true, false) => {}
            _ if loss.room.is_some() => {}
            (_, true) => self.in_drain += loss.messages,
            (_, false) => self.before_drain += loss.messages,
        }
        // The broker logs it, and routes nothing meanwhile.
        if self.named.len() < MAX_NAMED {
            log::warn!("{loss}");
            self.named.push(loss);
            if self.named.len() == MAX_NAMED {
                log::warn!("further losses in the cluster are only counted");
            }
        }
    }
}

/// Held by everything that is queued of a delivery from another node: dropping it tells the origin.
#[derive(Debug)]
pub(crate) struct ArrivedToken {
    pub(crate) orders: Sender<Order>,
    pub(crate) origin: Life,
    pub(crate) number: u64,
    #[expect(dead_code, reason = "it is held, not read")]
    pub(crate) in_hand: Arc<()>,
}

impl Held for ArrivedToken {}

impl Drop for ArrivedToken {
    fn drop(&mut self) {
        let order = Order::Settled { origin: self.origin.clone(), number: self.number };
        // Fails only if egress has panicked: then the origin cannot be told.
        let _ = self.orders.send(order);
    }
}

impl Clustered {
    /// The charge for a delivery of another node.
    pub(crate) fn charge(&self, origin: Life, number: u64, bytes: usize) -> Permit {
        let in_hand = Arc::clone(&self.in_hand);
        let token = ArrivedToken { orders: self.orders.clone(), origin, number, in_hand };
        self.arrivals.charge_for(bytes, Box::new(token))
    }

    pub(crate) fn flush(&mut self) {
        for order in self.node.take_orders() {
            // Fails only if egress has panicked, which ends the server.
            let _ = self.orders.send(order);
        }
        let tally = self.node.tally().clients;
        self.link.note_counts(Counts {
            arrived: self.node.arrived(),
            handed_over: tally.handed_over,
            in_doubt: tally.in_doubt,
            unsettled_bytes: self.node.outgoing.budget.total() as u64,
        });
        let is_busy = !self.to_ask.is_empty() || Arc::strong_count(&self.in_hand) > 1;
        self.link.want_ticks(self.node.wants_ticks() || is_busy);
    }
}

/// A cluster whose engine has answered.
#[derive(Debug)]
pub(crate) struct Ready {
    options: Cluster,
    engine: Arc<dyn Engine>,
    life: Life,
    hello: Hello,
    link: Arc<Link>,
}

impl Ready {
    /// Finds the engine, and checks that it can be used.
    pub(crate) fn new(options: Cluster, counters: &Counters) -> Result<Self, Error> {
        let refused =
            |error: crate::cluster::engine::EngineError| Error::Cluster(error.to_string());
        let engine = options.engine()?;
        if let Some(warning) = engine.check(START_TIMEOUT).map_err(refused)? {
            log::warn!("{warning}");
        }
        let life = new_life(options.node.as_str());
        let mut wire = engine.dial(START_TIMEOUT).map_err(refused)?;
        let hello = wire.hello(&life, random()).map_err(refused)?;
        // From here on whoever asks is told that this node may have to wait for others.
        let link = Arc::new(Link::default());
        let _ = counters.link.set(Arc::clone(&link));
        Ok(Self { options, engine: Arc::new(engine), life, hello, link })
    }
}

/// The threads beside the broker.
#[derive(Debug)]
pub(crate) struct Threads {
    ingress: JoinHandle<IngressExit>,
    egress: JoinHandle<EgressExit>,
}

/// Spawns `ingress` and `egress`, and returns the broker's part; nothing without a cluster.
///
/// `ingress` gets a sender to the broker, which thus goes on when its readers are gone.
pub(crate) fn start<E: From<Arrival> + Send + 'static>(
    ready: Option<Ready>,
    shared: &Arc<Shared>,
    broker: &Sender<E>,
) -> Result<(Option<Box<Clustered>>, Option<Threads>), Error> {
    let Some(Ready { options, engine, life, hello, link }) = ready else {
        return Ok((None, None));
    };
    let (orders, inbox) = unbounded();
    let shutdown = &shared.shutdown;
    let stop: Arc<dyn Stop> = Arc::new(shutdown.clone());
    let egress = Egress::new(
        Arc::clone(&engine),
        Arc::clone(&link),
        Arc::clone(&stop),
        &life,
        &options,
        &hello,
    );
    let ingress =
        Ingress::new(engine, Arc::clone(&link), stop, life.clone(), Arc::clone(&hello.incarnation));
    log::info!("node {} of its cluster, life {life}", options.node.as_str());
    let broker = broker.clone();
    let deliver: Deliver = Box::new(move |arrival| {
        // Fails only if the broker has panicked, which ends the server.
        let _ = broker.send(E::from(arrival));
    });
    let ingress = spawn_stage("ingress", shutdown, move || ingress.run(deliver))?;
    let clustered = Clustered {
        node: Node::new(life),
        orders,
        link: Arc::clone(&link),
        questions: HashMap::default(),
        elsewhere: Elsewhere::default(),
        to_ask: VecDeque::new(),
        in_hand: Arc::default(),
        syncs: HashMap::default(),
        waiting: HashMap::default(),
        arrivals: Arc::new(Window::new(usize::MAX, Arc::clone(&shared.counters))),
        login_timeout: options.lease.min(shared.config.login_timeout),
        lost: Lost::default(),
    };
    match spawn_stage("egress", shutdown, move || egress.run(&inbox)) {
        Ok(egress) => Ok((Some(Box::new(clustered)), Some(Threads { ingress, egress }))),
        Err(error) => {
            shutdown.force();
            link.note_end();
            let _ = ingress.join();
            Err(error)
        }
    }
}

/// Ends and joins both threads of a server that could not start.
pub(crate) fn abandon(threads: Option<Threads>, shutdown: &ShutdownHandle) {
    if let Some(Threads { ingress, egress }) = threads {
        // The broker has dropped its sender, so egress says that this life ends. Ingress would wait for
        // a release that is not asked for.
        let _ = egress.join();
        shutdown.force();
        let _ = ingress.join();
    }
}

/// What the broker left, or why it did not; and what that makes of the node.
pub(crate) type Joined = (std::thread::Result<()>, Result<Option<NodeTotals>, Error>);

/// Joins both threads behind the broker.
pub(crate) fn join(
    threads: Option<Threads>,
    broker: std::thread::Result<Option<Remains>>,
) -> Joined {
    let (broker, remains) = match broker {
        Ok(remains) => (Ok(()), remains),
        Err(panic) => (Err(panic), None),
    };
    let Some(threads) = threads else { return (broker, Ok(None)) };
    (broker, threads.join(remains).map(Some))
}

/// The broker's part once the broker has ended: accounts without threads.
#[derive(Debug)]
pub(crate) struct Remains {
    node: Node<Pending, Arc<ChargedFrames>>,
    lost: Lost,
}

impl Clustered {
    /// Drops the broker's sender to egress.
    pub(crate) fn end(self) -> Remains {
        Remains { node: self.node, lost: self.lost }
    }
}

impl Threads {
    /// Joins both threads, and makes the report from what they and the broker have left.
    pub(crate) fn join(self, remains: Option<Remains>) -> Result<NodeTotals, Error> {
        let (egress, ingress) = (self.egress.join(), self.ingress.join());
        let egress = egress.map_err(|_| Error::Panicked { thread: "egress" })?;
        let ingress = ingress.map_err(|_| Error::Panicked { thread: "ingress" })?;
        let mut totals = NodeTotals::default();
        let Some(Remains { mut node, mut lost }) = remains else { return Ok(totals) };
        for (life, numbers) in &ingress.moved {
            node.outgoing.moved(life, numbers);
        }
        for (life, told) in &ingress.acknowledged {
            node.outgoing.acknowledged(life, told);
        }
        let (unsettled, unconfirmed) = node.finish(egress.sent);
        for unsettled in unsettled {
            lost.note(NodeLoss::of(&unsettled), true, false);
        }
        let report = &mut totals.report;
        for (origin, name, messages) in egress.left {
            report.arrived += messages;
            lost.note(NodeLoss::held(name, origin.node(), messages), true, false);
        }
        let tally = node.tally();
        report.life = node.life().to_string();
        report.arrived += node.arrived();
        report.handed_over = tally.clients.handed_over;
        report.in_doubt = tally.clients.in_doubt;
        report.room_copies = RoomCopies {
            arrived: node.room_copies(),
            handed_over: tally.rooms.handed_over,
            in_doubt: tally.rooms.in_doubt,
            lost: tally.rooms.lost,
        };
        report.in_doubt_in_drain = lost.in_doubt_in_drain;
        report.losses = lost.named;
        let named = unconfirmed.into_iter().map(|(place, messages)| {
            (place.map_or_else(|| "held".to_owned(), |life| life.to_string()), messages)
        });
        report.unconfirmed = named.collect();
        totals.owed = tally.clients.owed;
        totals.lost_before_drain = lost.before_drain;
        totals.lost_in_drain = lost.in_drain;
        totals.lost_untold = lost.untold;
        Ok(totals)
    }
}

impl Stop for ShutdownHandle {
    fn is_shutdown(&self) -> bool {
        Self::is_shutdown(self)
    }

    fn release_is_due(&self) -> bool {
        self.release_expired()
    }

    fn routing_expired(&self) -> bool {
        Self::routing_expired(self)
    }

    fn time_left(&self) -> Option<Duration> {
        match self.phase() {
            Phase::Running => None,
            Phase::Draining => {
                let now = std::time::Instant::now();
                let left = self.deadline().map(|at| at.saturating_duration_since(now));
                Some(left.unwrap_or_default())
            }
            Phase::Forced => Some(Duration::ZERO),
        }
    }
}
