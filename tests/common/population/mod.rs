//! A population of clients of every character, and the model that checks what each of them saw:
//! message for message, against what was sent, the replies, the report, and the server's log of
//! each connection.
//!
//! A seat is a thread that runs one [`SessionPlan`] after another; a session is one connection.
//! Everything a session sends and intends is a function of the world's seed, its seat and its
//! number. Every message names its session and line number, so its recipient can check every byte
//! of it, and whether it was addressed to it. Only the timing, and therefore what the server does
//! at that moment, is up to the scheduler.
//!
//! Each session connects from its own loopback address, which identifies it in the log. The log
//! tells the model how many of its lines were accepted even when no notice could.

mod reply;
mod rooms;
mod client;
mod log_capture;
mod losses;
mod session_plan;
mod model;
mod presence;
mod line_generator;
mod streams;
mod transcript;
mod send_state;

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use a_chat::{Config, Report};
use crossbeam_channel::{Receiver, Sender};

use self::model::Stopped;
use self::session_plan::{SessionId, SessionPlan};
use self::transcript::Transcript;
use super::wire::{Transport, transport};
use super::{TestServer, table, wait_until};

pub use self::model::Verdict;

/// Names that no client uses, some of them invalid.
const UNKNOWN_NAMES: [&str; 4] = ["nobody", "no one", "C0", "c0!"];

/// A deadline that no round reaches.
const DISTANT: Duration = Duration::from_secs(3600);

/// A drain in which nothing moves for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// How often a drain's progress is checked.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The parameters of all sessions.
#[derive(Debug)]
pub struct World {
    pub seed: u64,
    /// Number of permanent seats, each with its own name.
    pub seats: usize,
    /// Number of additional seats that connect at shutdown, for one session each.
    pub storm: usize,
    pub profile: Profile,
    /// The longest line that the server accepts, in bytes.
    pub max_line: usize,
    /// The names of all seats, in order, then the unknown names.
    names: Vec<String>,
    by_name: HashMap<String, u16>,
}

/// How clients treat the server, and the server's patience with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Every client reads to the end, however slowly: nothing may be lost.
    Polite,
    /// Some clients close with unread data, or reset: their messages are lost.
    Rude,
    /// Some also stop reading forever, and the server's deadlines are short: anything may be lost,
    /// but all of it must be reported.
    Stubborn,
}

/// How the server is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A drain that ends on its own, or at its deadline.
    Drain,
    /// A drain that is forced to end after this time.
    Twice(Duration),
}

/// The clients of one server.
pub struct Population {
    world: Arc<World>,
    run: Arc<Run>,
    seats: Vec<JoinHandle<Vec<Transcript>>>,
    /// Dropped to start the storm.
    storm: Option<Sender<()>>,
}

/// Over a Unix socket, clients tell their addresses as a proxy does.
fn expecting_headers(config: Config) -> Config {
    #[cfg(feature = "proxy")]
    let config = config.proxy_from_unix(transport() == Transport::Unix);
    config
}

/// State shared by all seats.
struct Run {
    server: SocketAddr,
    /// The server may be shutting down: from now on it may refuse connections.
    stopping: AtomicBool,
    /// The server has reported: clients that never read may now read what their kernel holds.
    over: AtomicBool,
    connected_in_storm: AtomicUsize,
    /// Held for reading from a connect to the end of its PROXY header, and for writing while the
    /// shutdown begins: a connection without its header would be nobody's.
    connecting: RwLock<()>,
    /// Bytes sent from each connected address.
    sent: Mutex<HashMap<SocketAddrV4, Arc<AtomicU64>>>,
}

impl World {
    pub fn new(seed: u64, seats: usize, storm: usize, profile: Profile) -> Self {
        let max_line = fastrand::Rng::with_seed(seed).usize(6000..16_384);
        let names = (0..seats).map(|seat| format!("c{seat}"));
        let names = names.chain((0..storm).map(|seat| format!("s{seat}")));
        let names: Vec<_> = names.chain(UNKNOWN_NAMES.map(str::to_owned)).collect();
        let by_name = names.iter().cloned().zip(0..).collect();
        Self { seed, seats, storm, profile, max_line, names, by_name }
    }

    /// The limits of a server for this population.
    pub fn config(&self) -> Config {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let patient = expecting_headers(Config::default())
            .max_line(self.max_line)
            .window(if random.bool() { 256 * 1024 } else { random.usize(5000..100_000) })
            .linger(Duration::from_millis(random.u64(..200)))
            // Some clients send nothing until shutdown, which may take long to come on a busy
            // machine.
            .login_timeout(DISTANT)
            .stall_timeout(DISTANT)
            .drain_timeout(DISTANT);
        let window = patient.window;
        let few = (self.seats * 3 / 4).max(1);
        match self.profile {
            Profile::Polite | Profile::Rude => patient,
            Profile::Stubborn => patient
                .window(window / random.usize(1..50))
                .linger(Duration::from_millis(random.u64(..600)))
                .max_connections((random.u8(..4) == 0).then_some(few))
                .login_timeout(Duration::from_millis(random.u64(200..1000)))
                .stall_timeout(Duration::from_millis(random.u64(200..1000)))
                .drain_timeout(Duration::from_millis(random.u64(300..1500))),
        }
    }

