//! Requests that no honest sender makes: over raw sockets, where an HTTP client would not let them pass.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::future::join_all;
use harness::binaries::Process;
use harness::raw::{endless, exchange, exchange_cut_off, request, smuggled, statuses, swollen};
use harness::stripe::{event, event_id, payment_intent, post, signature};
use harness::{RunningGateway, RunningWorker, TestBed, properties};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn nothing_is_stored(bed: &TestBed) {
    assert_eq!(bed.count("SELECT count(*) FROM webhook_events").await, 0);
}

#[tokio::test]
async fn a_smuggled_request_is_never_answered() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    for request in smuggled() {
        let answer = exchange(gateway.address, request.as_bytes()).await;
        let found = statuses(&answer);
        assert!(matches!(found[..], ["400"]), "{request}: {answer}");
    }
    nothing_is_stored(&bed).await;
}

#[tokio::test]
async fn too_many_or_too_large_headers_are_refused() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    for request in swollen() {
        let answer = exchange(gateway.address, request.as_bytes()).await;
        // Where the gateway closes before it was told everything, its answer may be lost with the connection.
        assert!(matches!(statuses(&answer)[..], ["431"] | []), "{answer}");
    }
    let answer = exchange(
        gateway.address,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    )
    .await;
    assert!(matches!(statuses(&answer)[..], ["400"] | []), "{answer}");
    nothing_is_stored(&bed).await;
}

#[tokio::test]
async fn a_body_that_is_not_as_announced_is_not_stored() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--max-body-bytes=1000"]).await;
    let body = event(&event_id(), "some.type", &json!({}));
    let signed = format!("Stripe-Signature: {}\r\n", signature(body.as_bytes()));
    let short = format!("{signed}Content-Length: {}\r\n", body.len() + 1);
    let answer = exchange_cut_off(gateway.address, request(&short, &body).as_bytes()).await;
    assert!(matches!(statuses(&answer)[..], ["400"] | []), "{answer}");

    let answer = exchange(gateway.address, endless(50_000).as_bytes()).await;
    assert!(matches!(statuses(&answer)[..], ["413"] | []), "{answer}");

    let broken = request("Transfer-Encoding: chunked\r\n", "zz\r\nx\r\n0\r\n\r\n");
    let answer = exchange(gateway.address, broken.as_bytes()).await;
    assert!(matches!(statuses(&answer)[..], ["400"]), "{answer}");
    nothing_is_stored(&bed).await;
}

/// Each piece arrives in a read buffer of its own, of several kilobytes.
#[tokio::test]
async fn a_body_in_tiny_pieces_takes_no_more_memory_than_its_bytes() {
    const CONNECTIONS: usize = 40;
    const PIECES: usize = 300;
    let bed = TestBed::new().await;
    let gateway = Process::gateway(&bed, &[]).await;
    let head = request("Content-Length: 10000\r\n", "");
    let drip = async || {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..PIECES {
            stream.write_all(b"x").await.unwrap();
            // Two of them must not arrive as one.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stream
    };
    let before = gateway.memory_kib().unwrap();
    let open = join_all((0..CONNECTIONS).map(|_| drip())).await;
    let grown = gateway.memory_kib().unwrap().saturating_sub(before);
    drop(open);
    assert!(grown < 8 * 1024, "{grown} KiB more");
}

#[tokio::test]
async fn a_compressed_body_is_not_unpacked() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    // A gzip stream; whoever unpacked it would find `{}`.
    let body =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";
    let headers = format!(
        "Content-Encoding: gzip\r\nStripe-Signature: {}\r\nContent-Length: {}\r\nConnection: close\r\n",
        signature(body),
        body.len()
    );
    let bytes = [request(&headers, "").as_bytes(), body].concat();
    let answer = exchange(gateway.address, &bytes).await;
    assert_eq!(statuses(&answer), ["400"]);
    assert!(answer.contains("invalid_payload"), "{answer}");
    nothing_is_stored(&bed).await;
}

