//! The demo: sample orders and events through the real services, and a table of what happened. Settings come from the
//! environment, as `deploy/demo` sets them. `--cleanup` deletes the exchanges and queues of AMQP_PREFIX instead.

mod scenarios;
mod shop;

use std::io::IsTerminal;
use std::process::ExitCode;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

use scenarios::Scenario;
use shop::Shop;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().any(|arg| arg == "--cleanup") {
        let prefix = std::env::var("AMQP_PREFIX").unwrap_or_default();
        harness::broker::delete_topology(&prefix).await;
        return Ok(ExitCode::SUCCESS);
    }
    let shop = Shop::open().await?;
    let scenarios = scenarios::run(&shop).await?;
    println!("{}", table(&scenarios));
    let broken = scenarios
        .iter()
        .filter(|scenario| !scenario.as_promised())
        .count();
    if broken > 0 {
        println!(
            "{broken} of {} scenarios are not as promised",
            scenarios.len()
        );
        return Ok(ExitCode::FAILURE);
    }
    println!("all {} scenarios are as promised", scenarios.len());
    Ok(ExitCode::SUCCESS)
}

fn table(scenarios: &[Scenario]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.set_width(120);
    }
    table.set_header([
        "scenario",
        "sent",
        "what happened",
        "as promised",
        "ms to answer",
        "ms to final",
    ]);
    for scenario in scenarios {
        table.add_row([
            scenario.name.to_owned(),
            scenario.sent.clone(),
            scenario.happened.clone(),
            if scenario.as_promised() {
                "yes".to_owned()
            } else {
                format!("NO: {}", scenario.promised)
            },
            milliseconds(scenario.answer_ms),
            milliseconds(scenario.final_ms),
        ]);
    }
    table
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}
