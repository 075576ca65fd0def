//! What becomes of ingest, of lists and of the console's pages while stored events grow.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::TestBed;
use harness::broker::Broker;
use ops::filter::Filter;
use ops::store::search;
use shared::database::{self, Durability, PoolSettings};

use crate::Plan;
use crate::ingest;
use crate::load::{NUMBER, Shape, template};
use crate::pages;
use crate::report::{Figures, Row};

const LISTS: usize = 200;
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// One size's rows.
struct Size {
    ingest: Row,
    lists: [Row; 2],
    page: Row,
}

/// Ingest at 64 connections, lists of 50 events and the console's slowest page, at each size; ratios are to the first.
pub async fn run(plan: &Plan) -> Result<Vec<Row>> {
    let sizes: &[i64] = if plan.quick {
        &[1_000, 100_000]
    } else {
        &[1_000, 100_000, 2_000_000]
    };
    let mut measured: Vec<Size> = Vec::new();
    for stored in sizes {
        let mut size = measure(plan, *stored).await?;
        let first = measured.first().unwrap_or(&size);
        let ratios = [
            ratio(&size.ingest, &first.ingest, |figures| figures.per_second),
            ratio(&size.lists[0], &first.lists[0], |figures| figures.p50_ms),
            ratio(&size.lists[1], &first.lists[1], |figures| figures.p50_ms),
            ratio(&size.page, &first.page, |figures| figures.p50_ms),
        ];
        size.ingest.figures.ratio = ratios[0];
        size.lists[0].figures.ratio = ratios[1];
        size.lists[1].figures.ratio = ratios[2];
        size.page.figures.ratio = ratios[3];
        measured.push(size);
    }
    Ok(measured
        .into_iter()
        .flat_map(|size| {
            [size.ingest]
                .into_iter()
                .chain(size.lists)
                .chain([size.page])
        })
        .collect())
}

fn ratio(row: &Row, first: &Row, figure: fn(&Figures) -> Option<f64>) -> Option<f64> {
    Some(figure(&row.figures)? / figure(&first.figures)?)
}

async fn measure(plan: &Plan, stored: i64) -> Result<Size> {
    let (mut ingested, mut listed, mut dead) = (Vec::new(), Vec::new(), Vec::new());
    let bed = TestBed::new().await;
    fill(&bed, stored).await?;
    for _ in 0..plan.repeats {
        clear(&bed).await?;
        listed.push(list(&bed, None).await?);
        dead.push(list(&bed, Some("dead")).await?);
        ingested.push(ingest::measure(plan, &bed, Shape::closed(64)).await?);
    }
    clear(&bed).await?;
    let page = pages::measure(&bed, stored).await?;
    let name = |what: &str| format!("{what}, {stored} stored");
    Ok(Size {
        ingest: plan.row(&name("ingest, 64 connections"), &ingested),
        lists: [
            plan.row(&name("events list"), &listed),
            plan.row(&name("events list --state dead"), &dead),
        ],
        page,
    })
}

/// Stores processed events, received one a second until now.
async fn fill(bed: &TestBed, stored: i64) -> Result<()> {
    const EVENTS: &str = "
        INSERT INTO webhook_events
            (id, type, state, livemode, api_version, created_at, received_at, attempts, finished_at, rescue_from)
        SELECT 'evt_old' || lpad(n::text, 21, '0'), 'payment_intent.succeeded', 'processed', false,
            '2025-09-30.clover', at, at, 1, at, at
        FROM generate_series(0, $1::bigint - 1) n CROSS JOIN LATERAL (SELECT now() - make_interval(secs => $1 - n) AS at) time";
    const BODIES: &str = "
        INSERT INTO event_payloads (event_id, received_at, body)
        SELECT id, received_at, convert_to(replace($1, $2, right(id, 21)), 'UTF8') FROM webhook_events";
    const ATTEMPTS: &str = "
        INSERT INTO event_attempts (event_id, number, started_at, finished_at, outcome, worker, trace_id)
        SELECT id, 1, received_at, finished_at, 'processed', 'worker', md5(id) FROM webhook_events";
    bed.db.execute(EVENTS, &[&stored]).await?;
    bed.db.execute(BODIES, &[&template(), &NUMBER]).await?;
    bed.db.execute(ATTEMPTS, &[]).await?;
    Ok(())
}

/// Takes back what an earlier repeat has stored. No worker has finished those events, which only the tables' owner may
/// remove then.
async fn clear(bed: &TestBed) -> Result<()> {
    const CLEAR: &str = "
        ALTER TABLE event_payloads DISABLE TRIGGER event_payloads_keep;
        ALTER TABLE webhook_events DISABLE TRIGGER webhook_events_keep;
        DELETE FROM event_payloads WHERE event_id < 'evt_old';
        DELETE FROM webhook_events WHERE id < 'evt_old';
        DELETE FROM outbox;
        ALTER TABLE event_payloads ENABLE TRIGGER event_payloads_keep;
        ALTER TABLE webhook_events ENABLE TRIGGER webhook_events_keep";
    bed.db.batch_execute(CLEAR).await?;
    bed.db.batch_execute("VACUUM ANALYZE").await?;
    Broker::connect(bed).await.purge().await;
    Ok(())
}

/// What `ops events list` waits for.
async fn list(bed: &TestBed, state: Option<&str>) -> Result<Figures> {
    let settings = PoolSettings {
        application_name: "bench",
        size: 1,
        wait: LIST_TIMEOUT,
        statement_timeout: LIST_TIMEOUT,
        durability: Durability::Full,
        generic_plans: false,
    };
    let client = database::pool(&bed.ops_url().parse()?, &settings)
        .get()
        .await?;
    let filter = Filter {
        states: state.map(str::to_owned).into_iter().collect(),
        ..Filter::default()
    };
    let mut latencies = Vec::with_capacity(LISTS);
    for _ in 0..LISTS {
        let started = Instant::now();
        search::list(&client, &filter, None, 50).await?;
        latencies.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(Figures::default().with_latencies(latencies))
}
