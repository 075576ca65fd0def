//! Who is let in, what they may do, and where changes may come from.

use std::time::Duration;

use harness::TestBed;
use harness::binaries::run;
use harness::console::{Console, users_file};
use tokio::time::timeout;

use super::{GROUP, PAYLOAD, dead_event};

/// What was done, apart from coming in.
const CHANGES: &str = "SELECT count(*) FROM audit_log WHERE action NOT LIKE 'console.%'";

#[tokio::test]
async fn changes_from_elsewhere_and_other_hosts_are_refused() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(&bed, &[]).await;
    let (path, form) = ("/events/evt_1/retry", [("reason", "mended")]);
    let (origin, own) = console.origin();
    for headers in [
        vec![],
        vec![("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "same-site")],
        vec![("sec-fetch-site", "none")],
        vec![("sec-fetch-site", "cross-site"), (origin, own.as_str())],
        vec![(origin, "http://evil.example")],
        vec![(origin, "null")],
    ] {
        console.post_with(path, &form, &headers).await.is(403);
    }
    assert_eq!(bed.state("evt_1").await, "dead");
    assert_eq!(bed.count("SELECT count(*) FROM audit_log").await, 0);
    for host in [
        "evil.example",
        "evil.example:9090",
        "127.0.0.1.evil.example",
    ] {
        console.get_with("/", &[("host", host)]).await.is(421);
    }
    console
        .get_with("/", &[("host", "localhost:1")])
        .await
        .is(200);
    // A GET changes nothing.
    console.get(path).await.is(404);
    console
        .post_with(path, &form, &[(origin, &own)])
        .await
        .is(303);
    assert_eq!(bed.state("evt_1").await, "received");
}

pub fn basic(name: &str, password: &str) -> String {
    use base64::Engine;
    let credentials = format!("{name}:{password}");
    format!(
        "Basic {}",
        base64::prelude::BASE64_STANDARD.encode(credentials)
    )
}

#[tokio::test]
async fn roles_bound_what_each_user_may_do() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let file = bed.path("users");
    let users = [
        ("ann", "admin", "ann's password"),
        ("olga", "operator", "olga's password"),
        ("vic", "viewer", "vic's password"),
    ];
    users_file(&file, &users).await;
    let console = Console::start(&bed, &[("CONSOLE_USERS_FILE", file.to_str().unwrap())]).await;
    let send = async |name: &str, path: &str, form: &[(&str, &str)]| {
        let (_, _, password) = users.iter().find(|user| user.0 == name).unwrap();
        let credentials = basic(name, password);
        let headers = [
            ("authorization", credentials.as_str()),
            ("sec-fetch-site", "same-origin"),
        ];
        console.post_with(path, form, &headers).await
    };
    let reason = ("reason", "the order is there now");
    let vic = basic("vic", "vic's password");
    let seen = console
        .get_with("/events/evt_1", &[("authorization", &vic)])
        .await;
    seen.is(200).hides("Retry now").hides("Reveal</button>");
    for (path, form) in [
        ("/events/evt_1/retry", vec![reason]),
        ("/events/evt_1/reveal", vec![reason]),
        ("/events/evt_1/discard", vec![reason]),
        (GROUP, vec![("state", "ignored")]),
        (&format!("{GROUP}/discard"), vec![("count", "1"), reason]),
        (
            "/replays",
            vec![("filter", "all"), ("plan_hash", "x"), reason],
        ),
        ("/replays/1/cancel", vec![reason]),
    ] {
        send("vic", path, &form)
            .await
            .is(403)
            .hides("jane@example.com");
    }
    let forced = [
        ("filter", "all"),
        ("plan_hash", "x"),
        ("force", "1"),
        reason,
    ];
    send("olga", "/replays", &forced).await.is(403);
    send("ann", "/replays", &forced).await.is(409);
    assert_eq!(bed.count(CHANGES).await, 0);
    send("olga", "/events/evt_1/retry", &[reason]).await.is(303);
    let by_olga = "SELECT count(*) FROM audit_log WHERE actor = 'olga' AND action = 'event.retry'";
    assert_eq!(bed.count(by_olga).await, 1);
    // Colours are nobody's business.
    send(
        "vic",
        "/theme",
        &[("theme", "dark"), ("back", "//evil.example")],
    )
    .await
    .is(303);
}

