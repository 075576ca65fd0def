//! A filter as SQL: one condition for each term that is given, every value a bound parameter. Only what is asked for
//! stands in the statement, so that the planner can take the index that fits.

use tokio_postgres::types::ToSql;

use crate::filter::Filter;

type Param = Box<dyn ToSql + Sync + Send>;

/// Conditions over `webhook_events event` or `dead_letters letter`, with their parameters.
#[derive(Default)]
pub struct Conditions {
    terms: Vec<String>,
    params: Vec<Param>,
}

impl Conditions {
    /// On `webhook_events event`.
    pub fn of_events(filter: &Filter) -> Self {
        let mut conditions = Self::default();
        conditions.of_any_event(filter);
        conditions.window("event.received_at", filter);
        if !filter.ids.is_empty() {
            let ids = conditions.bind(filter.ids.clone());
            conditions.add(format!("event.id = ANY({ids})"));
        }
        conditions.objects("event.id", &filter.objects);
        for (column, values) in [
            ("fingerprint", &filter.fingerprints),
            ("reason", &filter.reasons),
        ] {
            if !values.is_empty() {
                let values = conditions.bind(values.clone());
                conditions.add(format!(
                    "event.id IN (SELECT letter.event_id FROM dead_letters letter WHERE letter.{column} = ANY({values}))"
                ));
            }
        }
        conditions
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

    fn window(&mut self, column: &str, filter: &Filter) {
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
        for conditions in [
            Conditions::of_events(&filter(text)),
            Conditions::of_letters(&filter(text)),
        ] {
            assert!(!conditions.sql().contains("x'y"), "{}", conditions.sql());
        }
    }
}
