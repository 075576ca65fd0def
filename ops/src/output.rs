//! What commands print: data on stdout as a table or as JSON, everything else on stderr.

use std::fmt::Display;
use std::io::Write;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::OpsError;
use crate::commands::wants_no_colours;

/// The version of the JSON that `--json` prints; it changes when a field goes or changes its meaning.
const SCHEMA: u32 = 1;

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
    /// One JSON object a line: for a list, one for each of its items.
    Ndjson,
}

impl Output {
    /// Prints a value under a name as JSON, or as `text` makes it.
    pub fn print<T: Serialize>(
        self,
        name: &str,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), OpsError> {
        match self {
            Self::Text => print_line(text(value).trim_end()),
            Self::Json | Self::Ndjson => print_line(&object([(name, json(value))])),
        }
    }

    /// Prints a list. `next` is the cursor of the page behind it.
    pub fn print_list<T: Serialize>(
        self,
        name: &str,
        items: &[T],
        next: Option<impl Display>,
        text: impl FnOnce(&[T]) -> String,
    ) -> Result<(), OpsError> {
        let next = next.map(|next| next.to_string());
        match self {
            Self::Text => {
                print_line(text(items).trim_end())?;
                note_more(next);
                Ok(())
            }
            Self::Json => print_line(&object([(name, json(&items)), ("next", json(&next))])),
            Self::Ndjson => {
                items.iter().try_for_each(print_item)?;
                note_more(next);
                Ok(())
            }
        }
    }
}

fn note_more(next: Option<String>) {
    if let Some(next) = next {
        note(format_args!("more: --cursor {next}"));
    }
}

/// Prints one item of a list as a line of JSON.
pub fn print_item<T: Serialize>(item: &T) -> Result<(), OpsError> {
    match json(item) {
        Value::Object(mut fields) => {
            fields.insert("schema".to_owned(), SCHEMA.into());
            print_line(&Value::Object(fields).to_string())
        }
        other => print_line(&object([("item", other)])),
    }
}

/// Prints bytes as they are.
pub fn print_bytes(bytes: &[u8]) -> Result<(), OpsError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Prints a line.
pub fn print_line(text: &str) -> Result<(), OpsError> {
    print_bytes(format!("{text}\n").as_bytes())
}

/// Says something on stderr, as far as anybody listens.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> String {
    let schema = ("schema".to_owned(), Value::from(SCHEMA));
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    Value::Object(std::iter::once(schema).chain(fields).collect::<Map<_, _>>()).to_string()
}

/// A table that fits the terminal.
pub fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return "nothing found".to_owned();
    }
    let plain = wants_no_colours();
    for row in rows {
        let cells = header.iter().zip(row);
        table.add_row(cells.map(|(column, word)| match plain {
            true => Cell::new(word),
            false => painted(column, &word),
        }));
    }
    table.to_string()
}

/// A state in its colour, where a terminal shows it.
fn painted(column: &str, word: &str) -> Cell {
    let cell = Cell::new(word);
    if !["state", "outcome"].contains(&column) {
        return cell;
    }
    match word {
        "processed" | "finished" | "ok" | "up" | "ready" => cell.fg(Color::Green),
        "dead" | "dead_again" | "failed" | "permanent" | "down" | "no answer" | "not ready" => {
            cell.fg(Color::Red)
        }
        "retrying" | "transient" | "paused" | "warning" | "blocked" | "partly ready" => {
            cell.fg(Color::Yellow)
        }
        "received" | "planned" | "running" | "settling" | "replayed" => cell.fg(Color::Cyan),
        _ => cell,
    }
}

/// A time to the second.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A time to the millisecond.
pub fn exact(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string()
}

/// A time, or a dash.
pub fn time_or_dash(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), time)
}

/// A text without control characters, which a terminal would obey.
pub fn safe(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
