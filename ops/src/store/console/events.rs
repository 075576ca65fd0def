//! Events, a page at a time. A page begins behind the last row of the one before, so that rows that come meanwhile
//! neither repeat nor hide any.

use deadpool_postgres::GenericClient;
use shared::database::{StoreError, query};
use tokio_postgres::Row;

use crate::filter::Filter;
use crate::page::Cursor;
use crate::store::conditions::Conditions;
use crate::store::events::{COLUMNS, Event, event};

/// Rows of one page.
pub const PAGE: i64 = 50;

/// Lists events, newest first, from behind a place on: a page and one more, if there is one.
pub async fn page(
    client: &impl GenericClient,
    filter: &Filter,
    before: Option<&Cursor>,
) -> Result<Vec<Event>, StoreError> {
    let filter = resolve_globs(client, filter).await?;
    let Some(filter) = filter else {
        return Ok(Vec::new());
    };
    let mut conditions = Conditions::of_events(&Filter {
        types: Vec::new(),
        states: Vec::new(),
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
    if let Some(Cursor { at, id }) = before {
        let (at, id) = (conditions.bind(*at), conditions.bind(id.clone()));
        conditions.add(format!("(event.received_at, event.id) < ({at}, {id})"));
    }
    let sql = statement(&mut conditions, &filter);
    let rows = query(client, &sql, &conditions.params()).await?;
    Ok(rows.iter().map(event).collect())
}

const NEWEST: &str = "ORDER BY event.received_at DESC, event.id DESC LIMIT";

/// Of several states or types, the newest of each are merged: an index is in the order of time only within one. Where both
/// are given, the state decides, unless it is that of most events.
fn statement(conditions: &mut Conditions, filter: &Filter) -> String {
    let mut rest = conditions.sql();
    let rare = !filter.states.iter().any(|state| state == "processed");
    let (values, equal) = if !filter.states.is_empty() && rare {
        if !filter.types.is_empty() {
            let types = conditions.bind(filter.types.clone());
            rest.push_str(&format!(" AND event.type = ANY({types})"));
        }
        let equal = "event.state = wanted.value AND event.state <> 'processed'";
        (filter.states.clone(), equal)
    } else {
        if !filter.states.is_empty() {
            let states = conditions.bind(filter.states.clone());
            rest.push_str(&format!(" AND event.state = ANY({states})"));
        }
        (filter.types.clone(), "event.type = wanted.value")
    };
    let most = PAGE + 1;
    if values.is_empty() {
        return format!("SELECT {COLUMNS} FROM webhook_events event WHERE {rest} {NEWEST} {most}");
    }
    let values = conditions.bind(values);
    format!(
        "SELECT event.* FROM unnest({values}::text[]) AS wanted (value) CROSS JOIN LATERAL (
            SELECT {COLUMNS} FROM webhook_events event WHERE {equal} AND {rest} {NEWEST} {most}
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
