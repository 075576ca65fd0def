//! What commands print: data on stdout as a table or as JSON, everything else on stderr.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

/// The version of the JSON that `--json` prints; it changes when a field goes or changes its meaning.
const SCHEMA: u32 = 1;

/// How a command prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Whether `--json` was given.
    pub json: bool,
}

impl Output {
    /// Prints a value under a name as JSON, or as `text` makes it.
    pub fn print<T: Serialize>(self, name: &str, value: &T, text: impl FnOnce(&T) -> String) {
        if self.json {
            let mut object = Map::new();
            object.insert("schema".to_owned(), SCHEMA.into());
            object.insert(
                name.to_owned(),
                serde_json::to_value(value).unwrap_or(Value::Null),
            );
            println!("{}", Value::Object(object));
        } else {
            println!("{}", text(value).trim_end());
        }
    }
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
    table.add_rows(rows).to_string()
}

/// A time to the second.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
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
