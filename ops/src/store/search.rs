//! Events by filter, newest first, a page at a time. A page begins behind the last row of the one before, so that rows
//! that come meanwhile neither repeat nor hide any.
//!
//! Rows come from indexes that keep them in the order of time, one for each state or type that is asked for, and
//! a bounded number of them is held against the rest of the filter at a time: no filter takes long, however many events
//! there are. Where that was not enough, the next page begins where the looking ended.

use std::mem::take;

use deadpool_postgres::GenericClient;
use shared::database::{StoreError, query};
use tokio_postgres::Row;

use super::conditions::{Conditions, Named};
use super::events::{COLUMNS, Event, event};
use crate::filter::Filter;
use crate::page::Cursor;

/// Rows that are held against a filter at a time, where they come one after the other.
const MOST_LOOKED_AT: i64 = 50_000;
/// The same, where each may stand in a page of its own.
const MOST_SCATTERED: i64 = 15_000;
/// So many rows may be fetched by their ids, and then be sorted.
const FEW: i64 = 5_000;
/// All events, by time.
const ALL: &str = "true";
/// More types than that are looked for in the order of time.
const MOST_TYPES: usize = 20;
const NEWEST: &str = "ORDER BY event.received_at DESC, event.id DESC";

/// A page.
#[derive(Default)]
pub struct Found {
    /// Newest first.
    pub events: Vec<Event>,
    /// Behind what the next page begins; none at the end.
    pub next: Option<Cursor>,
}

/// Lists events from behind a place on, and looks until the page is full or there are no more.
pub async fn list(
    client: &impl GenericClient,
    filter: &Filter,
    behind: Option<&Cursor>,
    limit: i64,
) -> Result<Found, StoreError> {
    let mut found = look(client, filter, behind, limit).await?;
    while let Some(next) = &found.next {
        let left = limit - count(&found.events);
        if left <= 0 {
            break;
        }
        let more = look(client, filter, Some(next), left).await?;
        found.events.extend(more.events);
        found.next = more.next;
    }
    Ok(found)
}

/// Lists events from behind a place on, as far as it does not take long: a page that is not full may have a next one.
pub async fn look(
    client: &impl GenericClient,
    filter: &Filter,
    behind: Option<&Cursor>,
    limit: i64,
) -> Result<Found, StoreError> {
    let Some(filter) = resolve_globs(client, filter).await? else {
        return Ok(Found::default());
    };
    let search = Search::new(client, filter, behind, limit).await?;
    let rows = query(client, &search.sql(), &search.conditions.params()).await?;
    let next = rows.first().and_then(end);
    // There is a row without an event where nothing was found.
    let is_event = |row: &&Row| row.get::<_, Option<&str>>("id").is_some();
    let mut events: Vec<Event> = rows.iter().filter(is_event).map(event).collect();
    if count(&events) <= limit {
        return Ok(Found { events, next });
    }
    events.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = events.last().map(|last| Cursor {
        at: last.received_at,
        id: last.id.clone(),
    });
    Ok(Found { events, next })
}

/// Where the looking ended.
fn end(row: &Row) -> Option<Cursor> {
    Some(Cursor {
        at: row.get::<_, Option<_>>("end_at")?,
        id: row.get::<_, Option<_>>("end_id")?,
    })
}

fn count(events: &[Event]) -> i64 {
    i64::try_from(events.len()).unwrap_or(i64::MAX)
}

struct Search {
    /// Which rows are looked at: of each part the newest, in the order of an index.
    parts: Vec<String>,
    /// What must hold for all of them: the window, and the place of the page.
    place: String,
    /// What they are held against.
    rest: String,
    conditions: Conditions,
    /// Whether there are so few rows that all of them are looked at.
    few: bool,
    limit: i64,
}

impl Search {
    async fn new(
        client: &impl GenericClient,
        mut filter: Filter,
        behind: Option<&Cursor>,
        limit: i64,
    ) -> Result<Self, StoreError> {
        let mut conditions = Conditions::default();
        conditions.window("event.received_at", &filter);
        (filter.since, filter.until) = (None, None);
        if let Some(Cursor { at, id }) = behind {
            let (at, id) = (conditions.bind(*at), conditions.bind(id.clone()));
            conditions.add(format!("(event.received_at, event.id) < ({at}, {id})"));
        }
        let place = conditions.take();
        let named = narrowest(client, &mut conditions, &mut filter).await?;
        let few = named.is_some();
        let parts = match named {
            Some(part) => vec![part],
            None => parts(client, &mut conditions, &mut filter).await?,
        };
        conditions.of_events(&filter);
        Ok(Self {
            parts,
            place,
            rest: conditions.take(),
            conditions,
            few,
            limit,
        })
    }

    /// How many rows of each part are looked at.
    fn most(&self) -> i64 {
        let most = if self.parts == [ALL] {
            MOST_LOOKED_AT
        } else {
            MOST_SCATTERED / i64::try_from(self.parts.len()).unwrap_or(1).max(1)
        };
        most.max(self.limit + 1)
    }

