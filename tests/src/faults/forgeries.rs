//! Requests that no honest sender makes, while honest ones go on. Nothing of them may be stored; each is about an order
//! of the load, so that one that slips through would show in its money too.

use anyhow::{Result, ensure};
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use reqwest::RequestBuilder;
use serde_json::json;
use shared::signature::SigningKey;

use super::scene::{MOST_GROWTH_KIB, Scene};
use crate::checker::Forgery;
use crate::raw::{bomb, endless, exchange, exchange_cut_off, request, smuggled, statuses, swollen};
use crate::simulator::{Parcel, Shape};
use crate::stripe::{SECRET, client, event, event_id, signature};

/// More than the gateway answers with 400 within a minute: the rest are answered with 429.
const ROUNDS: usize = 80;
const ANSWERED_WITH_400: usize = 600;
const AT_A_TIME: usize = 8;
const LARGEST_BODY: usize = 1024 * 1024;

/// What is wrong with a signature, and the header lines that say so.
fn signatures(body: &str) -> Vec<(&'static str, Vec<String>)> {
    let (now, key) = (Timestamp::now().as_second(), SigningKey::new(SECRET));
    let right = key.sign(now, body.as_bytes());
    let wrong = |n: u8| format!("v1={}", hex::encode([n; 32]));
    let many: Vec<String> = (0..50).map(wrong).collect();
    vec![
        ("no signature", vec![]),
        ("an empty one", vec![String::new()]),
        ("a malformed one", vec!["nonsense".to_owned()]),
        (
            "one of another key",
            vec![SigningKey::new("whsec_other").sign(now, body.as_bytes())],
        ),
        ("a stale one", vec![key.sign(now - 600, body.as_bytes())]),
        (
            "one of the future",
            vec![key.sign(now + 600, body.as_bytes())],
        ),
        ("one of another body", vec![key.sign(now, b"{}")]),
        ("one of v0 only", vec![right.replace("v1=", "v0=")]),
        (
            "fifty wrong digests",
            vec![format!("t={now},{}", many.join(","))],
        ),
        ("two headers", vec![right.clone(), right]),
    ]
}

/// Every kind again and again, beyond the rate at which they are read at all.
pub fn of_signatures(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let http = client();
        let url = format!("http://{}/webhooks/stripe", scene.stage.gateways[0].address);
        let paid = scene.plan.shaped(Shape::Paid).parcels();
        let mut requests = Vec::new();
        for parcel in paid.iter().cycle().take(ROUNDS) {
            // A payment of an order of the load, under an id that nobody sent.
            let body = parcel.body.replace(&parcel.sent.id, &event_id());
            for (what, headers) in signatures(&body) {
                let request = http.post(&url).body(body.clone());
                let request = headers.iter().fold(request, |request, header| {
                    request.header("stripe-signature", header)
                });
                requests.push((what, request));
            }
        }
        let answers = stream::iter(requests).map(|(what, request)| forged(what, request));
        let answers: Vec<Forgery> = answers.buffer_unordered(AT_A_TIME).collect().await;
        let refused = answers.iter().filter(|answer| answer.status == 400).count();
        let limited = answers.iter().filter(|answer| answer.status == 429).count();
        answers
            .into_iter()
            .for_each(|answer| scene.load.forged(answer));
        ensure!(
            refused >= ANSWERED_WITH_400 && limited > 0,
            "{refused} were refused and {limited} not even read"
        );
        every_cause_is_counted(scene).await
    }
    .boxed_local()
}

async fn forged(what: &str, request: RequestBuilder) -> Forgery {
    let (status, answer) = match request.send().await {
        Ok(answer) => (
            answer.status().as_u16(),
            answer.text().await.unwrap_or_default(),
        ),
        Err(_) => (0, String::new()),
    };
    Forgery {
        what: what.to_owned(),
        status,
        answer,
        expected: &[400, 429],
        alike: true,
    }
}

async fn every_cause_is_counted(scene: &Scene) -> Result<()> {
    let metrics = scene.stage.gateways[0].metrics().await?;
    for cause in [
        "signature_missing",
        "signature_malformed",
        "signature_mismatch",
        "signature_stale",
        "rate_limited",
    ] {
        ensure!(metrics.contains(cause), "the metrics do not count {cause}");
    }
    Ok(())
}

/// Bytes over a raw socket, and how they must be answered. Zero stands for a connection closed without an answer, as
/// when the gateway does not read to the end.
async fn raw(scene: &mut Scene, what: &str, bytes: &[u8], expected: &'static [u16]) {
    let answer = exchange(scene.stage.gateways[0].address, bytes).await;
    answered(scene, what, answer, expected);
}

