//! One message in flight beside pairs of clients that send single messages at a fixed rate. The pairs
//! run on a thread of their own, which ends with the measurement; the rest on the caller's thread.

use std::thread;
use std::time::Duration;

use super::latency::PingPong;
use super::link::Target;
use super::open_loop::OpenLoop;
use super::protocol::Protocol;
use super::topology::Topology;
use super::{Aborted, Amount, Control, Error, Outcome};

/// Connected clients: the pairs, and two whose message is measured.
#[derive(Debug)]
pub struct Beside {
    pairs: OpenLoop,
    ping: PingPong,
    rate: f64,
}

impl Beside {
    /// Connects a topology whose last two clients are measured beside all others, which send `rate`
    /// messages a second in total. Texts are `size` bytes long, at least
    /// [`TIMED`](super::protocol::TIMED).
    ///
    /// # Errors
    ///
    /// As [`OpenLoop::connect`].
    pub fn connect(
        protocol: Protocol,
        target: &Target,
        topology: &Topology,
        size: usize,
        rate: f64,
        control: &Control,
    ) -> Result<Self, Error> {
        let mut others = topology.clone();
        others.clients -= 2;
        others.routes.pop();
        let pairs = OpenLoop::connect(protocol, target, &others, false, size, control)?;
        let ping = PingPong::connect(protocol, target, topology, size)?;
        Ok(Self { pairs, ping, rate })
    }

    /// Those of the pairs' messages over all runs, from when each was due.
    pub fn pairs_latencies(&self) -> &super::Latencies {
        &self.pairs.latencies
    }

    /// The latencies over all runs.
    pub fn latencies(&self) -> &super::Latencies {
        &self.ping.latencies
    }

    /// Sends this amount, one message at a time, while the pairs send theirs.
    ///
    /// # Errors
    ///
    /// If the server ends a connection, refuses a message or sends anything unexpected.
    ///
    /// # Panics
    ///
    /// If no thread can be spawned.
    pub fn run(&mut self, amount: Amount, control: &Control) -> Result<Outcome, Aborted> {
        let Self { pairs, ping, rate } = self;
        let measured = Control::default();
        let (ended, beside) = thread::scope(|scope| {
            let pairs_control = &measured;
            let pairs = move || pairs.run(Amount::Time(Duration::MAX), *rate, pairs_control);
            let thread = thread::Builder::new().name("pairs".to_owned());
            let thread = thread.spawn_scoped(scope, pairs).expect("a thread");
            let ended = ping.run(amount, control);
            pairs_control.stop();
            let beside = thread.join();
            (ended, beside.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let with = |outcome, beside| Outcome { beside: Some(Box::new(beside)), ..outcome };
        match (ended, beside) {
            (Ok(outcome), Ok(beside)) => Ok(with(outcome, beside)),
            (Ok(outcome), Err(Aborted { error, outcome: beside })) => {
                Err(Aborted { error, outcome: Box::new(with(outcome, *beside)) })
            }
            (Err(Aborted { error, outcome }), beside) => {
                let beside = beside.unwrap_or_else(|aborted| *aborted.outcome);
                Err(Aborted { error, outcome: Box::new(with(*outcome, beside)) })
            }
        }
    }
}
