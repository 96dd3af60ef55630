//! A population of clients of every character, and the model that says what each of them must have
//! seen: message for message, from what they sent, what they were answered, the report, and the
//! server's own log of each connection's end.
//!
//! A seat is a thread that lives one [`SessionPlan`] after the other; a life is one connection. All that a
//! life says and all that it intends is a function of the world's seed, its seat and its number.
//! Every message names the life that sent it and the number of its line, so whoever receives one
//! can tell to the byte what it has to be, and whether it was meant for it. When a life happens to
//! do what, and so what a server does at that moment, is up to the scheduler.
//!
//! Each life connects from a loopback address of its own, by which the log names it. From there
//! the model knows how many of its lines were accepted also where no notice could say so.

mod answer;
mod client;
mod journal;
mod life;
mod model;
mod presence;
mod speech;
mod streams;
mod transcript;
mod voice;

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use a_chat::{Config, Report};
use crossbeam_channel::{Receiver, Sender};

use self::life::{SessionPlan, Who};
use self::model::Stopped;
use self::transcript::Transcript;
use super::{TestServer, table, wait_until};

pub use self::model::Verdict;

/// Names that nobody has, some of which nobody could have.
const STRANGERS: [&str; 4] = ["nobody", "no one", "C0", "c0!"];

/// How long a drain may take that no deadline ends: many clients have sent much.
const END: Duration = Duration::from_secs(120);

/// What all lives are functions of.
#[derive(Debug)]
pub struct World {
    pub seed: u64,
    /// How many seats there are all the time, each with a name that is its own by right.
    pub seats: usize,
    /// How many more come at the stop, for one life each.
    pub storm: usize,
    pub manners: Profile,
    /// The longest line that the server takes, in bytes.
    pub max_line: usize,
    /// Everybody's names, seat by seat, then those of the strangers.
    names: Vec<String>,
    by_name: HashMap<String, u16>,
}

/// How clients treat the server, and the server them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Everyone reads to the end, be it slowly: nothing may get lost.
    Polite,
    /// Some close with something unread, or reset: what is due to them gets lost.
    Rude,
    /// And some stop reading for ever, and the server's deadlines are near: anything may get lost,
    /// but nothing unheard of.
    Stubborn,
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A drain that ends by itself, or at its deadline.
    Drain,
    /// A drain that is forced to end after this time.
    Twice(Duration),
}

/// Clients of one server.
pub struct Population {
    world: Arc<World>,
    run: Arc<Run>,
    seats: Vec<JoinHandle<Vec<Transcript>>>,
    /// Dropped to let those come who come at the stop.
    storm: Option<Sender<()>>,
}

/// What all seats share.
struct Run {
    server: SocketAddr,
    /// The server may have been told to stop: from now on it may refuse to be connected to.
    stopping: AtomicBool,
    /// The server has reported: who does not read for ever may read what its kernel holds.
    over: AtomicBool,
    connected_in_storm: AtomicUsize,
    /// How many bytes were sent from the addresses that are connected.
    sent: Mutex<HashMap<SocketAddrV4, Arc<AtomicU64>>>,
}

impl World {
    pub fn new(seed: u64, seats: usize, storm: usize, manners: Profile) -> Self {
        let max_line = fastrand::Rng::with_seed(seed).usize(6000..16_384);
        let names = (0..seats).map(|seat| format!("c{seat}"));
        let names = names.chain((0..storm).map(|seat| format!("s{seat}")));
        let names: Vec<_> = names.chain(STRANGERS.map(str::to_owned)).collect();
        let by_name = names.iter().cloned().zip(0..).collect();
        Self { seed, seats, storm, manners, max_line, names, by_name }
    }

    /// The limits of a server for this population.
    pub fn config(&self) -> Config {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let patient = Config {
            max_line: self.max_line,
            window: if random.bool() { 256 * 1024 } else { random.usize(5000..100_000) },
            linger: Duration::from_millis(random.u64(..200)),
            // Some say nothing until the stop, and on a busy machine that is long to come.
            login_timeout: 2 * END,
            stall_timeout: 2 * END,
            drain_timeout: 2 * END,
            ..Config::default()
        };
        let few = (self.seats * 3 / 4).max(1);
        match self.manners {
            Profile::Polite | Profile::Rude => patient,
            Profile::Stubborn => Config {
                window: patient.window / random.usize(1..50),
                linger: Duration::from_millis(random.u64(..600)),
                max_connections: (random.u8(..4) == 0).then_some(few),
                login_timeout: Duration::from_millis(random.u64(200..1000)),
                stall_timeout: Duration::from_millis(random.u64(200..1000)),
                drain_timeout: Duration::from_millis(random.u64(300..1500)),
                ..patient
            },
        }
    }

    /// True if no deadline can have come, so that nothing is lost but by clients' own doing.
    fn is_patient(&self, stop: Stop) -> bool {
        self.manners != Profile::Stubborn && stop == Stop::Drain
    }

