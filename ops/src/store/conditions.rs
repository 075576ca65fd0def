//! A filter as SQL: one condition for each term that is given, every value a bound parameter. Only what is asked for
//! stands in the statement, so that the planner can take the index that fits.

use std::mem::take;

use tokio_postgres::types::ToSql;

use crate::filter::Filter;

/// The range of those ids that begin with a wanted one.
const BEGINS: &str = "event.id > wanted.id AND event.id < wanted.id || repeat('z', 255)";
/// A wanted id is no event's.
const UNKNOWN: &str = "NOT EXISTS (SELECT FROM webhook_events known WHERE known.id = wanted.id)";
/// Whether the key's order of text keeps that range: not where two letters are sorted as another one (`aa` in
/// Danish), nor where letters follow `z` (`t` in Estonian).
const KEEPS_BEGINNINGS: &str = "
    WITH letter AS (
        SELECT coalesce((SELECT id FROM webhook_events WHERE false), '') || chr(code) AS c
        FROM generate_series(48, 122) code WHERE chr(code) ~ '[0-9A-Za-z_]'
    )
    SELECT bool_and(one.c || next.c > one.c AND one.c || next.c < one.c || 'zzz') FROM letter one, letter next";

type Param = Box<dyn ToSql + Sync + Send>;

/// A term that names events, or what they are known by.
#[derive(Debug, Clone, Copy)]
pub enum Named {
    /// Their own ids, or beginnings of these.
    Ids,
    /// Ids of objects.
    Objects,
    /// Groups of dead letters.
    Fingerprints,
    /// Causes of death.
    Reasons,
}

impl Named {
    /// All of them, the narrowest first.
    pub const ALL: [Self; 4] = [Self::Ids, Self::Objects, Self::Fingerprints, Self::Reasons];

    /// What a filter says of it.
    pub fn of(self, filter: &mut Filter) -> &mut Vec<String> {
        match self {
            Self::Ids => &mut filter.ids,
            Self::Objects => &mut filter.objects,
            Self::Fingerprints => &mut filter.fingerprints,
            Self::Reasons => &mut filter.reasons,
        }
    }
}

/// Conditions over `webhook_events event` or `dead_letters letter`, with their parameters.
#[derive(Default)]
pub struct Conditions {
    terms: Vec<String>,
    params: Vec<Param>,
}

impl Conditions {
    /// On `webhook_events event`: adds a condition for each term.
    pub fn of_events(&mut self, filter: &Filter) {
        self.of_any_event(filter);
        self.window("event.received_at", filter);
        let mut filter = filter.clone();
        for named in Named::ALL {
            let values = take(named.of(&mut filter));
            match named {
                _ if values.is_empty() => {}
                Named::Ids => {
                    let ids = self.bind(beginnings(&values));
                    self.add(format!(
                        "EXISTS (SELECT FROM unnest({ids}::text[]) AS wanted (id) WHERE starts_with(event.id, wanted.id))"
                    ));
                }
                _ => {
                    let ids = self.ids_of_events(named, values);
                    self.add(format!("event.id IN ({ids})"));
                }
            }
        }
    }

    /// A statement that gives the ids of the events of a term. An id that is no event's stands for those that begin with
    /// it: they are in a range of the key, where [`KEEPS_BEGINNINGS`] holds.
    pub fn ids_of_events(&mut self, named: Named, values: Vec<String>) -> String {
        let values = match named {
            Named::Ids => self.bind(beginnings(&values)),
            _ => self.bind(values),
        };
        match named {
            Named::Ids => format!(
                "SELECT event.id FROM webhook_events event WHERE event.id = ANY({values})
                 UNION ALL
                 SELECT event.id FROM unnest({values}::text[]) AS wanted (id) JOIN webhook_events event
                    ON {BEGINS} AND starts_with(event.id, wanted.id)
                 WHERE {UNKNOWN}"
            ),
            Named::Objects => format!(
                "SELECT named.event_id FROM event_objects named WHERE named.object_id = ANY({values})"
            ),
            Named::Fingerprints => format!(
                "SELECT letter.event_id FROM dead_letters letter WHERE letter.fingerprint = ANY({values})"
            ),
            Named::Reasons => format!(
                "SELECT letter.event_id FROM dead_letters letter WHERE letter.reason = ANY({values})"
            ),
        }
    }

    /// A statement that gives at least as many rows as [`Conditions::ids_of_events`] would read, up to `most` of them: in
    /// an order of text that is not that of bytes, a range holds others too, and may lack some that begin so.
    pub fn most_ids_of_events(&mut self, named: Named, values: Vec<String>, most: i64) -> String {
        let Named::Ids = named else {
            return self.ids_of_events(named, values);
        };
        let values = self.bind(beginnings(&values));
        format!(
            "SELECT FROM webhook_events event WHERE event.id = ANY({values})
             UNION ALL
             SELECT FROM unnest({values}::text[]) AS wanted (id)
             CROSS JOIN LATERAL (SELECT FROM webhook_events event WHERE {BEGINS} LIMIT {most}) event WHERE {UNKNOWN}
             UNION ALL
             SELECT FROM unnest({values}::text[]) AS wanted (id), generate_series(1, {most})
             WHERE {UNKNOWN} AND NOT ({KEEPS_BEGINNINGS})"
        )
    }