fn answered(scene: &mut Scene, what: &str, answer: String, expected: &'static [u16]) {
    let status = match statuses(&answer)[..] {
        [status] => status.parse().unwrap_or(1),
        [] => 0,
        // A second answer is one to a hidden request.
        _ => 1,
    };
    scene.load.forged(Forgery {
        what: what.to_owned(),
        status,
        answer,
        expected,
        alike: false,
    });
}

/// An event that nobody handles, padded to so many bytes.
fn padded(id: &str, bytes: usize) -> String {
    let body = event(id, "some.type", &json!({ "padding": "" }));
    let lacking = bytes.saturating_sub(body.len());
    let padding = format!(r#""padding": "{}""#, "x".repeat(lacking));
    body.replacen(r#""padding": """#, &padding, 1)
}

fn signed(headers: &str, body: &[u8]) -> Vec<u8> {
    let signature = signature(body);
    let headers = format!("{headers}Stripe-Signature: {signature}\r\nConnection: close\r\n");
    [request(&headers, "").as_bytes(), body].concat()
}

fn of_length(body: &[u8]) -> String {
    format!("Content-Length: {}\r\n", body.len())
}

/// Empty, too large, endless, cut off, compressed, no JSON. The gateway must not grow by what it does not take. The largest
/// body that it takes is taken.
pub fn of_bodies(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let memory = |scene: &Scene| scene.stage.gateways[0].memory_kib().unwrap_or(0);
        let before = memory(scene);
        for _ in 0..5 {
            let id = event_id();
            let largest = padded(&id, LARGEST_BODY);
            ensure!(largest.len() == LARGEST_BODY, "the body is not as large");
            scene.load.send(Parcel::unhandled(id, largest));
            for (what, bytes, expected) in bad_bodies() {
                raw(scene, what, &bytes, expected).await;
            }
            let cut_off = padded(&event_id(), 1_000).into_bytes();
            let longer = format!("Content-Length: {}\r\n", cut_off.len() + 1);
            let gateway = scene.stage.gateways[0].address;
            let answer = exchange_cut_off(gateway, &signed(&longer, &cut_off)).await;
            answered(scene, "one cut off", answer, &[400, 0]);
        }
        let grown = memory(scene).saturating_sub(before);
        scene.note(format!("the gateway grew by {grown} KiB"));
        ensure!(grown < MOST_GROWTH_KIB, "the gateway grew by {grown} KiB");
        Ok(())
    }
    .boxed_local()
}

/// What is wrong with a body, the whole request, and how it must be answered. What is compressed is never unpacked: it is no
/// JSON.
fn bad_bodies() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let whole = |body: &[u8]| signed(&of_length(body), body);
    let zipped = |body: &[u8]| {
        let headers = format!("Content-Encoding: gzip\r\n{}", of_length(body));
        signed(&headers, body)
    };
    let too_large = padded(&event_id(), LARGEST_BODY + 1).into_bytes();
    let broken = request("Transfer-Encoding: chunked\r\n", "zz\r\nx\r\n0\r\n\r\n");
    vec![
        ("no body", whole(b""), &[400]),
        ("one byte too many", whole(&too_large), &[413, 0]),
        (
            "50 MB in chunks",
            endless(50_000_000).into_bytes(),
            &[413, 0],
        ),
        ("a compressed one", zipped(GZIPPED), &[400]),
        ("150 MB, compressed", zipped(&bomb(LARGEST_BODY)), &[400]),
        ("no event", whole(b"{}"), &[400]),
        ("broken chunks", broken.into_bytes(), &[400]),
    ]
}

/// Signed, but no JSON, or no text at all: the load's own poison is JSON and is stored.
pub fn of_json(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        let bodies: [&[u8]; 4] = [
            b"\xff\xfe{}",
            b"{\"id\":\"\xc3\x28\",\"type\":\"a\"}",
            b"[[[[",
            b"{\"id\":\"evt_1\"",
        ];
        for body in bodies.iter().cycle().take(40) {
            raw(scene, "no JSON", &signed(&of_length(body), body), &[400]).await;
        }
        Ok(())
    }
    .boxed_local()
}

/// Two bytes, compressed; whoever unpacked them would find `{}`.
const GZIPPED: &[u8] =
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";

/// Hidden requests, too many headers, too large ones, and what is no HTTP at all.
pub fn of_headers(scene: &mut Scene) -> LocalBoxFuture<'_, Result<()>> {
    async move {
        for _ in 0..5 {
            for request in smuggled() {
                raw(scene, "a hidden request", request.as_bytes(), &[400]).await;
            }
            for request in swollen() {
                raw(scene, "swollen headers", request.as_bytes(), &[431, 0]).await;
            }
            let greeting = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
            raw(scene, "a greeting of TLS", greeting, &[400, 0]).await;
        }
        Ok(())
    }
    .boxed_local()
}
