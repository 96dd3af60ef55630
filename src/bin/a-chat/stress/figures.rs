//! The figures of a load, as a table for people or as JSON for programs. Plain data.

use std::fmt::{self, Write};
use std::process::ExitStatus;
use std::time::Duration;

use indicatif::{BinaryBytes, DecimalBytes, HumanCount, HumanFloatCount};
use serde::Serialize;

use crate::cli::Mode;
use a_chat::Endpoint;
use a_chat::load::{Latencies, Outcome};

use super::own_server::Usage;

/// The figures of one load.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says something else")]
pub(super) struct Figures {
    pub(super) mode: Mode,
    pub(super) address: Endpoint,
    /// Further nodes of its cluster.
    pub(super) others: Vec<Endpoint>,
    pub(super) own_server: bool,
    pub(super) clients: usize,
    /// Length of a text, in bytes.
    pub(super) size: usize,
    /// The requested rate.
    pub(super) rate: Option<f64>,
    /// Whether a mesh wrote each message as soon as it could.
    pub(super) at_once: bool,
    /// The requested rate of the load beside this one.
    pub(super) beside: Option<f64>,
    /// Whether latencies end with the confirmation.
    pub(super) confirm: bool,
    /// Whether the clients speak TLS.
    pub(super) tls: bool,
    /// Length of a message as it arrives, in bytes.
    pub(super) frame: usize,
    pub(super) interrupted: bool,
    /// Why the load ended early, if it failed.
    pub(super) failure: Option<String>,
    pub(super) outcome: Outcome,
    pub(super) load_cpu: Duration,
    /// What the load's own server used, if it could be asked.
    pub(super) usage: Option<Usage>,
    /// How the load's own server exited.
    pub(super) exit: Option<ExitStatus>,
}

impl Figures {
    /// Why the load did not succeed, if it did not.
    pub(super) fn complaint(&self) -> Option<String> {
        let all = std::iter::once(&self.outcome).chain(self.outcome.beside.as_deref());
        let [lost, reordered, repeated] = all.fold([0; 3], |[lost, reordered, repeated], it| {
            [lost + it.lost(), reordered + it.reordered, repeated + it.repeated]
        });
        let exit = self.exit.filter(|status| !status.success());
        let exit = exit.map(|status| format!("the server ended with {status}"));
        match (&self.failure, exit) {
            (Some(failure), None) => Some(format!("{}: {failure}", self.address)),
            (Some(failure), Some(exit)) => Some(format!("{}: {failure}; {exit}", self.address)),
            _ if !self.outcome.is_clean() => {
                Some(format!("{lost} lost, {reordered} out of order, {repeated} repeated"))
            }
            (None, exit) => exit,
        }
    }

    fn server(&self) -> Option<(&Usage, ExitStatus)> {
        self.usage.as_ref().zip(self.exit)
    }

    fn received_per_second(&self) -> f64 {
        per_second(&self.outcome)
    }

    /// `None` for logins, whose messages have a size of their own.
    fn bytes_per_second(&self) -> Option<f64> {
        let is_login = self.mode == Mode::Connect;
        (!is_login).then(|| self.received_per_second() * float(self.frame as u64))
    }

    /// The server's CPU time per delivery, those of the load beside included, in microseconds.
    fn cpu_each(&self, usage: &Usage) -> f64 {
        let beside = self.outcome.beside.as_ref().map_or(0, |beside| beside.received);
        let received = self.outcome.received + beside;
        if received > 0 { usage.cpu.as_secs_f64() * 1e6 / float(received) } else { 0.0 }
    }

    fn cpus(&self, cpu: Duration) -> f64 {
        ratio(cpu.as_secs_f64(), self.outcome.elapsed)
    }

