//! Logins: clients connect, send their names and a message to themselves, and stay when that has
//! arrived. One thread does it all.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::check::{foreign, refusal};
use super::client::connect;
use super::control::Budget;
use super::paced::Schedule;
use super::protocol::{Protocol, STAMP};
use super::readable::Readable;
use super::topology::Topology;
use super::{ARRIVAL_TIMEOUT, Amount, Control, Error, Latencies, Outcome, TICK};

/// How long a frame is, in bytes.
pub fn frame(protocol: Protocol, topology: &Topology, size: usize) -> usize {
    let name = topology.name(0);
    protocol.frame(&name, &name, size).stride
}

/// A client on its way in.
#[derive(Debug)]
struct Login {
    socket: TcpStream,
    started: Instant,
    /// What the server has said so far.
    heard: Vec<u8>,
    /// What it has to say; nothing more once it has.
    awaited: Vec<u8>,
}

/// Clients that came, and those who have been heard of.
#[derive(Debug)]
pub struct Logins {
    clients: Vec<Login>,
    readable: Readable,
    done: u64,
    ended: Instant,
    times: Latencies,
}

impl Logins {
    /// Nobody yet.
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn new() -> Result<Self, Error> {
        let readable = Readable::of([])?;
        let (clients, ended, times) = (Vec::new(), Instant::now(), Latencies::default());
        Ok(Self { clients, readable, done: 0, ended, times })
    }

    /// Has all clients of a topology log in, as fast as they can.
    ///
    /// # Errors
    ///
    /// As [`run`].
    pub fn storm(
        &mut self,
        protocol: Protocol,
        address: SocketAddr,
        topology: &Topology,
    ) -> Result<Outcome, Error> {
        let control = Control::default();
        let mut budget = Budget::new(Amount::Messages(topology.clients as u64), &control);
        let started = Instant::now();
        let schedule = Schedule::new(None, started);
        let handshakes: Vec<_> =
            topology.names().iter().map(|name| hello(protocol, name)).collect();
        self.come(address, handshakes, &mut budget, &schedule, &control)?;
        let sent = self.clients.len() as u64;
        Ok(self.outcome(sent, self.ended - started))
    }

    /// Takes in who is announced by `handshakes`, up to the budget, and waits for all of them.
    fn come(
        &mut self,
        address: SocketAddr,
        handshakes: Vec<(Vec<u8>, Vec<u8>)>,
        budget: &mut Budget<'_>,
        schedule: &Schedule,
        control: &Control,
    ) -> Result<u64, Error> {
        let before = self.done;
        let mut come = 0;
        for (hello, awaited) in handshakes {
            let number = before + come;
            while schedule.wait(number) > Duration::ZERO && !budget.is_over() {
                self.listen(schedule.wait(number).min(TICK), control)?;
            }
            if budget.take(1) == 0 {
                break;
            }
            let started = schedule.intended(number).unwrap_or_else(Instant::now);
            let mut socket = connect(address)?;
            // Should this fail, the server may have said why.
            let _ = socket.write_all(&hello);
            self.readable.add(self.clients.len(), &socket)?;
            self.clients.push(Login { socket, started, heard: Vec::new(), awaited });
            come += 1;
            self.listen(Duration::ZERO, control)?;
        }
        let mut known = (self.done, Instant::now());
        while self.done < before + come && known.1.elapsed() < ARRIVAL_TIMEOUT {
            self.listen(TICK, control)?;
            if self.done > known.0 {
                known = (self.done, Instant::now());
            }
        }
        Ok(come)
    }

    /// Hears what there is to hear, waiting so long for it.
    fn listen(&mut self, time: Duration, control: &Control) -> Result<(), Error> {
        let mut chunk = [0; 4096];
        for place in self.readable.wait_for(Some(time))? {
            let login = &mut self.clients[place];
            match recv(&login.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(Error::Closed),
                Ok((count, _)) => login.heard.extend_from_slice(&chunk[..count]),
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(error) => return Err(Error::io("log in")(error)),
            }
            if login.heard == login.awaited {
                self.ended = Instant::now();
                self.times.add(self.ended.saturating_duration_since(login.started));
                self.done += 1;
                login.awaited.clear();
            } else if let Some(refusal) = refusal(&login.heard) {
                return Err(refusal);
            } else if login.heard.ends_with(b"\n") {
                return Err(foreign(&login.heard));
            }
        }
        control.show(self.done);
        Ok(())
    }

    fn outcome(&self, sent: u64, elapsed: Duration) -> Outcome {
        let times = Some(self.times.clone());
        Outcome { sent, owed: sent, received: self.done, elapsed, times, ..Outcome::default() }
    }
}

/// What a client says at once, and what it is to hear then.
fn hello(protocol: Protocol, name: &str) -> (Vec<u8>, Vec<u8>) {
    let line = protocol.line(name, &[name], STAMP).bytes;
    let login = if protocol == Protocol::Chat { format!("{name}\n") } else { String::new() };
    let heard = match protocol {
        Protocol::Chat => format!("from {name}: {}\n", "x".repeat(STAMP)).into_bytes(),
        _ => line.clone(),
    };
    ([login.as_bytes(), &line].concat(), heard)
}

/// Has clients log in, `topology.clients` at a time and then all of them leave, until the amount
/// is spent; with a schedule, one of them when its time has come.
///
/// # Errors
///
/// Without a connection, or if the server refuses a client, ends its connection or says anything
/// but what it has to.
pub fn run(
    address: SocketAddr,
    topology: &Topology,
    amount: Amount,
    rate: Option<f64>,
    control: &Control,
) -> Result<Outcome, Error> {
    let mut budget = Budget::new(amount, control);
    let mut logins = Logins::new()?;
    let started = Instant::now();
    let schedule = Schedule::new(rate, started);
    let mut sent = 0;
    for round in 0_u64.. {
        // A name may be in use for a moment after its client has left.
        let name = |client| format!("{}{}-{client}", topology.prefix, round % 10_000);
        let handshakes = (0..topology.clients).map(|it| hello(Protocol::Chat, &name(it))).collect();
        sent += logins.come(address, handshakes, &mut budget, &schedule, control)?;
        if budget.is_over() || logins.done < sent {
            break;
        }
        logins.clients.clear();
        logins.readable = Readable::of([])?;
    }
    Ok(logins.outcome(sent, logins.ended.saturating_duration_since(started)))
}