#[tokio::test]
async fn guessing_passwords_is_cut_short() {
    let bed = TestBed::new().await;
    let file = bed.path("users");
    users_file(&file, &[("ann", "admin", "ann's password")]).await;
    let console = Console::start(&bed, &[("CONSOLE_USERS_FILE", file.to_str().unwrap())]).await;
    let sign_in = async |password: &str| {
        let credentials = basic("ann", password);
        let headers = [("authorization", credentials.as_str())];
        console.get_with("/", &headers).await.status
    };
    assert_eq!(sign_in("ann's password").await, 200);
    let mut last = 0;
    for guess in 0..20 {
        last = sign_in(&format!("guess {guess}")).await;
    }
    assert_eq!(last, 429);
    let noted = "SELECT count(*) FROM audit_log WHERE action = 'console.sign_in_failed'";
    assert_eq!(bed.count(noted).await, 1);
    // Who signed in before is not kept out by it.
    assert_eq!(sign_in("ann's password").await, 200);
}

#[tokio::test]
async fn nobody_is_kept_out_while_the_audit_log_is_stuck() {
    let bed = TestBed::new().await;
    let file = bed.path("users");
    users_file(&file, &[("ann", "admin", "ann's password")]).await;
    let console = Console::start(&bed, &[("CONSOLE_USERS_FILE", file.to_str().unwrap())]).await;
    let stuck = "
        CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
        CREATE TRIGGER stuck BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION stuck()";
    bed.db.batch_execute(stuck).await.unwrap();
    let ann = basic("ann", "ann's password");
    let headers = [("authorization", ann.as_str())];
    let settings = console.get_with("/settings", &headers);
    let page = timeout(Duration::from_secs(4), settings).await.unwrap();
    page.is(200);
}

#[tokio::test]
async fn read_only_and_proxied_consoles_hold_to_it() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(
        &bed,
        &[
            ("CONSOLE_READ_ONLY", "true"),
            ("CONSOLE_PROXY_HEADER", "x-user"),
            ("CONSOLE_PROXY_SECRET", "0123456789abcdef"),
        ],
    )
    .await;
    console.get("/").await.is(403);
    console.get_with("/", &[("x-user", "ann")]).await.is(403);
    let wrong = [
        ("x-user", "ann"),
        ("x-console-proxy-secret", "0123456789abcdeX"),
    ];
    console.get_with("/", &wrong).await.is(403);
    let ann = [
        ("x-user", "ann"),
        ("x-console-role", "admin"),
        ("x-console-proxy-secret", "0123456789abcdef"),
        ("sec-fetch-site", "same-origin"),
    ];
    let page = console.get_with("/events/evt_1", &ann).await;
    page.is(200).shows("read-only").hides("Retry now");
    for path in [
        "/events/evt_1/retry",
        "/events/evt_1/reveal",
        "/events/evt_1/discard",
        GROUP,
        &format!("{GROUP}/discard"),
        "/replays",
    ] {
        let form = [("reason", "because"), ("state", "ignored")];
        console.post_with(path, &form, &ann).await.is(403);
    }
    assert_eq!(bed.state("evt_1").await, "dead");
    assert_eq!(bed.count(CHANGES).await, 0);
}

#[tokio::test]
async fn an_address_for_others_needs_a_way_to_sign_in() {
    let variables = [
        ("DATABASE_URL", "postgres://u@127.0.0.1/d"),
        ("CONSOLE_LISTEN", "0.0.0.0:0"),
        ("CONSOLE_READ_ONLY", "perhaps"),
    ];
    let refused = run("ops", &["console"], &variables).await;
    let problems = refused.expect_code(2).stderr();
    for problem in ["CONSOLE_LISTEN", "CONSOLE_USERS_FILE", "CONSOLE_READ_ONLY"] {
        assert!(problems.contains(problem), "{problems}");
    }
}