    /// The table for people.
    pub(super) fn table(&self) -> String {
        let Self { outcome, .. } = self;
        let mut table = Table(self.title());
        if let Some(failure) = &self.failure {
            table.row("failed", failure);
        }
        let what = if self.mode == Mode::Connect { "logins" } else { "deliveries" };
        table.row(what, HumanCount(outcome.received));
        if outcome.owed != outcome.sent {
            table.row("messages sent", HumanCount(outcome.sent));
        }
        let rate = HumanFloatCount(self.received_per_second());
        table.row("a second", format_args!("{rate:.0}"));
        if let Some(bytes) = self.bytes_per_second() {
            table.row("bytes a second", DecimalBytes(whole(bytes)));
        }
        table.row("lost", HumanCount(outcome.lost()));
        table.row("out of order", HumanCount(outcome.reordered));
        if outcome.repeated > 0 {
            table.row("repeated", HumanCount(outcome.repeated));
        }
        if let Some(latencies) = outcome.latencies.as_ref().filter(|it| it.count() > 0) {
            table.latencies(latencies);
        }
        if self.confirm {
            table.row("", "44 ms more if the recipient is not reading (delayed acknowledgement)");
        }
        if let Some(beside) = &outcome.beside {
            let rate = HumanFloatCount(per_second(beside));
            let received = HumanCount(beside.received);
            table.row("beside", format_args!("{received} deliveries, {rate:.0} a second"));
            if !beside.is_clean() {
                let Outcome { reordered, repeated, .. } = **beside;
                let lost = beside.lost();
                table.row(
                    "",
                    format_args!("{lost} lost, {reordered} out of order, {repeated} repeated"),
                );
            }
        }
        table.row("load", format_args!("{:.2} CPUs", self.cpus(self.load_cpu)));
        if let Some((usage, status)) = self.server() {
            let (cpus, each) = (self.cpus(usage.cpu), self.cpu_each(usage));
            table.row("server", format_args!("{cpus:.2} CPUs, {each:.3} µs each"));
            let peak = BinaryBytes(usage.peak_memory);
            table.row("", format_args!("{peak} at most, {} threads", usage.threads));
            let verdict = if status.success() { "nothing lost" } else { "losses, see its log" };
            table.row("its drain", verdict);
        }
        table.0
    }

    fn title(&self) -> String {
        let Self { clients, size, address, rate, .. } = self;
        let mut title = format!("{}: {clients} clients", self.mode.name());
        // Writing to a string cannot fail.
        let _ = match self.mode {
            Mode::Connect => Ok(()),
            _ => write!(title, ", {size} B each message"),
        };
        let _ = match rate {
            Some(rate) => write!(title, ", {rate} a second requested"),
            None => Ok(()),
        };
        let _ = match self.beside {
            Some(rate) => write!(title, ", beside {rate} a second"),
            None => Ok(()),
        };
        let _ = if self.confirm { write!(title, ", until confirmed") } else { Ok(()) };
        let _ = if self.tls { write!(title, ", over TLS") } else { Ok(()) };
        let _ = if self.at_once { write!(title, ", written at once") } else { Ok(()) };
        let at = if self.own_server { "a server of its own" } else { "the server" };
        let is_early = self.interrupted || self.failure.is_some();
        let ended = if is_early { ", ended early" } else { "" };
        let seconds = self.outcome.elapsed.as_secs_f64();
        let _ = write!(title, "; {seconds:.2} s{ended}; {at} on {address}");
        for other in &self.others {
            let _ = write!(title, ", {other}");
        }
        title.push('\n');
        title
    }

