//! The ingress thread. It owns the connection that this node's inbox is read by, gives what it reads to
//! the broker, and drops its sender to the broker once the node's own clients are released. After that
//! it reads acknowledgements only, until egress has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::cluster::egress::random;
use crate::cluster::engine::{Engine, EngineError, Entry, Life, LifeState, Wire};
use crate::cluster::link::{Link, Stop, time_to_answer};
use crate::cluster::ranges::Acknowledgement;

/// How long one look into the inbox waits for something. The socket is the client library's, so this
/// is also how long a shutdown may go unnoticed.
const WAIT: Duration = Duration::from_millis(100);

/// The same in the drain.
const DRAIN_WAIT: Duration = Duration::from_millis(5);

/// How long to wait before the engine is dialled again.
const DIAL_PAUSE: Duration = Duration::from_millis(50);

/// How long the engine may take to be connected to, and to answer.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(1);

/// What ingress gives to the broker.
#[derive(Debug)]
pub(crate) enum Arrival {
    Entries(Vec<Entry>),
    /// The engine has begun a new incarnation, or this node has to begin a new life in it.
    Enter(Box<Beginning>),
    /// The drain begins.
    Leave,
    /// The time for other nodes' last lines is over.
    ReleaseRegardless,
    /// Time has passed.
    Tick,
}

/// Where a node goes on.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) incarnation: Arc<str>,
    pub(crate) life: Life,
    /// The last delivery that ever left this node.
    pub(crate) sent: u64,
}

/// Gives an arrival to the broker.
pub(crate) type Deliver = Box<dyn FnMut(Arrival) + Send>;

/// The thread's state.
pub(crate) struct Ingress {
    engine: Arc<dyn Engine>,
    link: Arc<Link>,
    stop: Arc<dyn Stop>,
    node: String,
    life: Life,
    incarnation: Arc<str>,
    /// Up to where the inbox is read.
    position: String,
    wire: Option<Box<dyn Wire>>,
}

/// What the thread knows at its end.
#[derive(Debug, Default)]
pub(crate) struct IngressExit {
    /// What others acknowledged after the broker had ended.
    pub(crate) acknowledged: HashMap<Life, Acknowledgement, RandomState>,
    /// Deliveries that were held until then, and which life has them now.
    pub(crate) moved: Vec<(Life, Vec<u64>)>,
}

impl std::fmt::Debug for Ingress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingress").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Ingress {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        link: Arc<Link>,
        stop: Arc<dyn Stop>,
        life: Life,
        incarnation: Arc<str>,
    ) -> Self {
        let (node, position) = (life.node().to_owned(), "0-0".to_owned());
        Self { engine, link, stop, node, life, incarnation, position, wire: None }
    }

    /// The thread.
    pub(crate) fn run(mut self, deliver: Deliver) -> IngressExit {
        let later = self.read_until_released(deliver);
        let mut exit = IngressExit::default();
        exit.note(later);
        while !self.link.has_ended() {
            if let Ok(entries) = self.read(DRAIN_WAIT) {
                exit.note(entries);
            } else {
                self.wire = None;
                std::thread::sleep(DRAIN_WAIT);
            }
        }
        exit
    }

    /// Reads for the broker until its clients are released or its time is over; returns what came
    /// behind the release.
    fn read_until_released(&mut self, mut deliver: Deliver) -> Vec<Entry> {
        let (mut has_left, mut is_regardless) = (false, false);
        let mut last_tick = Instant::now();
        loop {
            let is_shutdown = self.stop.is_shutdown();
            if is_shutdown && !has_left {
                has_left = true;
                deliver(Arrival::Leave);
            }
            if is_shutdown && self.stop.routing_expired() {
                return Vec::new();
            }
            if is_shutdown && !is_regardless && self.stop.release_is_due() {
                is_regardless = true;
                deliver(Arrival::ReleaseRegardless);
            }
            if let Some(renewal) = self.link.take_renewal() {
                self.renew(renewal.incarnation, renewal.is_fenced, &mut deliver);
            }
            let wait = if is_shutdown { DRAIN_WAIT } else { WAIT };
            match self.read(wait) {
                Ok(mut entries) => {
                    let end = entries.iter().position(|entry| *entry == Entry::Released);
                    let later = end.map(|end| entries.split_off(end + 1));
                    if !entries.is_empty() {
                        deliver(Arrival::Entries(entries));
                    }
                    if let Some(later) = later {
                        return later;
                    }
                }
                Err(error) => {
                    log::debug!("the inbox cannot be read: {error}");
                    self.wire = None;
                    std::thread::sleep(if is_shutdown { DRAIN_WAIT } else { DIAL_PAUSE });
                }
            }
            if self.link.wants_ticks() && last_tick.elapsed() >= wait {
                last_tick = Instant::now();
                deliver(Arrival::Tick);
            }
        }
    }

    /// The broker has to enter a new incarnation, with a new life if this one was fenced.
    fn renew(&mut self, incarnation: Arc<str>, is_fenced: bool, deliver: &mut Deliver) {
        if is_fenced {
            self.life = new_life(&self.node);
        }
        "0-0".clone_into(&mut self.position);
        self.wire = None;
        self.incarnation = Arc::clone(&incarnation);
        let (life, sent) = (self.life.clone(), self.link.sent());
        deliver(Arrival::Enter(Box::new(Beginning { incarnation, life, sent })));
    }

    fn read(&mut self, wait: Duration) -> Result<Vec<Entry>, EngineError> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.dial()?,
        };
        let timeout = self.timeout();
        let entries = wire.read(&self.life, &mut self.position, wait, timeout)?;
        self.wire = Some(wire);
        for entry in &entries {
            if let Entry::Ping { counter } = entry {
                self.link.note_ping(*counter);
            }
        }
        Ok(entries)
    }

    fn timeout(&self) -> Duration {
        time_to_answer(&*self.stop, ENGINE_TIMEOUT)
    }

    fn dial(&mut self) -> Result<Box<dyn Wire>, EngineError> {
        let mut wire = self.engine.dial(self.timeout())?;
        let hello = wire.hello(&self.life, random())?;
        // What an engine has left of a former incarnation must not be read on. Egress finds that out
        // by itself, and asks the broker to enter.
        if hello.incarnation != self.incarnation {
            return Err(EngineError("it has begun anew".to_owned()));
        }
        if hello.state == Some(LifeState::Down) {
            return Err(EngineError("this life has ended".to_owned()));
        }
        Ok(wire)
    }
}

/// A new life of a node.
pub(crate) fn new_life(node: &str) -> Life {
    Life::new(&format!("{node}.{:016x}", random()))
}

impl IngressExit {
    fn note(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            match entry {
                Entry::Ack { from, text } => {
                    let told = Acknowledgement::parse(&text).unwrap_or_default();
                    self.acknowledged.entry(from).or_default().merge(&told);
                }
                Entry::Moved { life, numbers } => self.moved.push((life, numbers)),
                _ => {}
            }
        }
    }
}
