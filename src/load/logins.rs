//! Logins: clients connect, send their name and a message to themselves, and stay connected once
//! that message has arrived. Runs on the caller's thread alone.

use std::io::Write;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;

use super::check::{refusal, unexpected};
use super::client::connect;
use super::control::Budget;
use super::link::{Link, Target, is_passing};
use super::open_loop::Schedule;
use super::protocol::{Handshake, Protocol, STAMP};
use super::readable::Readable;
use super::topology::Topology;
use super::{ARRIVAL_TIMEOUT, Aborted, Amount, Control, Error, Latencies, Outcome, TICK};

/// Length of a frame, in bytes.
pub fn frame(protocol: Protocol, topology: &Topology, size: usize) -> usize {
    let name = topology.name(0);
    protocol.frame(&name, &name, size).stride
}

/// A client that is logging in.
#[derive(Debug)]
struct Login {
    socket: Link,
    started: Instant,
    /// What the server has sent so far.
    reply: Vec<u8>,
    /// What the server must send; empty once it has.
    expected: Vec<u8>,
    /// It may send other lines before that.
    chatty: bool,
}

/// What a client sends first, and the reply that it expects.
#[derive(Debug)]
struct Greeting {
    request: Vec<u8>,
    expected: Vec<u8>,
    chatty: bool,
}

/// Clients that connected, and how many logins began and completed.
#[derive(Debug)]
pub struct Logins {
    clients: Vec<Login>,
    readable: Readable,
    begun: u64,
    done: u64,
    ended: Instant,
    latencies: Latencies,
}

impl Logins {
    /// No clients yet.
    ///
    /// # Errors
    ///
    /// If there are no file descriptors left.
    pub fn new() -> Result<Self, Error> {
        let readable = Readable::of::<Link>([])?;
        let (clients, ended, latencies) = (Vec::new(), Instant::now(), Latencies::default());
        Ok(Self { clients, readable, begun: 0, done: 0, ended, latencies })
    }

