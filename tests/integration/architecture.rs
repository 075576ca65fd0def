//! The layers of the code, read from the tree.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources(folder: &str) -> Vec<(String, String)> {
    let (mut folders, mut found) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                // Unit tests stand at the end of a file and are not bound by the rules.
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((name, text.split("#[cfg(test)]").next().unwrap().to_owned()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

fn all() -> Vec<(String, String)> {
    ["gateway/src", "worker/src", "ops/src", "shared/src"]
        .into_iter()
        .flat_map(sources)
        .collect()
}

/// Files, outside those allowed, that contain one of the texts.
fn offenders(texts: &[&str], allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let holds = |source: &str| texts.iter().any(|text| source.contains(text));
    all()
        .into_iter()
        .filter(|(name, source)| !allowed(name) && holds(source))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn sql_stands_in_store_modules() {
    let allowed = |name: &str| {
        name.contains("/store")
            || [
                "shared/src/database.rs",
                "shared/src/migrations.rs",
                "shared/src/health.rs",
                "ops/src/commands/doctor/database.rs",
            ]
            .contains(&name)
    };
    let found = offenders(
        &["SELECT ", "INSERT INTO ", "UPDATE webhook", "DELETE FROM "],
        allowed,
    );
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn exchanges_and_queues_are_named_in_the_topology_only() {
    let found = offenders(&["\"stripe.events", "\"fulfillment"], |name| {
        name == "shared/src/broker/topology.rs"
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_environment_is_read_in_settings_only() {
    let allowed = |name: &str| {
        [
            "shared/src/telemetry.rs",
            "shared/src/failpoint.rs",
            "ops/src/commands/mod.rs",
        ]
        .contains(&name)
    };
    let found = offenders(&["std::env::var", "env::var("], allowed);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_unmaintained_backoff_crate_is_used_in_one_module() {
    let found = offenders(&["use backoff::", "backoff::ExponentialBackoff"], |name| {
        name == "shared/src/backoff.rs"
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn pure_modules_do_no_io() {
    for (name, source) in all() {
        let pure = [
            "shared/src/signature.rs",
            "shared/src/money.rs",
            "shared/src/orders/transition.rs",
            "worker/src/alerting/charges.rs",
            "worker/src/alerting/news.rs",
            "worker/src/alerting/notices.rs",
            "worker/src/alerting/rules.rs",
            "worker/src/alerting/summary.rs",
            "worker/src/decision.rs",
            "worker/src/fingerprint.rs",
            "ops/src/console/answers.rs",
            "ops/src/console/guard.rs",
            "ops/src/console/lights.rs",
            "ops/src/redact.rs",
            "ops/src/timeline.rs",
            "ops/src/filter.rs",
            "ops/src/page.rs",
            "shared/src/references.rs",
            "worker/src/mail/render.rs",
            "shared/src/envelope.rs",
            "shared/src/stripe/key.rs",
        ];
        if pure.contains(&name.as_str()) {
            for io in [
                "tokio", "deadpool", "lapin", "std::fs", "std::net", "::now()", "rand::",
            ] {
                assert!(!source.contains(io), "{name} uses {io}");
            }
        }
    }
}

#[test]
fn the_services_depend_on_shared_and_not_on_each_other() {
    for service in ["gateway", "worker", "ops"] {
        let manifest = std::fs::read_to_string(root().join(service).join("Cargo.toml")).unwrap();
        for other in ["gateway", "worker", "ops", "tests"] {
            assert!(
                !manifest.contains(&format!("\n{other}.workspace")),
                "{service} depends on {other}"
            );
        }
    }
}
