//! What happened to an event, in the order of time: received, attempts, deaths, what people did, its end. Pure.

use jiff::Timestamp;
use serde::Serialize;

use crate::store::console::audit::Entry;
use crate::store::events::{Attempt, Death, Event};

/// One thing that happened, or is about to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// `created`, `received`, `attempt`, `dead`, `replayed`, `discarded`, `hurried`, `revealed`, `due`, `unpublished`,
    /// `processed` or `ignored`.
    pub what: &'static str,
    /// The attempt's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<i32>,
    /// The attempt's outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// A fixed word for the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long the attempt took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
    /// Who ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The trace it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The group of a death.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The replay that put it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<i64>,
}

impl Moment {
    fn new(at: Timestamp, what: &'static str) -> Self {
        Self {
            at,
            what,
            ..Self::default()
        }
    }

    /// In words.
    pub fn title(&self) -> String {
        match (self.what, self.number, self.replay) {
            ("attempt", Some(number), _) => {
                let outcome = self.outcome.as_deref().unwrap_or_default();
                format!("attempt {number}: {outcome}")
            }
            ("replayed", _, Some(replay)) => format!("put back by replay #{replay}"),
            ("created", ..) => "created by Stripe".to_owned(),
            ("replayed", ..) => "put back".to_owned(),
            ("hurried", ..) => "next attempt made due".to_owned(),
            ("revealed", ..) => "payload revealed".to_owned(),
            ("due", ..) => "next attempt".to_owned(),
            ("unpublished", ..) => "waits to be published".to_owned(),
            (what, ..) => what.to_owned(),
        }
    }
}

/// Everything in its order. Audit entries are those that name the event; `unpublished_since` is when its message
/// fell due that did not go out.
pub fn timeline(
    event: &Event,
    attempts: &[Attempt],
    deaths: &[Death],
    audit: &[Entry],
    unpublished_since: Option<Timestamp>,
) -> Vec<Moment> {
    let created = event.created_at.map(|at| Moment::new(at, "created"));
    let mut moments: Vec<Moment> = created.into_iter().collect();
    moments.push(Moment::new(event.received_at, "received"));
    moments.extend(attempts.iter().map(attempted));
    for death in deaths {
        moments.push(Moment {
            kind: Some(death.reason.clone()),
            fingerprint: Some(death.fingerprint.clone()),
            ..Moment::new(death.died_at, "dead")
        });
        moments.extend(resolved(death, audit));
    }
    moments.extend(audit.iter().filter_map(looked_after));
    let last = match event.state.as_str() {
        "processed" => event.finished_at.map(|at| Moment::new(at, "processed")),
        "ignored" => event.finished_at.map(|at| Moment::new(at, "ignored")),
        _ => event.due_at.map(|at| Moment::new(at, "due")),
    };
    moments.extend(last);
    moments.extend(unpublished_since.map(|since| Moment::new(since, "unpublished")));
    moments.sort_by_key(|moment| moment.at);
    moments
}

fn attempted(attempt: &Attempt) -> Moment {
    let took = attempt.finished_at.duration_since(attempt.started_at);
    Moment {
        number: Some(attempt.number),
        outcome: Some(attempt.outcome.clone()),
        kind: attempt.error_kind.clone(),
        error: attempt.error.clone(),
        took_ms: Some(took.as_secs_f64() * 1_000.0),
        worker: Some(attempt.worker.clone()),
        trace_id: attempt.trace_id.clone(),
        ..Moment::new(attempt.started_at, "attempt")
    }
}

/// How a death was undone, or made final. What was done by hand was noted in the same transaction, so at the same time.
fn resolved(death: &Death, audit: &[Entry]) -> Option<Moment> {
    let at = death.resolved_at?;
    let what = match death.resolution.as_deref()? {
        "replayed" => "replayed",
        _ => "discarded",
    };
    let by_hand = audit.iter().find(|entry| entry.at == at);
    let by_replay = death.replay.as_ref();
    Some(Moment {
        actor: by_hand
            .map(|entry| entry.actor.clone())
            .or(by_replay.map(|replay| replay.created_by.clone())),
        reason: by_hand
            .map(|entry| entry.reason.clone())
            .or(by_replay.map(|replay| replay.reason.clone())),
        replay: by_replay.map(|replay| replay.id),
        ..Moment::new(at, what)
    })
}

