//! Starts the gateway: settings, telemetry, run, exit code.

use std::process::ExitCode;

use gateway::Gateway;
use gateway::config::Config;
use shared::lifecycle::{run_until_signal, runtime};
use tokio_util::sync::CancellationToken;

/// Requests allocate and free a few kilobytes each, which this allocator does in less time than the C library's, and in less
/// memory than others that are as fast.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    if config.service.only_check {
        telemetry.stop();
        return ExitCode::SUCCESS;
    }
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
