//! The egress thread. It owns the connection that commands go to the engine by, and what has no reply
//! yet; it ends when the broker and all writers have dropped their senders and the rest is said.
//!
//! One cycle brings what is queued and waits for the replies; meanwhile the next one gathers. So
//! batches grow with the load, and there is no timer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::cluster::engine::{
    Call, Command, Engine, EngineError, Entrance, Hello, Life, LifeState, Reply, Wire,
};
use crate::cluster::lease::{Leases, boot_time};
use crate::cluster::link::{LAST_WORDS, Link, Stop, time_to_answer};
use crate::cluster::options::Cluster;
use crate::cluster::orders::Order;
use crate::cluster::outbox::Outbox;
use crate::wire::name::Name;

/// The first and the longest pause before the engine is dialled again.
const DIAL_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How long the engine may take to answer, or to be connected to.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait before something is said again that the engine refused for the moment.
const RETRY: Duration = Duration::from_millis(50);

/// How long what is to be told to an origin may wait for more of it. Each time costs the engine a
/// script, and the origin a wake-up; all that waits for it are windows with room for many lines.
const MAX_TELL_DELAY: Duration = Duration::from_millis(1);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Egress {
    engine: Arc<dyn Engine>,
    link: Arc<Link>,
    stop: Arc<dyn Stop>,
    outbox: Outbox,
    wire: Option<OpenWire>,
    incarnation: Arc<str>,
    leases: Leases,
    lease: Duration,
    /// The counter of the last renewal, which ingress has to read before the next one.
    counter: u64,
    next_renewal: Instant,
    /// Since when something is to be told to an origin.
    tells_since: Option<Instant>,
    end: End,
    /// Not before this is anything said again.
    retry_at: Option<Instant>,
    backoff: Option<Duration>,
    /// The drain was noticed.
    is_stopping: bool,
    /// Since when this life has entered an incarnation that is not open.
    early_since: Option<Instant>,
    is_first: bool,
    /// What was held, if this was the last life. The engine is told to forget it then.
    left: Option<Left>,
}

struct OpenWire(Box<dyn Wire>);

impl std::fmt::Debug for OpenWire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenWire")
    }
}

/// What was held when the last life ended: whose it was, for whom, how many messages.
type Left = Vec<(Life, Name, u64)>;

/// What the thread knows at its end.
#[derive(Debug, Default)]
pub(crate) struct EgressExit {
    pub(crate) left: Left,
    /// The last delivery that was given to a connection.
    pub(crate) sent: u64,
}

/// What a round of calls came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Done,
    /// Nothing can be said at the moment.
    Wait,
}

/// How near the end of this life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// Nothing will come any more.
    LastWords,
    /// The engine may have been told.
    Told,
}

