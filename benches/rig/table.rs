//! The table of ratios between the server and its baseline.

use std::time::Duration;

use a_chat::load::process::{Process, own_cpu};

/// The median is taken of this many last samples; the earlier ones warm up.
pub const SAMPLES: usize = 10;

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Baseline,
}

/// The unit of a row, which decides what its ratio means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This many a second, of `bytes` bytes each as delivered: more is better.
    Rate { bytes: usize },
    /// Bytes a second: more is better.
    Bytes,
    /// Time: less is better.
    Time,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// The amount of work: deliveries, logins, bytes.
    pub count: u64,
    pub elapsed: Duration,
    pub server_cpu: Duration,
    pub load_cpu: Duration,
}

impl Sample {
    /// Runs `work`, which returns the elapsed time, and measures its CPU time.
    pub fn of(server: &Process, count: u64, work: impl FnOnce() -> Duration) -> Self {
        let times = || [server.cpu(), own_cpu()].map(|time| time.expect("procfs"));
        let before = times();
        let elapsed = work();
        let [server_cpu, load_cpu] = times();
        Self {
            count,
            elapsed,
            server_cpu: server_cpu.saturating_sub(before[0]),
            load_cpu: load_cpu.saturating_sub(before[1]),
        }
    }

    /// A time measured elsewhere.
    pub fn time(elapsed: Duration) -> Self {
        Self { count: 1, elapsed, ..Self::default() }
    }
}

/// All rows of a run.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    kind: Kind,
    server: Vec<Sample>,
    baseline: Vec<Sample>,
}

impl Table {
    pub fn add(&mut self, name: &str, kind: Kind, side: Side, sample: Sample) {
        let place = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            let name = name.to_owned();
            self.rows.push(Row { name, kind, server: Vec::new(), baseline: Vec::new() });
            self.rows.len() - 1
        });
        let row = &mut self.rows[place];
        match side {
            Side::Server => row.server.push(sample),
            Side::Baseline => row.baseline.push(sample),
        }
    }

    /// The rows in Markdown.
    pub fn text(&self) -> String {
        let head = "\n| work | a-chat | baseline | ratio | a-chat, bytes | CPU time, us each, a-chat | baseline \
                    | CPUs, a-chat | load |\n\
                    | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n";
        self.rows.iter().fold(head.to_owned(), |text, row| text + &row.text())
    }
}

impl Row {
    fn text(&self) -> String {
        let Self { name, kind, server, baseline } = self;
        let figure = |samples: &[Sample]| median(samples, |sample| kind.figure(sample));
        let (ours, theirs) = (figure(server), figure(baseline));
        let ratio = ours.zip(theirs).map(|(ours, theirs)| format!("{:.2}", ours / theirs));
        let show = |figure: Option<f64>| figure.map_or("-".to_owned(), |it| kind.text(it));
        // The cost per byte would be too small to show.
        let each = |samples| cpu_each(samples).filter(|_| *kind != Kind::Bytes);
        let each = |samples| each(samples).map_or("-".to_owned(), |it| format!("{it:.4}"));
        let cores = |of: fn(&Sample) -> Duration| {
            cores(server, of).map_or("-".to_owned(), |it| format!("{it:.2}"))
        };
        format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            show(ours),
            show(theirs),
            ratio.unwrap_or("-".to_owned()),
            ours.and_then(|ours| kind.bytes_text(ours)).unwrap_or("-".to_owned()),
            each(server),
            each(baseline),
            cores(|sample| sample.server_cpu),
            cores(|sample| sample.load_cpu),
        )
    }
}

impl Kind {
    fn figure(self, sample: &Sample) -> f64 {
        let (count, seconds) = (to_float(sample.count), sample.elapsed.as_secs_f64());
        if self == Self::Time { seconds / count } else { count / seconds }
    }

    fn text(self, figure: f64) -> String {
        match self {
            Self::Rate { .. } if figure < 1e6 => format!("{:.1} k/s", figure / 1e3),
            Self::Rate { .. } => format!("{:.2} M/s", figure / 1e6),
            Self::Bytes => format!("{:.2} GB/s", figure / 1e9),
            Self::Time if figure < 1e-3 => format!("{:.1} us", figure * 1e6),
            Self::Time => format!("{:.2} ms", figure * 1e3),
        }
    }

    /// A rate in bytes a second.
    #[expect(clippy::cast_precision_loss, reason = "a message is short")]
    fn bytes_text(self, figure: f64) -> Option<String> {
        match self {
            Self::Rate { bytes } => Some(format!("{:.1} MB/s", figure * bytes as f64 / 1e6)),
            Self::Bytes | Self::Time => None,
        }
    }
}

/// The median of the last samples' figures.
fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<f64> {
    let figures: Vec<_> = last(samples).iter().map(figure).collect();
    (!figures.is_empty()).then(|| median_of(figures))
}

/// The median, or the mean of the two middle figures.
pub fn median_of(mut figures: Vec<f64>) -> f64 {
    assert!(!figures.is_empty(), "there is no median of nothing");
    figures.sort_by(f64::total_cmp);
    let last = figures.len() - 1;
    f64::midpoint(figures[last / 2], figures[last.div_ceil(2)])
}

/// The server's CPU time per unit of work, in microseconds. The clock is coarse, so the last
/// samples are added up.
fn cpu_each(samples: &[Sample]) -> Option<f64> {
    let cpu: Duration = last(samples).iter().map(|sample| sample.server_cpu).sum();
    let count: u64 = last(samples).iter().map(|sample| sample.count).sum();
    (!cpu.is_zero()).then(|| cpu.as_secs_f64() * 1e6 / to_float(count))
}

/// CPUs used on average.
fn cores(samples: &[Sample], of: fn(&Sample) -> Duration) -> Option<f64> {
    let cpu: Duration = last(samples).iter().map(of).sum();
    let elapsed: Duration = last(samples).iter().map(|sample| sample.elapsed).sum();
    (!cpu.is_zero()).then(|| cpu.as_secs_f64() / elapsed.as_secs_f64())
}

fn last(samples: &[Sample]) -> &[Sample] {
    &samples[samples.len().saturating_sub(SAMPLES)..]
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn to_float(count: u64) -> f64 {
    count as f64
}
