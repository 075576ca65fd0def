//! What it costs to read an event's envelope, over bodies of every size that Stripe sends.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gateway::envelope::Envelope;

macro_rules! bodies {
    ($($event_type:literal),* $(,)?) => {
        [$(($event_type, include_bytes!(concat!("../../ops/events/", $event_type, ".json")).as_slice())),*]
    };
}

const BODIES: [(&str, &[u8]); 12] = bodies![
    "charge.dispute.created",
    "charge.refunded",
    "charge.succeeded",
    "checkout.session.completed",
    "checkout.session.expired",
    "customer.subscription.updated",
    "invoice.paid",
    "invoice.payment_failed",
    "payment_intent.payment_failed",
    "payment_intent.succeeded",
    "refund.created",
    "thin",
];

fn envelope(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("envelope");
    for (event_type, body) in BODIES {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(event_type), |bencher| {
            bencher.iter(|| Envelope::read(black_box(body)));
        });
    }
    group.finish();
}

criterion_group!(benches, envelope);
criterion_main!(benches);
