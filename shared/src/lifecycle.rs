//! How a service starts and ends: signals, the drain under one grace period, and the exit code.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long a drain may take before the service gives up and exits non-zero.
pub const GRACE: Duration = Duration::from_secs(25);

/// The async runtime of a service. One thread needs no waking of others, which costs more than most of what it would do
/// meanwhile.
pub fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build()
}

/// Runs `service` until it ends. The first SIGTERM or SIGINT cancels `shutdown`, which makes the service drain; a
/// second one, or a drain longer than [`GRACE`], ends it at once with a failure.
pub async fn run_until_signal<E: std::fmt::Display>(
    shutdown: CancellationToken,
    service: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    // A hang-up asks to read settings again, of whoever does: it must end nobody.
    let _hangup = signal(SignalKind::hangup());
    let (mut terminate, mut interrupt) = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(failure), _) | (_, Err(failure)) => {
            error!(error = %failure, "signal handlers cannot be installed");
            return ExitCode::FAILURE;
        }
    };
    tokio::pin!(service);
    tokio::select! {
        ended = &mut service => return exit_code(ended),
        _ = terminate.recv() => info!("SIGTERM: draining"),
        _ = interrupt.recv() => info!("SIGINT: draining"),
    }
    shutdown.cancel();
    tokio::select! {
        ended = &mut service => exit_code(ended),
        () = tokio::time::sleep(GRACE) => {
            error!("the drain did not end within {} s", GRACE.as_secs());
            ExitCode::FAILURE
        }
        _ = terminate.recv() => second_signal(),
        _ = interrupt.recv() => second_signal(),
    }
}

fn second_signal() -> ExitCode {
    warn!("second signal: ending at once");
    ExitCode::FAILURE
}

fn exit_code<E: std::fmt::Display>(ended: Result<(), E>) -> ExitCode {
    match ended {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            error!(error = %failure, "stopped by a fault");
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Sleeps for `delay`; `false` when `shutdown` came first.
pub async fn sleep_unless(shutdown: &CancellationToken, delay: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(delay) => true,
        () = shutdown.cancelled() => false,
    }
}

/// What runs beside a service's work for as long as it lives.
#[derive(Default)]
pub struct Background {
    token: CancellationToken,
    tasks: JoinSet<()>,
}

impl Background {
    /// Tells the tasks to end.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a task until the token is cancelled, or there is no more work for it in a drain.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Returns when a task ends by itself or panics, which none should.
    pub async fn one_ended(&mut self) {
        self.tasks.join_next().await;
    }

    /// Ends the tasks, for `limit` at the most; what is left then is aborted.
    pub async fn stop(mut self, limit: Duration) {
        self.token.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, ended).await.is_err() {
            warn!("background tasks did not end in time");
        }
    }
}
