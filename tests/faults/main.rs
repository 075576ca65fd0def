//! Stages every fault with real processes under load and prints what came of it. To be run by `./deploy/faults`, which
//! starts the servers that are broken here.

mod controls;
mod run;
mod soak;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use harness::faults::{Operator, Row};
use run::Runner;

/// Stages faults.
#[derive(Parser)]
struct Args {
    /// Rows whose id begins with one of these, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Names the rows
    #[arg(long)]
    list: bool,
    /// Repeats a load
    #[arg(long)]
    seed: Option<u64>,
    /// The controls instead: a safeguard is taken out, and the checker must notice
    #[arg(long)]
    controls: bool,
    /// The soak instead: all faults in a random order for so long
    #[arg(long)]
    minutes: Option<u64>,
    /// F16 for ten minutes
    #[arg(long)]
    long: bool,
    /// Where to write the result as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.list {
        run::list();
        return Ok(ExitCode::SUCCESS);
    }
    let seed = args
        .seed
        .unwrap_or_else(|| rand::random_range(1..1_000_000));
    let operator = Operator::from_environment()?;
    if args.controls {
        let controls = controls::every_control(&operator, seed).await;
        println!("{}", table::of_controls(&controls));
        let holding = controls.iter().filter(|control| control.holds()).count();
        println!("{holding} of {} controls are caught", controls.len());
        return Ok(ExitCode::from(u8::from(holding < controls.len())));
    }
    let rows = match args.minutes {
        Some(minutes) => vec![soaked(operator, seed, minutes).await],
        None => {
            let runner = Runner {
                operator,
                seed,
                only: args.only,
                long: args.long,
            };
            runner.every_row().await
        }
    };
    println!("{}", table::of(&rows));
    if let Some(file) = args.json {
        std::fs::write(file, table::json(&rows).to_string())?;
    }
    for row in &rows {
        for note in &row.notes {
            println!("{} {}: {note}", row.id, row.fault);
        }
    }
    let broken: Vec<_> = rows.iter().filter(|row| !row.is_clean()).collect();
    for row in &broken {
        println!("{} {}: {}", row.id, row.fault, row.problem());
    }
    println!(
        "{} of {} rows are clean, seed {seed}",
        rows.len() - broken.len(),
        rows.len()
    );
    // No row at all proves nothing.
    Ok(if broken.is_empty() && !rows.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn soaked(operator: Operator, seed: u64, minutes: u64) -> Row {
    let soak = soak::run(operator, seed, minutes).await;
    for (id, times) in &soak.strikes {
        println!("{id:<5} struck {times} times");
    }
    let struck = soak.strikes.values().filter(|times| **times > 0).count();
    println!(
        "{struck} of {} faults struck, seed {seed}",
        soak.strikes.len()
    );
    println!("longest recovery: {} ms", soak.longest_recovery_ms);
    soak.row
}
