//! `ops health`: the lights of the console's overview, for the command line.

use serde::Serialize;

use crate::console::lights::{Light, broker, light, service};
use crate::console::probes::Prober;
use crate::output::{Output, safe, table};
use crate::store::console::overview;
use crate::{Database, OpsError};

/// Where the services are.
#[derive(clap::Args)]
pub struct Args {
    /// Admin addresses of gateways, separated by commas
    #[arg(
        long,
        env = "CONSOLE_GATEWAY_ADMIN",
        default_value = "http://127.0.0.1:9080",
        value_delimiter = ','
    )]
    gateway_admin: Vec<String>,
    /// Admin addresses of workers, separated by commas
    #[arg(
        long,
        env = "CONSOLE_WORKER_ADMIN",
        default_value = "http://127.0.0.1:9081",
        value_delimiter = ','
    )]
    worker_admin: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    lights: Vec<Light>,
    /// Events that are not final.
    waiting: Option<i64>,
    /// How old the oldest of them is.
    oldest_s: Option<f64>,
    /// Unresolved ones.
    dead_letters: Option<i64>,
}

/// Asks everything once.
pub async fn run(database: &Database, args: Args, output: Output) -> Result<(), OpsError> {
    let prober = Prober::new();
    let (gateways, workers, asked) = tokio::join!(
        prober.ask(&args.gateway_admin),
        prober.ask(&args.worker_admin),
        async {
            overview::backlog(&database.connect().await?)
                .await
                .map_err(OpsError::from)
        }
    );
    let stands = match &asked {
        Ok(_) => light("Database", "up", "up", "it answers"),
        Err(problem @ (OpsError::Usage(_) | OpsError::NotPermitted(_))) => {
            light("Database", "down", "down", &problem.to_string())
        }
        Err(_) => light("Database", "down", "down", "no answer"),
    };
    let backlog = asked.ok();
    let now = jiff::Timestamp::now();
    let oldest = backlog.as_ref().and_then(|backlog| backlog.oldest_at);
    let report = Report {
        lights: vec![
            stands,
            broker(&gateways, &workers),
            service("Gateway", &gateways),
            service("Worker", &workers),
        ],
        waiting: backlog.as_ref().map(|backlog| backlog.events),
        oldest_s: oldest.map(|at| now.duration_since(at).as_secs_f64()),
        dead_letters: backlog.as_ref().map(|backlog| backlog.dead_letters),
    };
    output.print("health", &report, text)?;
    match report
        .lights
        .iter()
        .filter(|light| light.state == "down")
        .count()
    {
        0 => Ok(()),
        down => Err(OpsError::Unavailable(format!(
            "{down} of {} are down",
            report.lights.len()
        ))),
    }
}

fn text(report: &Report) -> String {
    let lights = report.lights.iter().map(|light| {
        [
            light.name.to_owned(),
            light.word.clone(),
            safe(&light.detail),
        ]
    });
    let count = |value: Option<i64>| value.map_or("-".to_owned(), |count| count.to_string());
    let oldest = report
        .oldest_s
        .map_or("-".to_owned(), |age| format!("{age:.0} s old"));
    let backlog = [
        ["waiting".to_owned(), count(report.waiting), oldest],
        [
            "dead letters".to_owned(),
            count(report.dead_letters),
            "unresolved".to_owned(),
        ],
    ];
    table(["what", "state", "detail"], lights.chain(backlog))
}