    /// On `dead_letters letter LEFT JOIN webhook_events event`, resolved ones included.
    pub fn of_letters(filter: &Filter) -> Self {
        let mut conditions = Self::default();
        conditions.of_any_event(filter);
        conditions.window("letter.died_at", filter);
        if !filter.ids.is_empty() {
            let letters = conditions.bind(filter.letter_ids());
            let events = conditions.bind(filter.ids.clone());
            conditions.add(format!(
                "(letter.id = ANY({letters}) OR letter.event_id = ANY({events}))"
            ));
        }
        conditions.objects("letter.event_id", &filter.objects);
        conditions.any_of("letter.fingerprint", &filter.fingerprints);
        conditions.any_of("letter.reason", &filter.reasons);
        conditions
    }

    /// One more condition, which may name parameters that [`Conditions::bind`] gave.
    pub fn add(&mut self, condition: String) {
        self.terms.push(condition);
    }

    /// Binds a value and gives its place in the statement.
    pub fn bind(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.params.push(Box::new(value));
        format!("${}", self.params.len())
    }

    /// What stands behind `WHERE`.
    pub fn sql(&self) -> String {
        if self.terms.is_empty() {
            "true".to_owned()
        } else {
            self.terms.join(" AND ")
        }
    }

    /// The same, and the next conditions are of another `WHERE` of the statement.
    pub fn take(&mut self) -> String {
        let sql = self.sql();
        self.terms.clear();
        sql
    }

    /// The values, in order.
    pub fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.params
            .iter()
            .map(|param| {
                let param: &(dyn ToSql + Sync) = &**param;
                param
            })
            .collect()
    }

    fn of_any_event(&mut self, filter: &Filter) {
        self.types(&filter.types);
        self.any_of("event.state", &filter.states);
        if let Some(livemode) = filter.livemode {
            let value = self.bind(livemode);
            self.add(format!("event.livemode = {value}"));
        }
        for (column, value) in [
            ("account", &filter.account),
            ("api_version", &filter.api_version),
        ] {
            if let Some(value) = value {
                let value = self.bind(value.clone());
                self.add(format!("event.{column} = {value}"));
            }
        }
        if let Some(least) = filter.min_attempts {
            let least = self.bind(least);
            self.add(format!("event.attempts >= {least}"));
        }
    }

    /// `LIKE` with one pattern each, and equality for the rest: only these can use an index.
    fn types(&mut self, types: &[String]) {
        let (globs, exact): (Vec<String>, Vec<String>) = types
            .iter()
            .cloned()
            .partition(|event_type| event_type.contains('*'));
        let mut either = Vec::new();
        if !exact.is_empty() {
            let exact = self.bind(exact);
            either.push(format!("event.type = ANY({exact})"));
        }
        for glob in globs {
            let pattern = self.bind(like_pattern(&glob));
            either.push(format!("event.type LIKE {pattern}"));
        }
        if !either.is_empty() {
            self.add(format!("({})", either.join(" OR ")));
        }
    }

    /// The filter's window of time, on a column.
    pub fn window(&mut self, column: &str, filter: &Filter) {
        for (operator, at) in [(">=", filter.since), ("<", filter.until)] {
            if let Some(at) = at {
                let at = self.bind(at);
                self.add(format!("{column} {operator} {at}"));
            }
        }
    }

    fn objects(&mut self, column: &str, objects: &[String]) {
        if !objects.is_empty() {
            let objects = self.bind(objects.to_vec());
            self.add(format!(
                "{column} IN (SELECT named.event_id FROM event_objects named WHERE named.object_id = ANY({objects}))"
            ));
        }
    }

    fn any_of(&mut self, column: &str, values: &[String]) {
        if !values.is_empty() {
            let values = self.bind(values.to_vec());
            self.add(format!("{column} = ANY({values})"));
        }
    }
}

/// An id may end as it is cut short elsewhere: `evt_1*` or `evt_1…`.
fn beginnings(ids: &[String]) -> Vec<String> {
    let beginning = |id: &String| id.trim_end_matches(['*', '…']).to_owned();
    ids.iter().map(beginning).collect()
}

/// `charge.*` as SQL's LIKE has it.
fn like_pattern(glob: &str) -> String {
    glob.replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_")
        .replace('*', "%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn filter(text: &str) -> Filter {
        Filter::parse(text, Timestamp::now()).unwrap()
    }

    #[test]
    fn only_what_is_asked_for_stands_in_the_statement() {
        let none = Conditions::of_letters(&filter("all"));
        assert_eq!((none.sql().as_str(), none.params().len()), ("true", 0));
        let some = Conditions::of_letters(&filter("type:a.b,c_*,d* since:1h id:evt_1"));
        assert_eq!(
            some.sql(),
            "(event.type = ANY($1) OR event.type LIKE $2 OR event.type LIKE $3) AND letter.died_at >= $4 AND \
             (letter.id = ANY($5) OR letter.event_id = ANY($6))"
        );
        assert_eq!(some.params().len(), 6);
        assert_eq!(like_pattern("c_*"), "c\\_%");
    }

    #[test]
    fn no_value_reaches_the_statement() {
        let text = "type:x'y*,x'y state:dead fingerprint:x'y reason:x'y id:x'y object:x'y account:x'y api_version:x'y";
        let mut of_events = Conditions::default();
        of_events.of_events(&filter(text));
        for conditions in [of_events, Conditions::of_letters(&filter(text))] {
            assert!(!conditions.sql().contains("x'y"), "{}", conditions.sql());
        }
    }
}
