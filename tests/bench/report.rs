//! Figures as a table, as JSON and as a plot.

use std::fmt::Write;
use std::fs;

use anyhow::Result;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use harness::TestBed;
use serde::Serialize;

/// What was measured; what was not, or could not be, is missing.
#[derive(Serialize, Default, Clone)]
pub struct Figures {
    /// Events accepted or processed in a second.
    pub per_second: Option<f64>,
    /// Latency.
    pub p50_ms: Option<f64>,
    /// Latency.
    pub p99_ms: Option<f64>,
    /// Latency.
    pub p999_ms: Option<f64>,
    /// CPU time of the gateway or the worker per event.
    pub service_cpu_us: Option<f64>,
    /// CPU time of PostgreSQL per event.
    pub postgres_cpu_us: Option<f64>,
    /// CPU time of RabbitMQ per event.
    pub broker_cpu_us: Option<f64>,
    /// The most memory that the gateway or the worker has had.
    pub peak_mib: Option<f64>,
    /// Throughput or latency, divided by that of the row that it is compared with.
    pub ratio: Option<f64>,
}

const COLUMNS: [&str; 9] = [
    "events/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "service CPU µs",
    "PostgreSQL CPU µs",
    "RabbitMQ CPU µs",
    "peak MiB",
    "ratio",
];

impl Figures {
    fn columns(&self) -> [Option<f64>; 9] {
        [
            self.per_second,
            self.p50_ms,
            self.p99_ms,
            self.p999_ms,
            self.service_cpu_us,
            self.postgres_cpu_us,
            self.broker_cpu_us,
            self.peak_mib,
            self.ratio,
        ]
    }

    /// The median of each figure.
    pub fn median(repeats: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> Option<f64>| {
            let mut values: Vec<f64> = repeats.iter().filter_map(figure).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        Self {
            per_second: median(|figures| figures.per_second),
            p50_ms: median(|figures| figures.p50_ms),
            p99_ms: median(|figures| figures.p99_ms),
            p999_ms: median(|figures| figures.p999_ms),
            service_cpu_us: median(|figures| figures.service_cpu_us),
            postgres_cpu_us: median(|figures| figures.postgres_cpu_us),
            broker_cpu_us: median(|figures| figures.broker_cpu_us),
            peak_mib: median(|figures| figures.peak_mib),
            ratio: median(|figures| figures.ratio),
        }
    }

    /// With the percentiles of these latencies.
    pub fn with_latencies(mut self, mut latencies_ms: Vec<f64>) -> Self {
        latencies_ms.sort_by(f64::total_cmp);
        let percentile = |share: f64| {
            let index = (latencies_ms.len() as f64 * share).ceil() as usize;
            latencies_ms.get(index.saturating_sub(1)).copied()
        };
        self.p50_ms = percentile(0.5);
        self.p99_ms = percentile(0.99);
        self.p999_ms = percentile(0.999);
        self
    }
}

/// One line of the table.
#[derive(Serialize)]
pub struct Row {
    /// Which measurement.
    pub name: String,
    /// Medians.
    #[serde(flatten)]
    pub figures: Figures,
}

/// Everything that was measured, and where.
#[derive(Serialize)]
pub struct Report {
    /// Cores, processor, kernel, PostgreSQL.
    pub machine: String,
    /// Seconds of each measurement.
    pub seconds: u32,
    /// Repeats that the medians are of.
    pub repeats: u32,
    /// The measurements.
    pub rows: Vec<Row>,
}

/// The machine in a line.
pub async fn machine(bed: &TestBed) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let processor = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let kernel = read("/proc/sys/kernel/osrelease");
    let postgres = bed
        .text("SELECT split_part(current_setting('server_version'), ' ', 1)")
        .await;
    format!(
        "{cores} cores ({processor}), Linux {}, PostgreSQL {postgres}",
        kernel.trim()
    )
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(["measurement"].into_iter().chain(COLUMNS));
        for row in &self.rows {
            let figures = row.figures.columns().map(text);
            table.add_row([row.name.clone()].into_iter().chain(figures));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!(
            "{}\n{} s each, medians of {}\n{table}",
            self.machine, self.seconds, self.repeats
        )
    }

    /// For programs.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Throughput and latency as bars.
    pub fn svg(&self) -> String {
        let panels = [
            ("events/s", self.bars(|figures| figures.per_second)),
            ("p50 ms", self.bars(|figures| figures.p50_ms)),
            ("p99 ms", self.bars(|figures| figures.p99_ms)),
        ];
        let (mut drawn, mut y) = (String::new(), 30);
        for (title, bars) in panels {
            y = panel(&mut drawn, y, title, &bars);
        }
        let machine = escaped(&self.machine);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{y}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"18\">{machine}</text>\n{drawn}</svg>\n"
        )
    }

    fn bars(&self, figure: fn(&Figures) -> Option<f64>) -> Vec<(&str, f64)> {
        self.rows
            .iter()
            .filter_map(|row| Some((row.name.as_str(), figure(&row.figures)?)))
            .collect()
    }
}

/// Draws bars below each other, and returns where the next panel begins.
fn panel(drawn: &mut String, top: usize, title: &str, bars: &[(&str, f64)]) -> usize {
    const LINE: usize = 18;
    const WIDEST: f64 = 420.0;
    let most = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let mut y = top + LINE;
    let _ = writeln!(
        drawn,
        "<text x=\"10\" y=\"{y}\" font-weight=\"bold\">{title}</text>"
    );
    for (name, value) in bars {
        let (name, middle) = (escaped(name), y + 6);
        let width = (WIDEST * value / most.max(f64::MIN_POSITIVE)).max(1.0);
        y += LINE;
        let _ = writeln!(
            drawn,
            "<text x=\"380\" y=\"{y}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"390\" y=\"{middle}\" width=\"{width:.0}\" height=\"14\" fill=\"#4878a8\"/>\
             <text x=\"{:.0}\" y=\"{y}\">{}</text>",
            394.0 + width,
            text(Some(*value))
        );
    }
    y + LINE
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Three digits, or more where there are.
fn text(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}
