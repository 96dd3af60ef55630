//! What was measured, as a table for people or as JSON for programs. No thread runs here.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use crate::cli::Mode;
use a_chat::load::{Latencies, Outcome};

use super::own_server::Usage;

/// All of it.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) mode: Mode,
    pub(super) address: SocketAddr,
    pub(super) clients: usize,
    /// Of a text, in bytes.
    pub(super) size: usize,
    /// What was asked for.
    pub(super) rate: Option<f64>,
    /// How long a message is where it arrives, in bytes.
    pub(super) frame: usize,
    pub(super) interrupted: bool,
    pub(super) outcome: Outcome,
    pub(super) load_cpu: Duration,
    /// If the server is the load's own.
    pub(super) server: Option<(Usage, ExitStatus)>,
}

/// Names and shares of the percentiles that are shown.
const QUANTILES: [(&str, &str, f64); 4] =
    [("p50", "p50", 0.5), ("p90", "p90", 0.9), ("p99", "p99", 0.99), ("p99.9", "p99_9", 0.999)];

impl Figures {
    /// Why the run is no success, if it is none.
    pub(super) fn failure(&self) -> Option<String> {
        let Outcome { reordered, repeated, .. } = self.outcome;
        let lost = self.outcome.lost();
        match self.server {
            _ if !self.outcome.is_clean() => {
                Some(format!("{lost} lost, {reordered} out of order, {repeated} repeated"))
            }
            Some((_, status)) if !status.success() => Some(format!("the server ended: {status}")),
            _ => None,
        }
    }

    fn per_second(&self, count: u64) -> f64 {
        let seconds = self.outcome.elapsed.as_secs_f64();
        if seconds > 0.0 { float(count) / seconds } else { 0.0 }
    }

    fn bytes_per_second(&self) -> f64 {
        self.per_second(self.outcome.received) * float(self.frame as u64)
    }

    /// What the server has spent on one delivery, in microseconds.
    fn cpu_each(&self, usage: &Usage) -> f64 {
        let received = self.outcome.received;
        if received > 0 { usage.cpu.as_secs_f64() * 1e6 / float(received) } else { 0.0 }
    }

    fn cores(&self, cpu: Duration) -> f64 {
        let seconds = self.outcome.elapsed.as_secs_f64();
        if seconds > 0.0 { cpu.as_secs_f64() / seconds } else { 0.0 }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let Self { outcome, .. } = self;
        let mut table = Table(self.title());
        let what = if self.mode == Mode::Connect { "logins" } else { "deliveries" };
        table.row(what, format_args!("{}", grouped(outcome.received)));
        if outcome.owed != outcome.sent {
            table.row("messages sent", format_args!("{}", grouped(outcome.sent)));
        }
        let rate = scaled(self.per_second(outcome.received));
        table.row("a second", format_args!("{rate}"));
        if self.mode != Mode::Connect {
            table.row("bytes a second", format_args!("{}B", scaled(self.bytes_per_second())));
        }
        table.row("lost", format_args!("{}", grouped(outcome.lost())));
        table.row("out of order", format_args!("{}", grouped(outcome.reordered)));
        if outcome.repeated > 0 {
            table.row("repeated", format_args!("{}", grouped(outcome.repeated)));
        }
        if let Some(latencies) =
            outcome.latencies.as_ref().filter(|latencies| latencies.count() > 0)
        {
            table.latencies(latencies);
        }
        table.row("load", format_args!("{:.2} processors", self.cores(self.load_cpu)));
        if let Some((usage, status)) = &self.server {
            let (cores, each) = (self.cores(usage.cpu), self.cpu_each(usage));
            table.row("server", format_args!("{cores:.2} processors, {each:.3} us each"));
            let peak = float(usage.peak_memory) / float(1 << 20);
            table.row("", format_args!("{peak:.1} MiB at most, {} threads", usage.threads));
            let verdict = if status.success() { "nothing lost" } else { "losses, see its log" };
            table.row("its drain", format_args!("{verdict}"));
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
            Some(rate) => write!(title, ", {rate} a second asked for"),
            None => Ok(()),
        };
        let at = if self.server.is_some() { "a server of its own" } else { "the server" };
        let ended = if self.interrupted { ", ended early" } else { "" };
        let seconds = self.outcome.elapsed.as_secs_f64();
        let _ = writeln!(title, "; {seconds:.2} s{ended}; {at} on {address}");
        title
    }

