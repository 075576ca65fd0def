//! How a service starts and ends: signals, the drain under one grace period, and the exit code.

use std::future::Future;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
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

/// A timer that is late by this much was frozen with its process.
const FROZEN: Duration = Duration::from_millis(500);

/// Waits for work, for `limit` at the most; none where it took longer. A process that was frozen meanwhile finds the timer
/// run out beside an answer that it has not read yet: it waits once more.
pub async fn in_time<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let started = Instant::now();
    let mut work = std::pin::pin!(work);
    if let Ok(done) = timeout(limit, &mut work).await {
        return Some(done);
    }
    if started.elapsed() < limit + FROZEN {
        return None;
    }
    timeout(limit, work).await.ok()
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::yield_now;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    /// Work whose answer comes while the process is frozen, and is passed on by another task.
    async fn after_a_freeze(frozen: Duration) -> Option<()> {
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            std::thread::sleep(frozen);
            for _ in 0..10 {
                yield_now().await;
            }
            if frozen < LIMIT {
                std::future::pending::<()>().await;
            }
            let _ = answer.send(());
        });
        in_time(LIMIT, answered)
            .await
            .map(|answer| answer.expect("an answer"))
    }

    #[tokio::test]
    async fn a_process_that_was_frozen_reads_the_answer_that_came_meanwhile() {
        assert_eq!(
            after_a_freeze(LIMIT + FROZEN + Duration::from_millis(50)).await,
            Some(())
        );
        assert_eq!(after_a_freeze(Duration::ZERO).await, None);
    }
}