impl Egress {
    /// A thread for a life that begins: `hello` is what the engine said to its first connection.
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        link: Arc<Link>,
        stop: Arc<dyn Stop>,
        life: &Life,
        options: &Cluster,
        hello: &Hello,
    ) -> Self {
        let mut outbox = Outbox::new(life.clone());
        let entrance = Entrance {
            incarnation: Arc::clone(&hello.incarnation),
            fresh: true,
            state: LifeState::Here,
            names: Vec::new(),
            seats: Vec::new(),
            known: Vec::new(),
        };
        outbox.begin(entrance);
        Self {
            engine,
            link,
            stop,
            outbox,
            wire: None,
            incarnation: Arc::clone(&hello.incarnation),
            leases: Leases::new(options.lease, options.hold),
            lease: options.lease,
            counter: 0,
            next_renewal: Instant::now(),
            tells_since: None,
            end: End::Open,
            retry_at: None,
            backoff: None,
            is_stopping: false,
            early_since: None,
            is_first: options.first,
            left: None,
        }
    }

    /// The thread: brings orders to the engine until nobody can give any more, then the last words.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) -> EgressExit {
        let _ended_even_after_a_panic = EndOnDrop(Arc::clone(&self.link));
        loop {
            let now = Instant::now();
            let order = match self.next_turn(now) {
                Some(until) if until <= now => orders.try_recv().map_err(|error| match error {
                    crossbeam_channel::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    crossbeam_channel::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
                Some(until) => orders.recv_deadline(until),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(order) => {
                    self.outbox.take(order);
                    orders.try_iter().for_each(|order| self.outbox.take(order));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.turn();
        }
        self.last_words()
    }

    /// When there is something to do at the latest.
    fn next_turn(&mut self, now: Instant) -> Option<Instant> {
        let work_at = if self.outbox.is_paused() {
            self.outbox.entrance().map(|_| now)
        } else if self.outbox.has_commands() {
            Some(now)
        } else {
            self.tell_at(now)
        };
        let work = work_at.map(|at| self.retry_at.unwrap_or(at).max(at));
        let dial = self.wire.is_none().then(|| self.retry_at.unwrap_or(now));
        [work, dial, Some(self.next_renewal)].into_iter().flatten().min()
    }

    /// When origins have to be told, if there is anything to tell. In a drain that is at once: they
    /// wait for it.
    fn tell_at(&mut self, now: Instant) -> Option<Instant> {
        if !self.outbox.tells() {
            self.tells_since = None;
            return None;
        }
        let since = *self.tells_since.get_or_insert(now);
        let is_urgent = self.end != End::Open || self.stop.is_shutdown();
        Some(if is_urgent { now } else { since + MAX_TELL_DELAY })
    }

    /// One round with the engine, as far as it can be reached.
    fn turn(&mut self) {
        let now = Instant::now();
        if self.stop.is_shutdown() && !std::mem::replace(&mut self.is_stopping, true) {
            // Nodes that stop together must hear of each other soon, also if the engine was away
            // just before.
            self.retry_at = None;
        }
        if self.retry_at.is_some_and(|at| now < at) && now < self.next_renewal {
            return;
        }
        if self.wire.is_none() && self.retry_at.is_some_and(|at| now < at) {
            self.next_renewal = self.next_renewal.max(self.retry_at.unwrap_or(now));
            return;
        }
        self.retry_at = None;
        match self.converse(now) {
            Ok(Round::Done) => {
                if self.backoff.take().is_some() {
                    log::info!("the cluster's engine is reached again");
                }
                self.link.note_reachable(true);
            }
            Ok(Round::Wait) => self.retry_at = Some(Instant::now() + RETRY),
            Err(error) => {
                let pause =
                    self.backoff.map_or(DIAL_BACKOFF.0, |pause| (pause * 2).min(DIAL_BACKOFF.1));
                if self.backoff.is_none() {
                    log::warn!("the cluster's engine cannot be reached: {error}");
                }
                self.backoff = Some(pause);
                self.link.note_reachable(false);
                self.wire = None;
                self.retry_at = Some(Instant::now() + pause);
            }
        }
    }

    /// How long the engine may take for an answer now.
    fn timeout(&self) -> Duration {
        time_to_answer(&*self.stop, ENGINE_TIMEOUT.min(self.lease / 2))
    }

    fn converse(&mut self, now: Instant) -> Result<Round, EngineError> {
        if self.wire.is_none() {
            self.dial()?;
        }
        if let Some(round) = self.enter()? {
            return Ok(round);
        }
        let mut round = Round::Done;
        if now >= self.next_renewal {
            round = self.renew()?;
        }
        if self.outbox.is_paused() {
            return Ok(Round::Wait);
        }
        if round == Round::Done { self.bring() } else { Ok(round) }
    }

    fn dial(&mut self) -> Result<(), EngineError> {
        let timeout = self.timeout();
        let mut wire = self.engine.dial(timeout)?;
        let hello = wire.hello(&self.outbox.life, random())?;
        self.wire = Some(OpenWire(wire));
        let Hello { incarnation, open, state } = hello;
        let is_entering = self.outbox.entrance().is_some();
        let is_here = match state {
            None | Some(LifeState::Down) => self.end == End::Told,
            Some(state) => state != LifeState::Reaped,
        };
        if incarnation != self.incarnation {
            log::warn!("the cluster's engine has lost its data; entering again");
            self.outbox.pause();
            self.incarnation = Arc::clone(&incarnation);
            self.early_since = None;
            self.link.ask_to_enter(&incarnation, false);
        } else if !is_here && !is_entering && !self.outbox.is_paused() {
            self.fenced();
        }
        if open {
            self.early_since = None;
        }
        Ok(())
    }

    /// Others have gone on without this life: another one begins.
    fn fenced(&mut self) {
        log::error!("this node was silent for too long: the others have taken it for dead");
        self.outbox.pause();
        self.link.ask_to_enter(&self.incarnation, true);
    }

    fn call(&mut self, calls: &[Call<'_>]) -> Result<Vec<Reply>, EngineError> {
        let timeout = self.timeout();
        let Some(OpenWire(wire)) = &mut self.wire else {
            return Err(EngineError("not connected".to_owned()));
        };
        wire.run(&self.incarnation, &self.outbox.life, calls, timeout)
    }

    /// Says who this life is, if the engine is to be told; nothing else is said in that round.
    fn enter(&mut self) -> Result<Option<Round>, EngineError> {
        let Some(entrance) = self.outbox.entrance().cloned() else { return Ok(None) };
        if entrance.incarnation != self.incarnation {
            // It was made for an incarnation that is over; another one is on its way.
            self.outbox.drop_entrance();
            return Ok(Some(Round::Wait));
        }
        let last = self.outbox.ran();
        let reply = self.call(&[Call::Enter { entrance: &entrance, last }])?;
        let Some(reply) = reply.into_iter().next() else { return Ok(Some(Round::Wait)) };
        match reply {
            Reply::Done => {
                self.outbox.drop_entrance();
                self.counter = 0;
                self.link.note_ping(0);
                self.early_since = Some(Instant::now());
                self.next_renewal = Instant::now();
                Ok(Some(Round::Done))
            }
            Reply::Fenced => {
                self.outbox.drop_entrance();
                self.fenced();
                Ok(Some(Round::Wait))
            }
            Reply::Unknown => Err(EngineError("it has begun anew".to_owned())),
            reply => Err(EngineError(format!("it does not let this node enter: {reply:?}"))),
        }
    }

    /// Renews the lease, and looks after the others'.
    fn renew(&mut self) -> Result<Round, EngineError> {
        // A node that does not hear its own pings must not live: it would hold its names and
        // receive nothing.
        let hears = self.link.pinged() == self.counter;
        let reply = self.call(&[Call::Renew { ping: hears }])?;
        self.next_renewal = Instant::now() + self.leases.interval();
        let (open, lives) = match reply.into_iter().next() {
            Some(Reply::Lives { open, lives }) => (open, lives),
            Some(Reply::Unknown) => {
                self.wire = None;
                return Ok(Round::Wait);
            }
            reply => return Err(EngineError(format!("it does not renew the lease: {reply:?}"))),
        };
        let is_held = lives.iter().any(|(_, state, _)| *state == LifeState::Down);
        self.link.note_settled(open && !is_held);
        let own = lives.iter().find(|(life, ..)| *life == self.outbox.life);
        if let Some((_, _, counter)) = own {
            self.counter = *counter;
        }
        let now = Instant::now();
        if open {
            self.early_since = None;
            self.is_first = false;
        } else {
            let wait = if self.is_first { Duration::ZERO } else { self.lease };
            if self.early_since.is_some_and(|since| now.duration_since(since) >= wait) {
                self.call(&[Call::Open])?;
                // If the engine forgets, this node is not the first any more.
                self.is_first = false;
            } else {
                let soon = self.early_since.map_or(now + RETRY, |since| since + wait);
                self.next_renewal = self.next_renewal.min(soon.max(now + RETRY));
            }
            return Ok(Round::Done);
        }
        let due = self.leases.look(&self.outbox.life, &lives, boot_time());
        for (life, counter) in &due.reap {
            log::warn!("node {} is silent for too long, taking it for dead", life.node());
            self.call(&[Call::Reap { life, counter: *counter }])?;
        }
        for life in due.end_hold {
            if !self.stop.is_shutdown() {
                self.outbox.take(Order::Command(Command::EndHold { life }));
            }
        }
        Ok(Round::Done)
    }

    /// Brings what is queued.
    fn bring(&mut self) -> Result<Round, EngineError> {
        let now = Instant::now();
        let tells = self.tell_at(now).is_some_and(|at| at <= now);
        let cycle = self.outbox.next_cycle(tells);
        if tells {
            self.tells_since = None;
        }
        if cycle.commands == 0 && cycle.acks.is_empty() {
            return Ok(Round::Done);
        }
        // Before any of it can be on a wire.
        self.link.note_sent(self.outbox.sent());
        let overdue = self.leases.overdue(boot_time());
        let texts: Vec<_> =
            cycle.acks.iter().map(|(origin, told)| (origin, told.to_string())).collect();
        let mut calls: Vec<Call<'_>> =
            texts.iter().map(|(origin, text)| Call::Ack { origin, text }).collect();
        let commands = self.outbox.commands().take(cycle.commands);
        calls.extend(commands.map(|(number, command)| Call::Run {
            number,
            command,
            overdue: &overdue,
        }));
        let timeout = self.timeout();
        let Some(OpenWire(wire)) = &mut self.wire else {
            return Err(EngineError("not connected".to_owned()));
        };
        let replies = wire.run(&self.incarnation, &self.outbox.life, &calls, timeout);
        drop(calls);
        let replies = match replies {
            Ok(replies) => replies,
            Err(error) => {
                for (origin, told) in cycle.acks {
                    self.outbox.tell_again(origin, &told);
                }
                return Err(error);
            }
        };
        let mut replies = replies.into_iter();
        let mut refused = None;
        for ((origin, told), reply) in cycle.acks.into_iter().zip(replies.by_ref()) {
            if reply != Reply::Done {
                self.outbox.tell_again(origin, &told);
                refused = Some(reply);
            }
        }
        for reply in replies {
            if refused.is_none() && reply == Reply::Done {
                self.outbox.command_ran();
            } else {
                refused.get_or_insert(reply);
            }
        }
        match refused {
            None => Ok(Round::Done),
            Some(Reply::Unknown | Reply::Fenced) => {
                // The next connection is told why.
                self.wire = None;
                Ok(Round::Wait)
            }
            Some(Reply::Full | Reply::Early) => Ok(Round::Wait),
            Some(reply) => Err(EngineError(format!("it refuses a command: {reply:?}"))),
        }
    }

    /// Says what is left, and that this life ends.
    fn last_words(mut self) -> EgressExit {
        let started = Instant::now();
        self.end = End::LastWords;
        while !self.outbox.is_empty() && !self.outbox.is_paused() && !self.is_late(started) {
            self.turn();
            self.pause_until(self.last_word_at(started, Instant::now()));
        }
        if !self.outbox.is_paused() && self.outbox.is_empty() {
            while !self.is_late(started) {
                match self.end() {
                    Ok(true) => break,
                    Ok(false) => {
                        self.retry_at = Some(Instant::now() + RETRY);
                        self.pause_until(self.last_word_at(started, Instant::now()));
                        // Renews the lease, and opens the engine when it is time.
                        self.turn();
                    }
                    Err(error) => {
                        log::debug!("the end cannot be told to the cluster's engine: {error}");
                        self.wire = None;
                        self.retry_at = Some(Instant::now() + DIAL_BACKOFF.0);
                        self.pause_until(self.last_word_at(started, Instant::now()));
                    }
                }
            }
        }
        EgressExit { left: self.left.unwrap_or_default(), sent: self.outbox.sent() }
    }

    /// When the last word has to be said, if the first was begun then. It comes sooner if the stop is
    /// forced meanwhile.
    fn last_word_at(&self, started: Instant, now: Instant) -> Instant {
        let at_least = started + LAST_WORDS;
        match self.stop.time_left() {
            Some(left) => at_least.max(now + left),
            None => started + ENGINE_TIMEOUT,
        }
    }

    fn is_late(&self, started: Instant) -> bool {
        let now = Instant::now();
        now >= self.last_word_at(started, now)
    }

    fn pause_until(&mut self, deadline: Instant) {
        if let Some(at) = self.retry_at.take() {
            let until = at.min(deadline);
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Says that this life ends; false if nobody may say anything yet.
    fn end(&mut self) -> Result<bool, EngineError> {
        if self.wire.is_none() {
            self.dial()?;
        }
        if self.left.is_none() {
            let number = self.outbox.ran() + 1;
            let call = Call::Run { number, command: &Command::Down, overdue: " " };
            self.end = End::Told;
            match self.call(&[call])?.into_iter().next() {
                Some(Reply::Left(held)) => {
                    let counted = held.into_iter().map(|(origin, name, pieces)| {
                        let messages = pieces.iter().map(|piece| u64::from(piece.messages)).sum();
                        (origin, name, messages)
                    });
                    self.left = Some(counted.collect());
                }
                Some(Reply::Done | Reply::Unknown) => return Ok(true),
                Some(Reply::Early) => return Ok(false),
                reply => return Err(EngineError(format!("it refuses the end: {reply:?}"))),
            }
        }
        self.call(&[Call::Forget])?;
        Ok(true)
    }
}

/// 64 random bits, of the operating system's.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds its hashers from the operating system.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Tells ingress that nobody needs it any more.
#[derive(Debug)]
struct EndOnDrop(Arc<Link>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.note_end();
    }
}