/// What people did with an event beside putting it back or giving it up.
fn looked_after(entry: &Entry) -> Option<Moment> {
    let what = match entry.action.as_str() {
        "event.reveal" => "revealed",
        "event.retry" if entry.details["state_before"] == "retrying" => "hurried",
        _ => return None,
    };
    Some(Moment {
        actor: Some(entry.actor.clone()),
        reason: Some(entry.reason.clone()),
        ..Moment::new(entry.at, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::events::ReplayOf;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn event(state: &str) -> Event {
        Event {
            id: "evt_1".to_owned(),
            event_type: "a.b".to_owned(),
            state: state.to_owned(),
            livemode: None,
            api_version: None,
            account: None,
            created_at: Some(at(1)),
            received_at: at(2),
            deliveries: 1,
            attempts: 1,
            due_at: None,
            last_error: None,
            finished_at: Some(at(60)),
        }
    }

    fn death(second: i64, resolution: &str, replay: Option<ReplayOf>) -> Death {
        Death {
            died_at: at(second),
            reason: "order_not_found".to_owned(),
            fingerprint: "f".to_owned(),
            resolved_at: Some(at(second + 5)),
            resolution: Some(resolution.to_owned()),
            replay,
        }
    }

    fn entry(second: i64, action: &str, details: serde_json::Value) -> Entry {
        Entry {
            id: second,
            at: at(second),
            actor: "ann".to_owned(),
            action: action.to_owned(),
            reason: "mended".to_owned(),
            details,
        }
    }

    #[test]
    fn all_that_happened_stands_in_the_order_of_time_with_who_and_why() {
        let attempt = Attempt {
            number: 1,
            started_at: at(3),
            finished_at: at(4),
            outcome: "permanent".to_owned(),
            error_kind: Some("order_not_found".to_owned()),
            error: Some("no order".to_owned()),
            worker: "w".to_owned(),
            trace_id: None,
        };
        let by = ReplayOf {
            id: 7,
            created_by: "bob".to_owned(),
            reason: "all of them".to_owned(),
        };
        let deaths = [death(10, "replayed", None), death(20, "replayed", Some(by))];
        let audit = [
            entry(15, "event.retry", json!({ "state_before": "dead" })),
            entry(30, "event.retry", json!({ "state_before": "retrying" })),
            entry(40, "event.reveal", json!({})),
        ];
        let moments = timeline(&event("processed"), &[attempt], &deaths, &audit, None);
        let told: Vec<String> = moments
            .iter()
            .map(|moment| {
                let who = moment.actor.as_deref().unwrap_or("-");
                format!("{} {who}", moment.title())
            })
            .collect();
        assert_eq!(
            told,
            [
                "created by Stripe -",
                "received -",
                "attempt 1: permanent -",
                "dead -",
                "put back ann",
                "dead -",
                "put back by replay #7 bob",
                "next attempt made due ann",
                "payload revealed ann",
                "processed -",
            ]
        );
        assert_eq!(moments[2].took_ms, Some(1_000.0));
    }

    #[test]
    fn a_death_that_nobody_resolved_is_the_end() {
        let mut open = death(10, "discarded", None);
        let discarded = timeline(
            &event("discarded"),
            &[],
            std::slice::from_ref(&open),
            &[],
            None,
        );
        assert_eq!(
            discarded.last().map(|moment| moment.what),
            Some("discarded")
        );
        (open.resolved_at, open.resolution) = (None, None);
        let dead = timeline(&event("dead"), &[], &[open], &[], None);
        assert_eq!(dead.last().map(|moment| moment.what), Some("dead"));
    }
}
