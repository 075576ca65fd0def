//! What stands in `deploy` for the people on call, held against what the services really export and know.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::binaries::Process;
use harness::stripe::{event, event_id, payment_intent, post, post_with};
use harness::{TestBed, eventually};
use serde_json::Value;
use worker::alerting::news::{News, Repeat};
use worker::alerting::notices::Site;
use worker::alerting::rules::Firing;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy(path)).unwrap()
}

/// Every word of a text that begins like a metric of ours.
fn metrics_named_in(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(|c| !is_word(c))
        .filter(|word| word.starts_with("tollgate_"))
        .map(str::to_owned)
        .collect()
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(expression) = fields.get("expr").and_then(Value::as_str) {
                found.push(expression.to_owned());
            }
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

async fn exported(process: &Process) -> String {
    let url = format!("http://{}/metrics", process.admin_address);
    let answer = harness::stripe::client().get(url).send().await.unwrap();
    answer.text().await.unwrap()
}

/// The names of all samples that a gateway and a worker export once one event was processed, one died and one was
/// refused.
async fn exported_by_services() -> BTreeSet<String> {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = Process::gateway(&bed, &[]).await;
    let variables = [("RESCUE_AFTER", "1s"), ("WORKER_MAX_ATTEMPTS", "1")];
    let worker = Process::worker(&bed, &variables).await;
    for (order, state) in [("ord_1", "processed"), ("ord_2", "dead")] {
        let id = event_id();
        let body = event(&id, "payment_intent.succeeded", &payment_intent(order));
        assert_eq!(post(gateway.address, body).await.status, 200);
        bed.until_state(&id, state).await;
    }
    post_with(gateway.address, "/webhooks/stripe", None, "{}").await;
    let of_worker = eventually("the worker's gauges", async || {
        let text = exported(&worker).await;
        text.contains("tollgate_backlog_events").then_some(text)
    })
    .await;
    let text = exported(&gateway).await + &of_worker;
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn alerts_and_dashboard_use_metrics_that_the_services_export_and_leave_none_out() {
    let exported = exported_by_services().await;
    let rules = metrics_named_in(&read("prometheus/alerts.yml"));
    let tests = metrics_named_in(&read("prometheus/alerts_test.yml"));
    let dashboard: Value = serde_json::from_str(&read("grafana/tollgate.json")).unwrap();
    let mut panels = Vec::new();
    expressions(&dashboard, &mut panels);
    let panels = metrics_named_in(&panels.join(" "));
    for (what, named) in [
        ("alerts", &rules),
        ("their tests", &tests),
        ("dashboard", &panels),
    ] {
        let unknown: Vec<_> = named.difference(&exported).collect();
        assert!(
            !named.is_empty() && unknown.is_empty(),
            "{what}: {unknown:?} is not exported"
        );
    }
    let part = |name: &&String| name.ends_with("_sum") || name.ends_with("_count");
    let ours = |name: &&String| name.starts_with("tollgate_");
    let unseen: Vec<_> = exported
        .difference(&panels)
        .filter(ours)
        .filter(|name| !part(name))
        .collect();
    assert!(unseen.is_empty(), "no panel shows {unseen:?}");
}

#[test]
fn prometheus_rules_fire_when_they_should_and_not_before() {
    let promtool = |args: &[&str]| {
        let mut command = Command::new("promtool");
        command
            .args(args)
            .current_dir(deploy("prometheus"))
            .output()
    };
    if promtool(&["--version"]).is_err() {
        eprintln!(
            "SKIPPED: promtool is not installed, so the alerts of Prometheus were not tested"
        );
        return;
    }
    for args in [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let done = promtool(&args).unwrap();
        let text = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{text}");
    }
}

fn names_behind(text: &str, before: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix(before))
        .map(|name| name.trim().to_owned())
        .collect()
}

/// The words that stand in quotes behind a text.
fn quoted_behind(text: &str, before: &str) -> BTreeSet<String> {
    text.split(before)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// The names of the worker's own rules.
fn rules() -> BTreeSet<String> {
    let source = std::fs::read_to_string(deploy("../worker/src/alerting/rules.rs")).unwrap();
    let source = source.split("#[cfg(test)]").next().unwrap();
    quoted_behind(source, "fires(\"")
}

#[test]
fn each_alert_names_a_command_that_is_taken_and_a_heading_of_the_runbook() {
    let site = Site {
        livemode: true,
        console: None,
    };
    let runbook = read("runbook.md").to_lowercase().replace('`', "");
    let headings = names_behind(&runbook, "### ");
    for rule in rules() {
        let key = if rule == "signature_failures" {
            "signature_stale"
        } else {
            "f00d"
        };
        let alert = Firing {
            rule: rule.clone().leak(),
            key: key.to_owned(),
            message: "m".to_owned(),
            repeat: Repeat::Usual,
        };
        let told = site.news(&News::Fires(alert), jiff::Timestamp::UNIX_EPOCH);
        let line = |before: &str| {
            let line = told.body.lines().find_map(|line| line.strip_prefix(before));
            line.unwrap_or_else(|| panic!("{rule} without {before}: {}", told.body))
        };
        if let Err(error) = <ops::Cli as clap::Parser>::try_parse_from(words(line("Next: "))) {
            panic!("{rule}: {error}");
        }
        let heading = line("Runbook: deploy/runbook.md#");
        assert!(headings.contains(heading), "{heading}");
    }
}

#[test]
fn each_alert_has_a_test_and_a_heading_in_the_runbook() {
    let alerts = names_behind(&read("prometheus/alerts.yml"), "- alert: ");
    let tested = names_behind(&read("prometheus/alerts_test.yml"), "- alertname: ");
    assert_eq!(alerts, tested);
    let rules = rules();
    assert_eq!(rules.len(), 10, "{rules:?}");
    let runbook = read("runbook.md");
    let headings: BTreeSet<String> = names_behind(&runbook, "### ")
        .iter()
        .map(|name| name.trim_matches('`').to_owned())
        .collect();
    for name in alerts.union(&rules) {
        assert!(headings.contains(name), "the runbook has no heading {name}");
    }
    for section in runbook.split("\n### ").skip(1) {
        let (name, text) = section.split_once('\n').unwrap();
        let name = name.trim_matches('`');
        let text = text.split("\n## ").next().unwrap();
        if alerts.contains(name) || rules.contains(name) {
            let bold: Vec<&str> = text.split("**").skip(1).step_by(2).collect();
            let bold = bold.join(" ").to_lowercase();
            for part in ["means", "look", "do", "over"] {
                let there = bold
                    .split(|c: char| !c.is_alphabetic())
                    .any(|word| word == part);
                assert!(there, "{name} does not say `{part}`: {text}");
            }
            let command = ["`ops ", "\nops ", "`curl ", "\ncurl ", "\npsql "];
            let told = command.iter().any(|command| text.contains(command));
            assert!(told || text.contains("](#"), "{name} says not how to look");
        }
    }
    let readme = std::fs::read_to_string(deploy("../README.md")).unwrap();
    for rule in rules {
        assert!(readme.contains(&format!("| `{rule}` |")), "README: {rule}");
    }
}

/// What stands in code, between lines or within one, and begins like this.
fn code_in<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    let lines = text
        .lines()
        .map(|line| line.split("  ").next().unwrap_or(line));
    let spans = text.split('`').skip(1).step_by(2);
    let found: BTreeSet<&str> = lines
        .chain(spans)
        .map(|code| code.split(" | ").next().unwrap_or(code).trim())
        .filter(|code| code.starts_with(before) && !code.contains('\n'))
        .collect();
    found.into_iter().collect()
}

/// The words of a command, as a shell reads them.
fn words(command: &str) -> Vec<String> {
    let script = format!("printf '%s\\0' {command}");
    let done = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(done.status.success(), "{command}");
    let text = String::from_utf8(done.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

#[tokio::test]
async fn every_command_of_the_runbook_is_taken() {
    let runbook = read("runbook.md");
    let commands = code_in(&runbook, "ops ");
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        if let Err(error) = <ops::Cli as clap::Parser>::try_parse_from(words(command)) {
            panic!("{command}: {error}");
        }
    }
    let bed = TestBed::new().await;
    let (client, connection) = tokio_postgres::connect(&bed.ops_url(), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let queries = code_in(&runbook, "psql ");
    assert!(queries.len() > 5, "{queries:?}");
    for query in queries {
        let sql = words(query).pop().unwrap();
        client.batch_execute(&sql).await.expect(&sql);
    }
}

#[tokio::test]
async fn events_of_the_wrong_mode_can_come_again_as_the_runbook_says() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let gateway = Process::gateway(&bed, &[]).await;
    let worker = Process::worker(&bed, &[("STRIPE_LIVEMODE", "true")]).await;
    let id = event_id();
    let body = event(&id, "payment_intent.succeeded", &payment_intent("ord_1"));
    assert_eq!(post(gateway.address, body.clone()).await.status, 200);
    bed.until_state(&id, "ignored").await;
    drop(worker);
    let runbook = read("runbook.md");
    let blocks: Vec<&str> = runbook.split("```sql").skip(1).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let sql = block.split("```").next().unwrap();
        bed.db.batch_execute(sql).await.expect(sql);
    }
    let _worker = Process::worker(&bed, &[]).await;
    assert_eq!(post(gateway.address, body).await.status, 200);
    bed.until_state(&id, "processed").await;
    bed.check_invariants().await;
}
