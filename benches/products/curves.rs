//! How throughput grows with the clients and latency with the load, for each server: measured, written
//! as JSON, read back and drawn.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plotters::prelude::*;
use serde_json::{Value, json};

use super::Server;
use super::work::Work;
use crate::rig::table::median_of;

/// Clients of a mesh in which each message is written as soon as it may be.
const CLIENTS: [usize; 6] = [2, 10, 30, 100, 300, 1000];

/// Single messages a second beside the one that is measured.
const RATES: [u32; 6] = [1_000, 5_000, 10_000, 20_000, 40_000, 60_000];

/// Approximate length of a measurement.
const TARGET: Duration = Duration::from_millis(400);

/// The pictures' size, in pixels.
const SIZE: (u32, u32) = (880, 400);

/// The servers' colours, in their order.
const COLORS: [RGBColor; 6] = [
    RGBColor(200, 20, 60),
    RGBColor(40, 110, 190),
    RGBColor(40, 140, 60),
    RGBColor(220, 120, 0),
    RGBColor(120, 70, 170),
    RGBColor(110, 110, 110),
];

/// One picture: what it shows, and how its JSON names that.
struct Picture {
    file: &'static str,
    key: &'static str,
    x: (&'static str, &'static str),
    y: (&'static str, &'static str),
    legend: SeriesLabelPosition,
}

const PICTURES: [Picture; 2] = [
    Picture {
        file: "throughput.svg",
        key: "throughput_by_clients",
        x: ("clients", "clients, each of which sends to all others"),
        y: ("messages_per_second", "messages a second"),
        legend: SeriesLabelPosition::LowerLeft,
    },
    Picture {
        file: "latency.svg",
        key: "latency_by_load",
        x: ("beside_per_second", "single messages a second beside it"),
        y: ("p99_us", "one message in flight, 99th percentile, us"),
        legend: SeriesLabelPosition::UpperLeft,
    },
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures")
}

/// Measures every point, and writes `docs/pictures/performance.json`.
pub fn measure(servers: &[Server], rounds: u32) -> Result<(), Box<dyn Error>> {
    let figures = |work: &Work, server: Server| {
        let rounds: Vec<_> = (0..rounds).map(|_| work.measure(server, None)).collect();
        move |field: fn(&super::work::Figures) -> f64| median_of(rounds.iter().map(field).collect())
    };
    let by_clients = |server: Server| {
        let points = CLIENTS.map(|clients| {
            let of = figures(&Work::mesh_at_once(clients, TARGET), server);
            json!({ "clients": clients, "messages_per_second": of(|it| it.rate).round(),
                    "server_cpu_us_each": of(|it| it.cpu) })
        });
        json!({ "server": server.name(), "points": points })
    };
    let by_load = |server: Server| {
        let points = RATES.map(|rate| {
            let of = figures(&Work::beside(rate.into(), TARGET), server);
            json!({ "beside_per_second": rate, "p50_us": of(|it| it.p50),
                    "p99_us": of(|it| it.p99), "server_cpu_us_each": of(|it| it.cpu) })
        });
        json!({ "server": server.name(), "points": points })
    };
    let results = json!({
        "machine": machine(),
        "servers": servers.iter().map(|it| json!({ "name": it.name(), "version": it.version() })).collect::<Vec<_>>(),
        "rounds": rounds,
        "throughput_by_clients": servers.iter().map(|&it| by_clients(it)).collect::<Vec<_>>(),
        "latency_by_load": servers.iter().map(|&it| by_load(it)).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&results)? + "\n";
    Ok(fs::write(folder().join("performance.json"), text)?)
}

/// Draws what `docs/pictures/performance.json` says.
pub fn draw() -> Result<(), Box<dyn Error>> {
    let results: Value = serde_json::from_slice(&fs::read(folder().join("performance.json"))?)?;
    for picture in &PICTURES {
        let mut svg = String::new();
        picture.draw(&results, &mut svg)?;
        fs::write(folder().join(picture.file), svg + "\n")?;
    }
    Ok(())
}

impl Picture {
    fn draw(&self, results: &Value, svg: &mut String) -> Result<(), Box<dyn Error>> {
        let curves = self.curves(results);
        let points = || curves.iter().flat_map(|(_, points)| points);
        let (x, y) = (range(points().map(|it| it.0)), range(points().map(|it| it.1)));
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(80)
            .build_cartesian_2d((x.0..x.1).log_scale(), (y.0..y.1).log_scale())?;
        let number = |value: &f64| short(*value);
        chart
            .configure_mesh()
            .x_desc(self.x.1)
            .y_desc(self.y.1)
            .x_label_formatter(&number)
            .y_label_formatter(&number)
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(220, 220, 220))
            .label_style(("sans-serif", 14))
            .draw()?;
        for (place, (name, points)) in curves.iter().enumerate() {
            let color = COLORS[place % COLORS.len()];
            // The server under test stands out.
            let width = if place == 0 { 4 } else { 2 };
            let style = color.stroke_width(width);
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            line.label(name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            let dots = points.iter().map(|&point| Circle::new(point, width, color.filled()));
            chart.draw_series(dots)?;
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(220, 220, 220))
            .label_font(("sans-serif", 14))
            .draw()?;
        Ok(root.present()?)
    }

    /// Each server's name and points.
    fn curves(&self, results: &Value) -> Vec<(String, Vec<(f64, f64)>)> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let number = |point: &Value, key: &str| point[key].as_f64().unwrap_or(1.0);
        let point = |it: &Value| (number(it, self.x.0), number(it, self.y.0));
        let points = |curve: &Value| list(&curve["points"]).iter().map(point).collect();
        let name = |curve: &Value| curve["server"].as_str().unwrap_or_default().to_owned();
        list(&results[self.key]).iter().map(|curve| (name(curve), points(curve))).collect()
    }
}

/// From a little below the smallest of these to a little above the greatest.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (min, max) = values.fold((f64::MAX, 1.0), |(min, max), it| (it.min(min), it.max(max)));
    (min.min(max) / 1.2, max * 1.2)
}

/// `2 M` for 2000000.
fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{} M", value / 1e6),
        1e3.. => format!("{} k", value / 1e3),
        _ => value.to_string(),
    }
}

fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{count} x {}, Linux {}", model.unwrap_or("unknown"), kernel.trim())
}