#[tokio::test]
async fn signed_nonsense_is_refused_or_dead_at_once_and_the_worker_lives_on() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = RunningGateway::start(&bed, &[]).await;
    let _worker = RunningWorker::start(&bed, &[]).await;
    for refused in [
        &b"\xff\xfe{}"[..],
        b"{\"id\":\"\xc3\x28\",\"type\":\"a\"}",
        b"[[[[",
        b"",
    ] {
        assert_eq!(post(gateway.address, refused).await.status, 400);
    }
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let poisons = [
        format!("{{\"object\":{deep}}}"),
        r#"{"object":{"id":"pi_1","amount":1e400,"currency":"usd","metadata":{"order_id":"ord_1"}}}"#.to_owned(),
        r#"{"object":{"id":"pi_1","amount":123456789012345678901234567890,"currency":"usd"}}"#.to_owned(),
        r#"{"object":{"id":"pi_1","amount":5000,"amount":1,"currency":"usd","metadata":{"order_id":"ord_1"}}}"#.to_owned(),
        r#"{"object":"a string"}"#.to_owned(),
        "null".to_owned(),
    ];
    for poison in &poisons {
        let id = event_id();
        let body = format!(
            r#"{{"id":"{id}","type":"payment_intent.succeeded","livemode":false,"created":1,"data":{poison}}}"#
        );
        assert_eq!(
            post(gateway.address, body).await.status,
            200,
            "{poison:.80}"
        );
        bed.until_state(&id, "dead").await;
    }
    let dead = "SELECT count(*) FROM webhook_events WHERE state = 'dead' AND attempts = 1";
    assert_eq!(bed.count(dead).await, poisons.len() as i64);
    let id = event_id();
    let good = event(&id, "payment_intent.succeeded", &payment_intent("ord_1"));
    assert_eq!(post(gateway.address, good).await.status, 200);
    bed.until_state(&id, "processed").await;
    bed.check_invariants().await;
}

/// Tokens that readers of headers and JSON look for.
const TOKENS: [&[u8]; 20] = [
    b",",
    b"=",
    b"t=",
    b"v1=",
    b"v0=",
    b"\0",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"1e999",
    b"-0",
    b"\"id\":",
    b"\"type\":",
    b"\xff",
];

/// Bytes flipped, dropped, doubled, and tokens put between them.
fn mutated(seed: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=bytes.len());
        let until = rng.random_range(at..=bytes.len().min(at + 12));
        match rng.random_range(0..4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => drop(bytes.drain(at..until)),
            2 => {
                let again = bytes[at..until].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let token = TOKENS[rng.random_range(0..TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
    bytes
}

/// As the fuzz targets do for hours, for a second. FUZZ_SEED repeats a run.
fn fuzz(property: fn(&[u8]), seeds: &[Vec<u8>]) -> Result<(), String> {
    let given = std::env::var("FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..20_000 {
        let data = mutated(&seeds[rng.random_range(0..seeds.len())], &mut rng);
        let held = catch_unwind(AssertUnwindSafe(|| property(&data)));
        held.map_err(|_| format!("FUZZ_SEED={seed}: {:?}", String::from_utf8_lossy(&data)))?;
    }
    Ok(())
}

#[test]
fn any_header_is_read_without_a_false_yes_or_no() {
    let signed = |body: &str| {
        let header =
            shared::signature::SigningKey::new("whsec_fuzz").sign(1_760_000_000, body.as_bytes());
        [header.as_bytes(), b"\0", body.as_bytes()].concat()
    };
    let seeds = [signed("{}"), signed(""), b"t=1,v1=,v0=a\0x".to_vec()];
    fuzz(properties::header, &seeds).unwrap();
}

#[test]
fn any_envelope_is_read_as_another_reader_reads_it() {
    let seeds = [
        event("evt_1", "a.b", &json!({ "id": "x", "type": "y" })).into_bytes(),
        br#"{"id":"evt_1","type":"a","created":1,"livemode":true,"account":null}"#.to_vec(),
        br#"{"id":"evt_2","object":"v2.core.event","type":"v1.a","created":"2026-03-01T10:00:00Z"}"#.to_vec(),
    ];
    fuzz(properties::envelope, &seeds).unwrap();
}

#[test]
fn the_fuzzer_finds_a_reader_that_is_wrong() {
    let wrong = |data: &[u8]| assert!(!data.ends_with(b"}}"), "two braces");
    fuzz(wrong, &[b"{}".to_vec()]).unwrap_err();
}

#[tokio::test]
async fn connections_that_ask_for_nothing_make_room_for_those_that_do() {
    let bed = TestBed::new().await;
    let gateway = RunningGateway::start(&bed, &["--max-connections=20"]).await;
    // Silent, or in the middle of their headers, for as long as this test lasts.
    let mut idle = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        if number % 2 == 0 {
            let _ = stream
                .write_all(b"POST /webhooks/stripe HTTP/1.1\r\nHos")
                .await;
        }
        idle.push(stream);
    }
    let posts = (0..10).map(|_| async {
        let body = event(&event_id(), "some.type", &json!({}));
        post(gateway.address, body).await.status
    });
    let answers = tokio::time::timeout(Duration::from_secs(5), join_all(posts)).await;
    assert_eq!(answers.unwrap(), [200; 10]);
    // Most of them were sent away: the gateway keeps no more than it may.
    let mut closed = 0;
    for stream in &mut idle {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(10), stream.read(&mut byte));
        closed += usize::from(read.await.is_ok());
    }
    assert!(closed >= 80, "{closed} of 100 were closed");
}