    /// Chance, the same in each run: about something of which somebody has many.
    fn random(&self, who: Who, topic: u64, number: u64) -> fastrand::Rng {
        let parts = [u64::from(who.seat), u64::from(who.life), topic, number];
        let mix = |seed: u64, part: u64| {
            (seed ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        };
        fastrand::Rng::with_seed(parts.into_iter().fold(self.seed, mix))
    }

    fn name(&self, name: u16) -> &str {
        &self.names[usize::from(name)]
    }

    fn find(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }
}

impl Population {
    /// Takes the seats; everyone connects, and acts, on its own.
    pub fn start(server: SocketAddr, world: World) -> Self {
        journal::open();
        let run = Arc::new(Run {
            server,
            stopping: AtomicBool::new(false),
            over: AtomicBool::new(false),
            connected_in_storm: AtomicUsize::new(0),
            sent: Mutex::default(),
        });
        let (world, (storm, calm)) = (Arc::new(world), crossbeam_channel::bounded(0));
        let seats = 0..u16::try_from(world.seats + world.storm).expect("few seats");
        let seats = seats.map(|seat| {
            let (world, run, calm) = (Arc::clone(&world), Arc::clone(&run), calm.clone());
            let thread = thread::Builder::new().name(format!("seat-{seat}")).stack_size(256 * 1024);
            thread.spawn(move || take_seat(seat, &world, &run, &calm)).expect("a thread")
        });
        Self { seats: seats.collect(), world, run, storm: Some(storm) }
    }

    /// Lets those come who come at the stop, all at once; waits until so many have connected.
    pub fn storm(&mut self, count: usize) {
        drop(self.storm.take());
        wait_until("the storm", || self.run.connected_in_storm.load(SeqCst) >= count);
    }

    /// Stops the server, waits for its report and all clients' ends, which the server's end brings
    /// about, and checks what they saw against each other and against the report.
    pub fn stop(self, mut server: TestServer, how: Stop) -> (Report, Verdict) {
        let acknowledged = self.run.acknowledged();
        self.run.stopping.store(true, SeqCst);
        let stopped = Stopped { how, at: Instant::now(), acknowledged };
        server.handle.shutdown();
        if let Stop::Twice(after) = how {
            // Any moment will do.
            thread::sleep(after);
            server.handle.force();
        }
        let report = server.join_within(END);
        self.run.over.store(true, SeqCst);
        let ended = || self.seats.iter().all(JoinHandle::is_finished);
        wait_until("all clients to see the end", ended);
        let seen = self.seats.into_iter().map(JoinHandle::join).collect::<Result<Vec<_>, _>>();
        let seen = seen.expect("a client saw no fault").into_iter().flatten();
        let verdict = model::check(&self.world, seen, &stopped, &report);
        let stats = server.stats();
        assert_eq!((stats.connected, stats.queued_bytes), (0, 0), "{stats:?}");
        assert_eq!((stats.accepted, stats.owed), (report.accepted, report.owed), "{stats:?}");
        assert_eq!((stats.delivered, stats.lost), (report.delivered, report.lost()), "{stats:?}");
        (report, verdict)
    }
}

/// Lives one life after the other; or one only, if this is a seat that is taken at the stop.
fn take_seat(seat: u16, world: &World, run: &Run, calm: &Receiver<()>) -> Vec<Transcript> {
    let is_in_storm = usize::from(seat) >= world.seats;
    if is_in_storm {
        // Nothing is ever sent; the wait ends with the calm.
        let _ = calm.recv();
    }
    let lives = (0..if is_in_storm { 1 } else { u32::MAX }).take_while(|_| !run.is_stopping());
    let lives = lives.map(|life| SessionPlan::of(world, Who { seat, life }));
    lives.map_while(|life| client::live(world, run, life)).collect()
}

impl Run {
    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// The connections' counts of what is sent.
    fn live(&self) -> MutexGuard<'_, HashMap<SocketAddrV4, Arc<AtomicU64>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the bytes sent from each address the server's kernel has surely got by now.
    fn acknowledged(&self) -> HashMap<SocketAddrV4, u64> {
        // Counted first: what is sent meanwhile only makes the rest of these smaller.
        let sent: Vec<_> = self.live().iter().map(|(at, sent)| (*at, sent.load(SeqCst))).collect();
        let table = table().into_iter().filter(|entry| entry.remote == self.server);
        let on_its_way = table.map(|entry| (entry.local, entry.unacknowledged));
        let on_its_way: HashMap<_, _> = on_its_way.collect();
        let certain = |(at, sent): (SocketAddrV4, u64)| {
            Some((at, sent.checked_sub(*on_its_way.get(&at.into())?)?))
        };
        sent.into_iter().filter_map(certain).collect()
    }
}
