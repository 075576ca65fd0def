//! Events, a page at a time. A page begins behind the last row of the one before, so that rows that come meanwhile
//! neither repeat nor hide any.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use shared::database::{StoreError, query};
use tokio_postgres::Row;

use crate::filter::Filter;
use crate::store::conditions::Conditions;
use crate::store::events::{COLUMNS, Event, event};

/// Where a page begins: behind this row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// When the row's event came.
    pub at: Timestamp,
    /// The event's id.
    pub id: String,
}

/// Rows of one page.
pub const PAGE: i64 = 50;

/// Lists events, newest first, from behind a place on: a page and one more, if there is one.
pub async fn page(
    client: &impl GenericClient,
    filter: &Filter,
    before: Option<&Place>,
) -> Result<Vec<Event>, StoreError> {
    let filter = resolve_globs(client, filter).await?;
    let Some(filter) = filter else {
        return Ok(Vec::new());
    };
    let mut conditions = Conditions::of_events(&Filter {
        types: Vec::new(),
        min_attempts: None,
        ..filter.clone()
    });
    if let Some(least) = filter.min_attempts {
        let bound = conditions.bind(least);
        let repeated = if least > 1 {
            " AND event.attempts > 1"
        } else {
            ""
        };
        conditions.add(format!("event.attempts >= {bound}{repeated}"));
    }
    if let [state] = filter.states.as_slice()
        && state != "processed"
    {
        conditions.add("event.state <> 'processed'".to_owned());
    }
    if let Some(place) = before {
        let (at, id) = (conditions.bind(place.at), conditions.bind(place.id.clone()));
        conditions.add(format!("(event.received_at, event.id) < ({at}, {id})"));
    }
    let sql = statement(&mut conditions, &filter);
    let rows = query(client, &sql, &conditions.params()).await?;
    Ok(rows.iter().map(event).collect())
}

const NEWEST: &str = "ORDER BY event.received_at DESC, event.id DESC LIMIT";

/// Of several types, the newest of each are merged: an index is in the order of time only within one type.
fn statement(conditions: &mut Conditions, filter: &Filter) -> String {
    let most = PAGE + 1;
    let rest = conditions.sql();
    if filter.types.is_empty() {
        return format!("SELECT {COLUMNS} FROM webhook_events event WHERE {rest} {NEWEST} {most}");
    }
    let types = conditions.bind(filter.types.clone());
    if filter.states.iter().any(|state| state != "processed") && filter.states.len() == 1 {
        return format!(
            "SELECT {COLUMNS} FROM webhook_events event WHERE {rest} AND event.type = ANY({types}) {NEWEST} {most}"
        );
    }
    format!(
        "SELECT event.* FROM unnest({types}::text[]) AS wanted (type) CROSS JOIN LATERAL (
            SELECT {COLUMNS} FROM webhook_events event WHERE event.type = wanted.type AND {rest} {NEWEST} {most}
         ) event {NEWEST} {most}"
    )
}

/// The filter with the types that its patterns stand for; none when there is no such type.
async fn resolve_globs(
    client: &impl GenericClient,
    filter: &Filter,
) -> Result<Option<Filter>, StoreError> {
    if filter.types.iter().all(|wanted| !wanted.contains('*')) {
        return Ok(Some(filter.clone()));
    }
    let known = types(client).await?;
    let fits = |known: &String| filter.types.iter().any(|wanted| fits(wanted, known));
    let types: Vec<String> = known.into_iter().filter(fits).collect();
    let filter = Filter {
        types,
        ..filter.clone()
    };
    Ok((!filter.types.is_empty()).then_some(filter))
}

/// Whether a type fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(end)
}

/// Every type that was ever received: one step of the index each.
/// The index has its own order of text.
pub async fn types(client: &impl GenericClient) -> Result<Vec<String>, StoreError> {
    const TYPES: &str = "
        WITH RECURSIVE known AS (
            (SELECT type FROM webhook_events ORDER BY type USING ~<~ LIMIT 1)
            UNION ALL
            SELECT (SELECT type FROM webhook_events WHERE type ~>~ known.type ORDER BY type USING ~<~ LIMIT 1)
            FROM known WHERE known.type IS NOT NULL
        ) SELECT type FROM known WHERE type IS NOT NULL LIMIT 1000";
    let rows = query(client, TYPES, &[]).await?;
    Ok(rows.iter().map(|row: &Row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_the_command_line() {
        for (pattern, text, does) in [
            ("charge.*", "charge.refunded", true),
            ("charge.*", "charger.a", false),
            ("*", "anything", true),
            ("*.succeeded", "payment_intent.succeeded", true),
            ("c*d*", "charge.refunded", true),
            ("a", "a", true),
            ("a_b", "axb", false),
        ] {
            assert_eq!(fits(pattern, text), does, "{pattern} {text}");
        }
    }
}
