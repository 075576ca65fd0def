//! What the console's pages take, however much is stored.

use std::time::Instant;

use anyhow::{Result, ensure};
use harness::TestBed;
use harness::console::{Console, encoded};

use crate::report::{Figures, Row};

/// Longer than that nobody waits for a page.
const MOST_MS: f64 = 200.0;
const VIEWS: usize = 20;

/// One in a hundred events is dead, one in fifty ignored; some wait. Half of the dead letters are old and resolved.
const SCENERY: &str = "
    UPDATE webhook_events SET state = 'dead', last_error = 'no order is known', attempts = 2
    WHERE state = 'processed' AND right(id, 2) = '01';
    UPDATE webhook_events SET state = 'ignored' WHERE state = 'processed' AND right(id, 2) IN ('11', '61');
    UPDATE webhook_events SET account = 'acct_' || right(id, 2) WHERE right(id, 1) = '7';
    UPDATE webhook_events SET state = 'received', finished_at = NULL
    WHERE state = 'processed' AND received_at > now() - interval '5 minutes';
    INSERT INTO dead_letters (event_id, reason, error, fingerprint, died_at)
    SELECT id, 'order_not_found', last_error, left(md5(substr(id, 22, 1)), 16), received_at
    FROM webhook_events WHERE state = 'dead';
    INSERT INTO dead_letters (event_id, reason, error, fingerprint, died_at, resolved_at, resolution)
    SELECT id, 'busy', 'busy', left(md5(substr(id, 21, 2)), 16), received_at, received_at, 'replayed'
    FROM webhook_events WHERE right(id, 2) = '02';
    INSERT INTO event_objects (object_id, event_id) SELECT 'pi_' || right(id, 6), id FROM webhook_events WHERE right(id, 1) = '5';
    INSERT INTO rejections (id, at, cause, count, client)
    SELECT 'rej_' || id, received_at, 'signature_' || right(id, 1), 3, '::1' FROM webhook_events WHERE right(id, 1) IN ('1', '2');
    INSERT INTO audit_log (at, actor, action, reason, details)
    SELECT received_at, 'operator ' || right(id, 1), 'event.' || substr(id, 22, 1), 'a reason', jsonb_build_object('event_ids', jsonb_build_array(id))
    FROM webhook_events WHERE right(id, 2) IN ('03', '14', '25');
    INSERT INTO replays (created_by, reason, filter, plan_hash, planned_count, rate_per_s, changed_by, changed_why, state, finished_at)
    SELECT 'a', 'a longer reason', '{}', 'hash', 1, 1, 'a', 'b', 'cancelled', now() FROM generate_series(1, 2000)";

/// Filters of events: by an index, by several of them merged, and by what no index knows.
const FILTERS: [&str; 19] = [
    "",
    "state:dead",
    "state:received",
    "state:received,retrying",
    "state:dead,ignored,retrying,discarded",
    "state:processed",
    "state:ignored type:none",
    "type:payment_intent.*",
    "type:payment_intent.succeeded state:dead",
    "account:acct_07",
    "account:acct_none",
    "attempts:2",
    "attempts:9",
    "id:evt_old0000000000000000",
    "object:pi_000005",
    "fingerprint:cfcd208495d565ef",
    "reason:busy",
    "livemode:true",
    "api_version:none state:processed since:365d",
];

/// Fills the other tables, looks at every page, and fails where one takes too long. Gives the figures of the slowest.
pub async fn measure(bed: &TestBed, stored: i64) -> Result<Row> {
    bed.db.batch_execute(SCENERY).await?;
    bed.db.batch_execute("VACUUM ANALYZE").await?;
    let console = Console::start(bed, &[]).await;
    let mut slowest: Option<(String, Vec<f64>)> = None;
    for path in paths(&console).await {
        let mut latencies = view(&console, &path).await?;
        latencies.sort_by(f64::total_cmp);
        // One of the views may be disturbed by another program.
        let took = latencies[VIEWS - 2];
        ensure!(
            took < MOST_MS,
            "{path} takes {took:.0} ms with {stored} events"
        );
        if slowest
            .as_ref()
            .is_none_or(|(_, most)| took > most[VIEWS - 2])
        {
            slowest = Some((path, latencies));
        }
    }
    let (path, latencies) = slowest.unwrap_or_default();
    eprintln!("the slowest of the console's pages is {path}");
    Ok(Row {
        name: format!("console's slowest page, {stored} stored"),
        figures: Figures::default().with_latencies(latencies),
    })
}

async fn view(console: &Console, path: &str) -> Result<Vec<f64>> {
    let mut latencies = Vec::with_capacity(VIEWS);
    for _ in 0..VIEWS {
        let started = Instant::now();
        let page = console.get(path).await;
        ensure!(page.status == 200, "{path}: {} {}", page.status, page.text);
        latencies.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(latencies)
}

/// Every list, and the second page of each filter that has one.
async fn paths(console: &Console) -> Vec<String> {
    let mut paths: Vec<String> = [
        "/",
        "/overview/charts.json",
        "/events/evt_old000000000000000000001",
        "/dead-letters",
        "/dead-letters?state=resolved",
        "/dead-letters/cfcd208495d565ef",
        "/replays",
        "/replays/new?filter=fingerprint:cfcd208495d565ef",
        "/reconcile",
        "/rejections",
        "/rejections?cause=none",
        "/audit",
        "/audit?actor=nobody",
        "/audit?actor=operator+3&action=event.9",
        "/audit?event=evt_old000000000000000000003",
        "/settings",
    ]
    .map(str::to_owned)
    .into();
    for filter in FILTERS {
        let path = format!("/events?filter={}", encoded(filter));
        let first = console.get(&path).await;
        if first.text.contains("rel=\"next\"") {
            paths.push(first.link("rel=\"next\""));
        }
        paths.push(path);
    }
    paths
}
