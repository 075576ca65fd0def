//! The table, for people and for programs.

use std::io::IsTerminal;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use harness::faults::Row;
use serde_json::{Value, json};

use crate::controls::Control;

const HEADER: [&str; 13] = [
    "row",
    "fault",
    "sent",
    "acknowledged",
    "lost",
    "doubled",
    "mails doubled",
    "money",
    "unavailable ms",
    "longest answer ms",
    "recovered ms",
    "seed",
    "clean",
];

/// Rows as a table that Markdown takes too.
pub fn of(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(HEADER);
    if !std::io::stdout().is_terminal() {
        table.set_width(250);
    }
    for row in rows {
        let verdict = &row.verdict;
        table.add_row([
            row.id.clone(),
            row.fault.clone(),
            verdict.attempts.to_string(),
            verdict.acknowledged.to_string(),
            verdict.lost.to_string(),
            verdict.duplicated.to_string(),
            verdict.mails_doubled.to_string(),
            verdict.money_difference.to_string(),
            verdict.unavailable_ms.to_string(),
            verdict.longest_answer_ms.to_string(),
            row.recovered_ms
                .map_or("never".to_owned(), |ms| ms.to_string()),
            row.seed.to_string(),
            if row.is_clean() {
                "yes".to_owned()
            } else {
                "NO".to_owned()
            },
        ]);
    }
    table
}

/// Rows for programs.
pub fn json(rows: &[Row]) -> Value {
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    json!({ "rows": rows })
}

/// Controls as a table.
pub fn of_controls(controls: &[Control]) -> Table {
    let mut table = Table::new();
    let header = [
        "without",
        "what was done",
        "result",
        "rounds",
        "the checker says",
        "with it",
    ];
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for control in controls {
        let result = if control.holds() {
            "caught"
        } else {
            "NOT CAUGHT"
        };
        let with_it = if control.with_it.is_empty() {
            "clean"
        } else {
            &control.with_it
        };
        let said: String = control.caught.chars().take(80).collect();
        let rounds = control.rounds.to_string();
        table.add_row([
            control.without,
            control.done,
            result,
            &rounds,
            &said,
            with_it,
        ]);
    }
    table
}