    /// For programs: one object on one line. What cannot be known is `null`.
    pub(super) fn json(&self) -> String {
        let Self { outcome, .. } = self;
        let mut json = Object::default();
        json.text("mode", &self.mode.name()).text("address", &self.address.to_string());
        json.value("own_server", self.server.is_some()).value("clients", self.clients);
        // A login's message has a size of its own.
        json.optional("size_bytes", (self.mode != Mode::Connect).then_some(self.size));
        json.optional("rate_asked_per_second", self.rate);
        json.value("interrupted", self.interrupted);
        json.value("duration_seconds", outcome.elapsed.as_secs_f64());
        json.value("sent", outcome.sent).value("owed", outcome.owed);
        json.value("received", outcome.received).value("lost", outcome.lost());
        json.value("reordered", outcome.reordered).value("repeated", outcome.repeated);
        json.value("received_per_second", self.per_second(outcome.received));
        let bytes = (self.mode != Mode::Connect).then(|| self.bytes_per_second());
        json.optional("bytes_per_second", bytes);
        json.optional("latency_us", outcome.latencies.as_ref().map(latency));
        json.value("load_cpu_seconds", self.load_cpu.as_secs_f64());
        json.optional(
            "server",
            self.server.as_ref().map(|(usage, status)| {
                let mut server = Object::default();
                server.value("cpu_seconds", usage.cpu.as_secs_f64());
                server.value("cpu_us_per_delivery", self.cpu_each(usage));
                server
                    .value("peak_memory_bytes", usage.peak_memory)
                    .value("threads", usage.threads);
                server.value("drained_clean", status.success());
                server.end()
            }),
        );
        json.end() + "\n"
    }
}

fn latency(latencies: &Latencies) -> String {
    let (shortest, longest) = latencies.bounds();
    let mut latency = Object::default();
    latency.value("count", latencies.count()).value("min", micros(shortest));
    latency.value("mean", micros(latencies.mean()));
    for (_, key, share) in QUANTILES {
        latency.value(key, micros(latencies.quantile(share)));
    }
    latency.value("max", micros(longest));
    latency.end()
}

/// Rows of two columns.
struct Table(String);

impl Table {
    fn row(&mut self, name: &str, value: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "  {name:<16}{value}");
    }

    fn latencies(&mut self, latencies: &Latencies) {
        let (shortest, longest) = latencies.bounds();
        self.row("shortest", format_args!("{}", readable(shortest)));
        self.row("mean", format_args!("{}", readable(latencies.mean())));
        for (name, _, share) in QUANTILES {
            self.row(name, format_args!("{}", readable(latencies.quantile(share))));
        }
        self.row("longest", format_args!("{}", readable(longest)));
    }
}

/// A JSON object that is being written. Its keys and texts need no escapes.
#[derive(Default)]
struct Object(String);

impl Object {
    fn value(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        let opening = if self.0.is_empty() { "{" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{opening}\"{key}\":{value}");
        self
    }

    fn text(&mut self, key: &str, text: &str) -> &mut Self {
        self.value(key, format_args!("\"{text}\""))
    }

    fn optional(&mut self, key: &str, value: Option<impl fmt::Display>) -> &mut Self {
        match value {
            Some(value) => self.value(key, value),
            None => self.value(key, "null"),
        }
    }

    fn end(self) -> String {
        self.0 + "}"
    }
}

fn micros(time: Duration) -> f64 {
    float(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)) / 1e3
}

fn readable(time: Duration) -> String {
    match micros(time) {
        us if us < 1e3 => format!("{us:.1} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// With a letter for thousands, millions or billions.
pub(super) fn scaled(number: f64) -> String {
    match number {
        number if number < 1e3 => format!("{number:.1} "),
        number if number < 1e6 => format!("{:.2} k", number / 1e3),
        number if number < 1e9 => format!("{:.2} M", number / 1e6),
        number => format!("{:.2} G", number / 1e9),
    }
}

/// With commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && place % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}
