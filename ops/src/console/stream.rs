//! Server-sent events: each snapshot to everybody who looks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, Stream};
use hyper::body::{Bytes, Frame as BodyFrame};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::live::Snapshot;

/// How long a stream may be silent.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a stream lasts: who was let in once is not let in for ever.
const LONGEST: Duration = Duration::from_secs(600);

/// A message for each snapshot to come. Ends with `shutdown`, when nobody polls any more, or after a while: then the
/// browser comes back, if it is still let in.
pub fn frames(
    newest: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
    slot: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<BodyFrame<Bytes>, Infallible>> {
    // Those who were cut off at once do not come back at once.
    let retry_ms = 2_000 + rand::random_range(0..2_000);
    let first = format!("retry: {retry_ms}\n\n");
    let until = Instant::now() + LONGEST;
    stream::unfold(
        (newest, shutdown, slot, Some(first)),
        move |(mut newest, shutdown, slot, first)| async move {
            let text = match first {
                Some(first) => first,
                None if Instant::now() >= until => return None,
                None => next_text(&mut newest, &shutdown).await?,
            };
            let frame = Ok(BodyFrame::data(Bytes::from(text)));
            Some((frame, (newest, shutdown, slot, None)))
        },
    )
}

async fn next_text(
    newest: &mut watch::Receiver<Arc<Snapshot>>,
    shutdown: &CancellationToken,
) -> Option<String> {
    tokio::select! {
        () = shutdown.cancelled() => None,
        changed = tokio::time::timeout(HEARTBEAT, newest.changed()) => match changed {
            Err(_) => Some(": still here\n\n".to_owned()),
            Ok(Err(_)) => None,
            Ok(Ok(())) => Some(message(&newest.borrow_and_update())),
        },
    }
}

fn message(snapshot: &Snapshot) -> String {
    let data: Vec<String> = snapshot
        .html
        .lines()
        .map(|line| format!("data: {line}\n"))
        .collect();
    let id = snapshot.facts.at.as_millisecond();
    format!("event: overview\nid: {id}\n{}\n", data.concat())
}