    /// True if no deadline can expire, so only clients cause losses.
    fn is_patient(&self, stop: Stop) -> bool {
        self.profile != Profile::Stubborn && stop == Stop::Drain
    }

    /// A reproducible random generator for one choice of a session.
    fn random(&self, who: SessionId, topic: u64, number: u64) -> fastrand::Rng {
        let parts = [u64::from(who.seat), u64::from(who.session), topic, number];
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
    /// Starts all seats; each connects and acts on its own.
    pub fn start(server: SocketAddr, world: World) -> Self {
        log_capture::open();
        let run = Arc::new(Run {
            server,
            stopping: AtomicBool::new(false),
            over: AtomicBool::new(false),
            connected_in_storm: AtomicUsize::new(0),
            connecting: RwLock::default(),
            sent: Mutex::default(),
        });
        let (world, (storm, storm_signal)) = (Arc::new(world), crossbeam_channel::bounded(0));
        let seats = 0..u16::try_from(world.seats + world.storm).expect("few seats");
        let seats = seats.map(|seat| {
            let (world, run, storm_signal) =
                (Arc::clone(&world), Arc::clone(&run), storm_signal.clone());
            let thread = thread::Builder::new().name(format!("seat-{seat}")).stack_size(256 * 1024);
            thread.spawn(move || run_seat(seat, &world, &run, &storm_signal)).expect("a thread")
        });
        Self { seats: seats.collect(), world, run, storm: Some(storm) }
    }

    /// Starts the storm and waits until `count` of its clients have connected.
    pub fn storm(&mut self, count: usize) {
        drop(self.storm.take());
        wait_until("the storm", || self.run.connected_in_storm.load(SeqCst) >= count);
    }

    /// Shuts the server down, waits for its report and for all clients, and checks what they saw
    /// against each other and the report.
    pub fn stop(self, mut server: TestServer, how: Stop) -> (Report, Verdict) {
        let acknowledged = self.run.acknowledged();
        self.run.stopping.store(true, SeqCst);
        let stopped = Stopped { how, at: Instant::now(), acknowledged };
        let nobody_connects = self.run.connecting.write().unwrap_or_else(PoisonError::into_inner);
        server.handle.shutdown();
        drop(nobody_connects);
        if let Stop::Twice(after) = how {
            // Any moment will do.
            thread::sleep(after);
            server.handle.force();
        }
        let report = join(&mut server);
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

/// Waits for the report as long as the drain makes progress, however slowly: the server writes
/// messages, or clients acknowledge what it wrote.
fn join(server: &mut TestServer) -> Report {
    let (mut last, mut moved, mut checked) = (String::new(), Instant::now(), None);
    server.join_while(|server| {
        if checked.is_none_or(|checked: Instant| checked.elapsed() >= PROGRESS_INTERVAL) {
            checked = Some(Instant::now());
            let open = table().into_iter().filter(|entry| entry.local == server.address);
            let unacknowledged: u64 = open.map(|entry| entry.unacknowledged).sum();
            let state = format!("{:?}, {unacknowledged}", server.stats());
            if state != last {
                (last, moved) = (state, Instant::now());
            }
        }
        moved.elapsed() < STUCK_AFTER
    })
}

/// Runs one session after another; a storm's seat runs only one.
fn run_seat(seat: u16, world: &World, run: &Run, storm_signal: &Receiver<()>) -> Vec<Transcript> {
    let is_in_storm = usize::from(seat) >= world.seats;
    if is_in_storm {
        // No message is ever sent; the sender's end starts the storm.
        let _ = storm_signal.recv();
    }
    let sessions = (0..if is_in_storm { 1 } else { u32::MAX }).take_while(|_| !run.is_stopping());
    let sessions = sessions.map(|session| SessionPlan::of(world, SessionId { seat, session }));
    sessions.map_while(|session| client::run_session(world, run, session)).collect()
}

impl Run {
    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// The byte counts of all connections.
    fn live(&self) -> MutexGuard<'_, HashMap<SocketAddrV4, Arc<AtomicU64>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes from each address that have certainly reached the server's kernel.
    fn acknowledged(&self) -> HashMap<SocketAddrV4, u64> {
        // Counted first: bytes sent meanwhile only make the result smaller.
        let sent: Vec<_> = self.live().iter().map(|(at, sent)| (*at, sent.load(SeqCst))).collect();
        let table = table().into_iter().filter(|entry| entry.remote == self.server);
        let on_its_way = table.map(|entry| (entry.local, entry.unacknowledged));
        let on_its_way: HashMap<_, _> = on_its_way.collect();
        let certain = |(at, sent): (SocketAddrV4, u64)| {
            if transport() == Transport::Unix {
                // A write puts it there.
                return Some((at, sent));
            }
            let in_records = if transport() == Transport::Tls { 2 * 16 * 1024 } else { 0 };
            Some((at, sent.checked_sub(*on_its_way.get(&at.into())? + in_records)?))
        };
        sent.into_iter().filter_map(certain).collect()
    }
}
