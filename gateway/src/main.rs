//! Starts the gateway: settings, telemetry, run, exit code.

use std::process::ExitCode;

use gateway::Gateway;
use gateway::config::Config;
use shared::lifecycle::run_until_signal;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let config = match Config::from_environment() {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    let telemetry = match shared::telemetry::start("gateway", config.service.log_format) {
        Ok(telemetry) => telemetry,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(2);
        }
    };
    let runtime = match runtime(config.threads) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let metrics = telemetry.metrics.clone();
    let shutdown = CancellationToken::new();
    let code = runtime.block_on(run_until_signal(shutdown.clone(), async {
        Gateway::bind(config, metrics).await?.run(shutdown).await
    }));
    runtime.shutdown_background();
    telemetry.stop();
    code
}

/// One thread needs no waking of others, which costs more than what most requests do.
fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build()
}
