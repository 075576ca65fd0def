//! How commands print: pages, lines, and to whom.

use harness::TestBed;
use harness::binaries::{ops, program};
use serde_json::Value;

#[tokio::test]
async fn lists_go_on_page_by_page_and_as_lines() {
    let bed = TestBed::new().await;
    bed.db
        .batch_execute(
            "INSERT INTO webhook_events (id, type, received_at)
             SELECT 'evt_' || n, CASE WHEN n > 20 THEN 'b.two' ELSE 'a.one' END, now() - n % 3 * interval '1 minute'
             FROM generate_series(1, 25) n;
             INSERT INTO dead_letters (reason, error, fingerprint, message, died_at)
             SELECT 'undecodable', 'e', 'f', 'm', now() - n % 3 * interval '1 minute' FROM generate_series(1, 25) n",
        )
        .await
        .unwrap();
    for (list, name) in [("events", "events"), ("dead-letters", "dead_letters")] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let mut args = vec![list, "list", "--limit", "10", "--json"];
            args.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor]));
            let page = ops(&bed, &args).await.json();
            assert_eq!(page["schema"], 1);
            let rows = page[name].as_array().unwrap();
            seen.extend(rows.iter().map(|row| row["id"].to_string()));
            pages += 1;
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        let all = ops(&bed, &[list, "list", "--ndjson"]).await.stdout();
        let all: Vec<Value> = all
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(all.iter().all(|row| row["schema"] == 1));
        let all: Vec<String> = all.iter().map(|row| row["id"].to_string()).collect();
        assert_eq!((seen, pages, all.len()), (all.clone(), 3, 25), "{list}");
        ops(&bed, &[list, "list", "--cursor", "nonsense"])
            .await
            .expect_code(2);
    }
    let part = ops(&bed, &["events", "list", "--ndjson", "--limit=10"]).await;
    assert_eq!(part.stdout().lines().count(), 10);
    assert!(
        part.stderr().contains("more: --cursor"),
        "{}",
        part.stderr()
    );
    let plain = ops(&bed, &["events", "list"]).await.stdout();
    assert!(
        plain.contains("received") && !plain.contains('\x1b'),
        "colours are for terminals"
    );
    let filter = "--filter=type:b.*,c.three since:1d state:received";
    let found = ops(&bed, &["events", "list", "--json", filter])
        .await
        .json();
    assert_eq!(found["events"].as_array().map(Vec::len), Some(5));
    let twice = [
        "events",
        "list",
        "--filter",
        "state:dead",
        "--state",
        "dead",
    ];
    ops(&bed, &twice).await.expect_code(2);
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_fault_and_a_full_disk_is() {
    let bed = TestBed::new().await;
    bed.seed_order("ord_1").await;
    let list = async |stdout: std::process::Stdio| {
        let mut command = program("ops").await;
        command.args(["events", "list"]).stdout(stdout);
        command
            .env("DATABASE_URL", bed.ops_url())
            .stderr(std::process::Stdio::piped());
        // `output()` would replace stdout.
        let child = command.spawn().unwrap();
        let output = child.wait_with_output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(list(writer.into()).await, (Some(0), String::new()));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let (code, problem) = list(full.unwrap().into()).await;
    assert_eq!(code, Some(1), "{problem}");
    assert!(problem.contains("cannot be written"), "{problem}");
}

#[tokio::test]
async fn completions_are_printed_for_each_shell() {
    let bed = TestBed::new().await;
    for shell in ["bash", "zsh", "fish"] {
        let done = ops(&bed, &["completions", shell]).await;
        done.expect_code(0);
        assert!(done.stdout().contains("dead-letters"), "{shell}");
    }
    ops(&bed, &["completions", "none"]).await.expect_code(2);
}