#[tokio::test]
async fn a_console_that_asks_nobody_who_they_are_takes_nothing_from_a_proxy() {
    let bed = TestBed::new().await;
    let console = Console::start(&bed, &[]).await;
    for header in ["x-forwarded-for", "forwarded", "via", "x-real-ip"] {
        let brought = console.get_with("/", &[(header, "1.2.3.4")]).await;
        brought.is(403).hides("Overview");
    }
    console.get("/").await.is(200);
}

#[tokio::test]
async fn the_headers_of_a_proxy_must_differ() {
    let variables = [
        ("DATABASE_URL", "postgres://u@127.0.0.1/d"),
        ("CONSOLE_PROXY_HEADER", "x-console-proxy-secret"),
        ("CONSOLE_PROXY_SECRET", "0123456789abcdef"),
    ];
    let refused = run("ops", &["console"], &variables).await;
    let problems = refused.expect_code(2).stderr();
    assert!(problems.contains("must be three headers"), "{problems}");
}

#[tokio::test]
async fn after_a_form_one_comes_back_to_its_page_and_never_elsewhere() {
    let bed = TestBed::new().await;
    dead_event(&bed, "evt_1", "no order", PAYLOAD).await;
    let console = Console::start(&bed, &[]).await;
    let page = format!("http://{}/events/evt_1?x=1", console.address);
    let from = |referer| [("sec-fetch-site", "same-origin"), ("referer", referer)];
    let reason = [("reason", "ticket 7")];
    let revealed = console
        .post_with("/events/evt_1/reveal", &reason, &from(&page))
        .await;
    revealed
        .is(200)
        .shows("name=\"back\" value=\"/events/evt_1?x=1\"");
    let refused = console
        .post_with("/events/evt_1/retry", &[], &from(&page))
        .await;
    refused.is(400).shows("href=\"/events/evt_1?x=1\"");
    let elsewhere = from("http://evil.example/x");
    let refused = console
        .post_with("/events/evt_1/retry", &[], &elsewhere)
        .await;
    refused.is(400).hides("evil.example");
    for back in ["//evil.example", "/\t/evil.example", "/\\evil.example"] {
        let sent = console
            .post("/theme", &[("theme", "dark"), ("back", back)])
            .await;
        assert_eq!(sent.is(303).headers["location"], "/", "{back}");
    }
}

#[tokio::test]
async fn nobody_is_let_in_without_name_and_password() {
    let bed = TestBed::new().await;
    let file = bed.path("users");
    users_file(&file, &[("ann", "admin", "ann's password")]).await;
    let console = Console::start(&bed, &[("CONSOLE_USERS_FILE", file.to_str().unwrap())]).await;
    let refused = console.get("/").await;
    refused.is(401).hides("Overview");
    assert!(refused.headers.contains_key("www-authenticate"));
    console
        .get_with("/", &[("authorization", &basic("ann", "wrong"))])
        .await
        .is(401);
    console
        .get_with("/", &[("authorization", &basic("nobody", "x"))])
        .await
        .is(401);
    console
        .get_with("/", &[("authorization", &basic("ann", "ann's password"))])
        .await
        .is(200);
    for _ in 0..2 {
        let ann = basic("ann", "ann's password");
        console.get_with("/audit", &[("authorization", &ann)]).await;
    }
    let noted = "SELECT string_agg(concat_ws(' ', actor, action, details ->> 'client'), ', ' ORDER BY id) FROM audit_log";
    assert_eq!(
        bed.text(noted).await,
        "ann console.sign_in_failed 127.0.0.1, unknown console.sign_in_failed 127.0.0.1, ann console.sign_in 127.0.0.1"
    );
}