    /// Rows and end are of one snapshot, and the database compares them: it alone knows its order of text.
    fn sql(&self) -> String {
        let (rows, end) = (self.rows(), self.end());
        format!(
            "WITH found AS MATERIALIZED ({rows}), ending AS MATERIALIZED ({end})
             SELECT event.*, ending.received_at AS end_at, ending.id AS end_id
             FROM (SELECT) AS always LEFT JOIN ending ON true LEFT JOIN found event
                ON ending.id IS NULL OR (event.received_at, event.id) >= (ending.received_at, ending.id)
             {NEWEST}"
        )
    }

    fn rows(&self) -> String {
        let (place, rest, most, limit) = (&self.place, &self.rest, self.most(), self.limit + 1);
        self.merged(limit, |part| {
            format!(
                "SELECT * FROM (
                    SELECT {COLUMNS} FROM webhook_events event WHERE {part} AND {place} {NEWEST} LIMIT {most}
                 ) event WHERE {rest} {NEWEST} LIMIT {limit}"
            )
        })
    }

    /// Where the looking ended before the page was full: of several parts, where the first of them did.
    fn end(&self) -> String {
        let (place, last) = (&self.place, self.most() - 1);
        let wanted = match self.parts.len() {
            _ if self.few || self.rest == ALL => "false".to_owned(),
            1 => format!("(SELECT count(*) FROM found) <= {}", self.limit),
            _ => "true".to_owned(),
        };
        self.merged(1, |part| {
            format!(
                "SELECT event.received_at, event.id FROM webhook_events event WHERE {part} AND {place} AND {wanted}
                 {NEWEST} OFFSET {last} LIMIT 1"
            )
        })
    }

    fn merged(&self, limit: i64, select: impl Fn(&String) -> String) -> String {
        let parts: Vec<String> = self.parts.iter().map(select).collect();
        let parts = parts.join(") UNION ALL (");
        format!("SELECT * FROM (({parts})) event {NEWEST} LIMIT {limit}")
    }
}

/// The events of a term that fits few of them, whatever else there is; the term is taken out of the filter.
async fn narrowest(
    client: &impl GenericClient,
    conditions: &mut Conditions,
    filter: &mut Filter,
) -> Result<Option<String>, StoreError> {
    for named in Named::ALL {
        let values = named.of(filter).clone();
        if values.is_empty() {
            continue;
        }
        let mut counting = Conditions::default();
        let ids = counting.most_ids_of_events(named, values, FEW + 1);
        if is_few(client, &ids, &counting).await? {
            let ids = conditions.ids_of_events(named, take(named.of(filter)));
            return Ok(Some(format!("event.id = ANY (ARRAY({ids}))")));
        }
    }
    Ok(None)
}

async fn is_few(
    client: &impl GenericClient,
    ids: &str,
    conditions: &Conditions,
) -> Result<bool, StoreError> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT FROM ({ids}) ids LIMIT {}) few",
        FEW + 1
    );
    let rows = query(client, &sql, &conditions.params()).await?;
    Ok(rows.first().is_some_and(|row| row.get::<_, i64>(0) <= FEW))
}

/// The parts that an index keeps in the order of time. The terms that they speak for are taken out of the filter.
async fn parts(
    client: &impl GenericClient,
    conditions: &mut Conditions,
    filter: &mut Filter,
) -> Result<Vec<String>, StoreError> {
    if let Some(account) = filter.account.take() {
        let account = conditions.bind(account);
        return Ok(vec![format!("event.account = {account}")]);
    }
    if let Some(parts) = of_states(client, &filter.states).await? {
        filter.states.clear();
        return Ok(parts);
    }
    if (1..=MOST_TYPES).contains(&filter.types.len()) {
        let of_type = |event_type| format!("event.type = {}", conditions.bind(event_type));
        return Ok(take(&mut filter.types).into_iter().map(of_type).collect());
    }
    let repeated = filter.min_attempts.is_some_and(|least| least > 1);
    let all = if repeated { "event.attempts > 1" } else { ALL };
    Ok(vec![all.to_owned()])
}

/// A part for each state. None where one of them is that of most events: these are found by time. The states stand in
/// the statement, since an index holds some of them only.
async fn of_states(
    client: &impl GenericClient,
    states: &[String],
) -> Result<Option<Vec<String>>, StoreError> {
    const RECEIVED: &str = "SELECT id FROM webhook_events WHERE state = 'received'";
    let mut parts = Vec::new();
    for state in states {
        parts.push(match state.as_str() {
            "retrying" => "event.state = 'retrying'".to_owned(),
            "ignored" => "event.state = 'ignored'".to_owned(),
            "dead" => "event.state = 'dead'".to_owned(),
            "discarded" => "event.state = 'discarded'".to_owned(),
            "received" if is_few(client, RECEIVED, &Conditions::default()).await? => {
                format!("event.state = 'received' AND event.id = ANY (ARRAY({RECEIVED}))")
            }
            _ => return Ok(None),
        });
    }
    Ok((!parts.is_empty()).then_some(parts))
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
    fn patterns_fit() {
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
