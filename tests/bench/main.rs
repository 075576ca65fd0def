//! The benchmark: the real gateway and worker under the project's own load, as one table. Servers come from the
//! environment, as `deploy/bench` sets them. It fails where anything was lost or doubled, where a page of the console takes
//! over 200 ms, and where a replay is a burden; never because of another figure.

mod floors;
mod growth;
mod ingest;
mod load;
mod measure;
mod pages;
mod replay;
mod report;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use harness::TestBed;

use report::{Figures, Report, Row};

/// For the server that the gateway is held against: as the gateway has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures gateway and worker, and fails if an event is lost or has effects twice, or if a replay slows live traffic, misses its
/// rate or its switches. Without --growth, --workers and --replay: what
/// ingest and processing reach, and what they cost.
#[derive(Parser)]
#[command(name = "./deploy/bench")]
struct Args {
    /// Ingest, lists and the console's pages at 1,000, 100,000 and 2 million stored events instead
    #[arg(long)]
    growth: bool,
    /// The throughput of 1, 2, 4 and 8 workers while each event waits 20 ms instead
    #[arg(long)]
    workers: bool,
    /// What a replay of 10,000 dead letters does to live traffic instead
    #[arg(long)]
    replay: bool,
    /// Dead letters a second that the replay may put back; `ops` takes 20 unless told
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=500))]
    replay_rate: u16,
    /// Everything
    #[arg(long)]
    all: bool,
    /// Short, once each, and without the 2 million: to see that it works, not for the figures
    #[arg(long)]
    quick: bool,
    /// Seconds of each measurement [default: 10, or 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=120))]
    seconds: Option<u32>,
    /// Repeats that the medians are of [default: 3, or 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    repeats: Option<u32>,
    /// Be the server that the gateway is held against
    #[arg(long, hide = true)]
    serve_floor: bool,
    /// Write the figures as JSON into this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a plot as SVG into this file
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// How much to measure.
struct Plan {
    quick: bool,
    seconds: u32,
    repeats: u32,
    replay_rate: usize,
}

impl Plan {
    fn new(args: &Args) -> Self {
        Self {
            quick: args.quick,
            seconds: args.seconds.unwrap_or(if args.quick { 1 } else { 10 }),
            repeats: args.repeats.unwrap_or(if args.quick { 1 } else { 3 }),
            replay_rate: args.replay_rate.into(),
        }
    }

    /// Of one measurement.
    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// The medians of a measurement, also told at once: the whole takes a while.
    fn row(&self, name: &str, repeats: &[Figures]) -> Row {
        eprintln!("measured: {name}");
        Row {
            name: name.to_owned(),
            figures: Figures::median(repeats),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    if args.serve_floor {
        return floors::serve().await;
    }
    let plan = Plan::new(&args);
    let (mut rows, mut missed) = (Vec::new(), Vec::new());
    if args.all || !(args.growth || args.workers || args.replay) {
        let (floors, ingest) = (floors::run(&plan).await?, ingest::run(&plan).await?);
        let ratios = floors::ratios(&ingest, &floors);
        rows.extend(floors.into_iter().chain(ingest).chain(ratios));
        rows.extend(worker::run(&plan).await?);
    }
    if args.all || args.growth {
        rows.extend(growth::run(&plan).await?);
    }
    if args.all || args.workers {
        rows.extend(worker::scale(&plan).await?);
    }
    if args.all || args.replay {
        let (replayed, bars) = replay::run(&plan).await?;
        rows.extend(replayed);
        missed.extend(bars);
    }
    let report = Report {
        machine: report::machine(&TestBed::new().await).await,
        seconds: plan.seconds,
        repeats: plan.repeats,
        rows,
    };
    println!("{}", report.table());
    if let Some(file) = args.json {
        std::fs::write(file, report.json()?)?;
    }
    if let Some(file) = args.plot {
        std::fs::write(file, report.svg())?;
    }
    ensure!(missed.is_empty(), "{}", missed.join("; "));
    Ok(())
}
