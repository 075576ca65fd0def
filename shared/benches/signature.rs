//! What it costs to verify a webhook's signature.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shared::signature::{SigningKey, verify};

const NOW: i64 = 1_700_000_000;
const TOLERANCE_S: u64 = 300;
const BODY_BYTES: usize = 3_072;

/// The last of the secrets has signed, as while a secret is rolled: every key is tried in any case.
fn signature(criterion: &mut Criterion) {
    let body = vec![b'x'; BODY_BYTES];
    let mut group = criterion.benchmark_group("verify");
    group.throughput(Throughput::Elements(1));
    for secrets in [1, 3] {
        let keys: Vec<SigningKey> = (0..secrets)
            .map(|n| SigningKey::new(&format!("whsec_{n:032}")))
            .collect();
        let header = keys[secrets - 1].sign(NOW, &body);
        group.bench_function(BenchmarkId::new("secrets", secrets), |bencher| {
            bencher.iter(|| {
                verify(
                    black_box(&header),
                    black_box(&body),
                    &keys,
                    NOW,
                    TOLERANCE_S,
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, signature);
criterion_main!(benches);
