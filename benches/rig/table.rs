//! The ratios: what was measured of the server and of its floor, side by side.

use std::time::Duration;

use a_chat::load::process::{Process, own_cpu};

/// Of how many samples the median is taken, the last ones: what comes before is warming up.
pub const SAMPLES: usize = 10;

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Server,
    Baseline,
}

/// What a row tells, and so what its ratio means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// So many a second, each of which is so many bytes where it arrives: more is better.
    Rate { bytes: usize },
    /// Bytes a second: more is better.
    Bytes,
    /// Time: less is better.
    Time,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// How much was done: deliveries, logins, bytes.
    pub count: u64,
    pub elapsed: Duration,
    pub server_cpu: Duration,
    pub load_cpu: Duration,
}

impl Sample {
    /// Has `work` done and looks at what it cost; it returns the time that counts.
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

    /// A time that was found otherwise.
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

    /// The rows as text, in Markdown.
    pub fn text(&self) -> String {
        let head = "\n| work | a-chat | baseline | ratio | a-chat, bytes | CPU us each, a-chat | baseline \
                    | cores, a-chat | load |\n\
                    | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n";
        self.rows.iter().fold(head.to_owned(), |text, row| text + &row.text())
    }
}

impl Row {
    fn text(&self) -> String {
        let Self { name, kind, server, baseline } = self;
        let figure = |samples: &[Sample]| median(samples, |sample| kind.figure(sample));
        let (ours, floors) = (figure(server), figure(baseline));
        let ratio = ours.zip(floors).map(|(ours, floors)| format!("{:.2}", ours / floors));
        let show = |figure: Option<f64>| figure.map_or("-".to_owned(), |it| kind.text(it));
        // What is counted in bytes would be too cheap to show.
        let each = |samples| cpu_each(samples).filter(|_| *kind != Kind::Bytes);
        let each = |samples| each(samples).map_or("-".to_owned(), |it| format!("{it:.4}"));
        let cores = |of: fn(&Sample) -> Duration| {
            cores(server, of).map_or("-".to_owned(), |it| format!("{it:.2}"))
        };
        format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            show(ours),
            show(floors),
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

    /// What a rate is in bytes.
    #[expect(clippy::cast_precision_loss, reason = "a message is short")]
    fn bytes_text(self, figure: f64) -> Option<String> {
        match self {
            Self::Rate { bytes } => Some(format!("{:.1} MB/s", figure * bytes as f64 / 1e6)),
            Self::Bytes | Self::Time => None,
        }
    }
}

/// The middle one of the last samples' figures.
fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<f64> {
    let figures: Vec<_> = last(samples).iter().map(figure).collect();
    (!figures.is_empty()).then(|| median_of(figures))
}

/// The middle one of some figures, or the mean of the two in the middle.
pub fn median_of(mut figures: Vec<f64>) -> f64 {
    assert!(!figures.is_empty(), "there is no median of nothing");
    figures.sort_by(f64::total_cmp);
    let last = figures.len() - 1;
    f64::midpoint(figures[last / 2], figures[last.div_ceil(2)])
}

/// The server's time for each of what was done, in microseconds. The clock's steps are coarse, so
/// all of the last samples are taken together.
fn cpu_each(samples: &[Sample]) -> Option<f64> {
    let cpu: Duration = last(samples).iter().map(|sample| sample.server_cpu).sum();
    let count: u64 = last(samples).iter().map(|sample| sample.count).sum();
    (!cpu.is_zero()).then(|| cpu.as_secs_f64() * 1e6 / to_float(count))
}

/// How many processors were busy.
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