    /// Logs in all clients of a topology as fast as possible.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub fn storm(
        &mut self,
        protocol: Protocol,
        target: &Target,
        topology: &Topology,
    ) -> Result<Outcome, Aborted> {
        let control = Control::default();
        let mut budget = Budget::new(Amount::Messages(topology.clients as u64), &control);
        let started = Instant::now();
        let schedule = Schedule::new(None, started);
        let greetings = topology.names().iter().map(|name| greeting(protocol, name)).collect();
        let at = (target, topology);
        let ended = self.connect_all(at, greetings, &mut budget, &schedule, &control);
        self.finish(ended, started)
    }

    /// The latencies of all logins, each with its reply.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Connects one client per greeting, up to the budget, and waits for all of them.
    fn connect_all(
        &mut self,
        (target, topology): (&Target, &Topology),
        greetings: Vec<Greeting>,
        budget: &mut Budget<'_>,
        schedule: &Schedule,
        control: &Control,
    ) -> Result<(), Error> {
        for (client, greeting) in greetings.into_iter().enumerate() {
            let Greeting { request, expected, chatty } = greeting;
            let number = self.begun;
            while schedule.wait(number) > Duration::ZERO && !budget.is_spent() {
                self.receive(schedule.wait(number).min(TICK), control)?;
            }
            if budget.take(1) == 0 {
                break;
            }
            let started = schedule.intended(number).unwrap_or_else(Instant::now);
            let socket = connect(topology.server(target, client))?;
            // If this fails, the server's reply may say why.
            let _ = (&socket).write_all(&request);
            self.readable.add(self.clients.len(), &socket)?;
            self.clients.push(Login { socket, started, reply: Vec::new(), expected, chatty });
            self.begun += 1;
            self.receive(Duration::ZERO, control)?;
        }
        let mut known = (self.done, Instant::now());
        while self.done < self.begun && known.1.elapsed() < ARRIVAL_TIMEOUT {
            self.receive(TICK, control)?;
            if self.done > known.0 {
                known = (self.done, Instant::now());
            }
        }
        Ok(())
    }

    /// Reads the replies that arrive within this time.
    fn receive(&mut self, time: Duration, control: &Control) -> Result<(), Error> {
        let mut chunk = [0; 4096];
        for place in self.readable.wait_for(Some(time))? {
            let login = &mut self.clients[place];
            match login.socket.recv(&mut chunk, RecvFlags::DONTWAIT) {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => login.reply.extend_from_slice(&chunk[..count]),
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(Error::login(error)),
            }
            let is_expected = if login.chatty {
                !login.expected.is_empty() && login.reply.ends_with(&login.expected)
            } else {
                login.reply == login.expected
            };
            if is_expected {
                self.ended = Instant::now();
                self.latencies.add(self.ended.saturating_duration_since(login.started));
                self.done += 1;
                login.expected.clear();
            } else if let Some(refusal) = refusal(&login.reply) {
                return Err(refusal);
            } else if login.reply.ends_with(b"\n") && !login.chatty {
                return Err(unexpected(&login.reply));
            }
        }
        control.report_received(self.done);
        Ok(())
    }

    fn run(
        &mut self,
        target: &Target,
        topology: &Topology,
        budget: &mut Budget<'_>,
        schedule: &Schedule,
        control: &Control,
    ) -> Result<(), Error> {
        for round in 0_u64.. {
            // A name may stay in use for a moment after its client disconnects.
            let name = |client| format!("{}{}-{client}", topology.prefix, round % 10_000);
            let greetings =
                (0..topology.clients).map(|it| greeting(Protocol::Chat, &name(it))).collect();
            self.connect_all((target, topology), greetings, budget, schedule, control)?;
            if budget.is_spent() || self.done < self.begun {
                break;
            }
            self.clients.clear();
            self.readable = Readable::of::<Link>([])?;
        }
        Ok(())
    }

    /// The outcome of logins that have ended like this.
    fn finish(&self, ended: Result<(), Error>, started: Instant) -> Result<Outcome, Aborted> {
        let (sent, received) = (self.begun, self.done);
        let elapsed = self.ended.saturating_duration_since(started);
        let latencies = Some(self.latencies.clone());
        let outcome =
            Outcome { sent, owed: sent, received, elapsed, latencies, ..Outcome::default() };
        match ended {
            Ok(()) => Ok(outcome),
            Err(error) => Err(Aborted { error, outcome: Box::new(outcome) }),
        }
    }
}

/// A client's own: of a-chat and the baseline, a message to itself. The other products' clients ask
/// whether they are known.
fn greeting(protocol: Protocol, name: &str) -> Greeting {
    let line = protocol.line(name, &[name], STAMP).bytes;
    match protocol {
        Protocol::Chat => Greeting {
            request: [format!("{name}\n").as_bytes(), &line].concat(),
            expected: format!("from {name}: {}\n", "x".repeat(STAMP)).into_bytes(),
            chatty: false,
        },
        Protocol::Raw => Greeting { request: line.clone(), expected: line, chatty: false },
        Protocol::Nats | Protocol::Redis => {
            let Handshake { request, reply_end, chatty } = protocol.handshake(name, name);
            Greeting { request: request.into_bytes(), expected: reply_end.into_bytes(), chatty }
        }
    }
}

/// Logs in `topology.clients` clients at a time, disconnects them all, and repeats until the amount
/// is spent; with a rate, each login happens on schedule.
///
/// # Errors
///
/// If the connection fails, or the server refuses a client, ends its connection or sends anything
/// unexpected.
pub fn run(
    target: &Target,
    topology: &Topology,
    amount: Amount,
    rate: Option<f64>,
    control: &Control,
) -> Result<Outcome, Aborted> {
    let mut budget = Budget::new(amount, control);
    let mut logins = Logins::new()?;
    let started = Instant::now();
    let ended = logins.run(target, topology, &mut budget, &Schedule::new(rate, started), control);
    logins.finish(ended, started)
}