    /// One JSON object on one line, for programs.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let Self { outcome, .. } = self;
        let json = Json {
            mode: self.mode.name(),
            address: self.address.to_string(),
            own_server: self.own_server,
            clients: self.clients,
            size_bytes: (self.mode != Mode::Connect).then_some(self.size),
            rate_asked_per_second: self.rate,
            interrupted: self.interrupted,
            duration_seconds: outcome.elapsed.as_secs_f64(),
            sent: outcome.sent,
            owed: outcome.owed,
            received: outcome.received,
            lost: outcome.lost(),
            reordered: outcome.reordered,
            repeated: outcome.repeated,
            received_per_second: self.received_per_second(),
            bytes_per_second: self.bytes_per_second(),
            latency_us: outcome.latencies.as_ref().map(LatencyJson::of),
            load_cpu_seconds: self.load_cpu.as_secs_f64(),
            server: self.server().map(|(usage, status)| ServerJson {
                cpu_seconds: usage.cpu.as_secs_f64(),
                cpu_us_per_delivery: self.cpu_each(usage),
                peak_memory_bytes: usage.peak_memory,
                threads: usage.threads,
                drained_clean: status.success(),
            }),
            failure: self.failure.as_deref(),
            at_once: self.at_once,
            beside: self.beside.zip(outcome.beside.as_deref()).map(|(rate, it)| BesideJson {
                rate_asked_per_second: rate,
                sent: it.sent,
                received: it.received,
                lost: it.lost(),
                reordered: it.reordered,
                repeated: it.repeated,
                received_per_second: per_second(it),
                latency_us: it.latencies.as_ref().map(LatencyJson::of),
            }),
            confirm: self.confirm,
            tls: self.tls,
        };
        Ok(serde_json::to_string(&json)? + "\n")
    }
}

/// The keys and their order are part of the interface. `null` stands for what cannot be known.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each says something else")]
struct Json<'a> {
    mode: String,
    address: String,
    own_server: bool,
    clients: usize,
    size_bytes: Option<usize>,
    rate_asked_per_second: Option<f64>,
    interrupted: bool,
    duration_seconds: f64,
    sent: u64,
    owed: u64,
    received: u64,
    lost: u64,
    reordered: u64,
    repeated: u64,
    received_per_second: f64,
    bytes_per_second: Option<f64>,
    latency_us: Option<LatencyJson>,
    load_cpu_seconds: f64,
    server: Option<ServerJson>,
    failure: Option<&'a str>,
    at_once: bool,
    beside: Option<BesideJson>,
    confirm: bool,
    tls: bool,
}

/// The load beside the one that is measured.
#[derive(Serialize)]
struct BesideJson {
    rate_asked_per_second: f64,
    sent: u64,
    received: u64,
    lost: u64,
    reordered: u64,
    repeated: u64,
    received_per_second: f64,
    latency_us: Option<LatencyJson>,
}

/// In microseconds.
#[derive(Serialize)]
struct LatencyJson {
    count: u64,
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Serialize)]
struct ServerJson {
    cpu_seconds: f64,
    cpu_us_per_delivery: f64,
    peak_memory_bytes: u64,
    threads: u64,
    drained_clean: bool,
}

impl LatencyJson {
    fn of(latencies: &Latencies) -> Self {
        let micros = |latency: Duration| latency.as_secs_f64() * 1e6;
        let quantile = |share| micros(latencies.quantile(share));
        let (min, max) = latencies.bounds();
        Self {
            count: latencies.count(),
            min: micros(min),
            mean: micros(latencies.mean()),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: micros(max),
        }
    }
}

/// A title, then rows of two columns.
struct Table(String);

impl Table {
    fn row(&mut self, name: &str, value: impl fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "  {name:<16}{value}");
    }

    fn latencies(&mut self, latencies: &Latencies) {
        let (min, max) = latencies.bounds();
        let quantile = |share| latencies.quantile(share);
        for (name, latency) in [
            ("min", min),
            ("mean", latencies.mean()),
            ("p50", quantile(0.5)),
            ("p90", quantile(0.9)),
            ("p99", quantile(0.99)),
            ("p99.9", quantile(0.999)),
            ("max", max),
        ] {
            self.row(name, format_args!("{latency:.1?}"));
        }
    }
}

fn per_second(outcome: &Outcome) -> f64 {
    ratio(float(outcome.received), outcome.elapsed)
}

/// An amount per second; 0 if no time has passed.
fn ratio(amount: f64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, so positive")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}
