//! Which day is summed up, and its numbers as text. Pure.

use std::fmt::Write;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::charges::{AtStripe, Moved};
use super::notices::{Notice, Site};

/// No more of the days that were missed are summed up.
const MOST_DAYS: i64 = 7;

/// A day to be summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which one.
    pub date: Date,
    /// Where it is that day.
    pub zone: String,
    /// Its first moment.
    pub from: Timestamp,
    /// The next day's.
    pub to: Timestamp,
    /// Whether another day is over since.
    pub late: bool,
}

/// The first day that is over and comes after the `last` one that was summed up; yesterday where none ever was.
pub fn due(now: Timestamp, zone: &TimeZone, last: Option<Date>) -> Option<Due> {
    let yesterday = now.to_zoned(zone.clone()).date().yesterday().ok()?;
    let earliest = yesterday.checked_sub((MOST_DAYS - 1).days()).ok()?;
    let date = match last {
        Some(last) => last.tomorrow().ok()?.max(earliest),
        None => yesterday,
    };
    if date > yesterday {
        return None;
    }
    let begins = |date: Date| Some(date.to_zoned(zone.clone()).ok()?.timestamp());
    Some(Due {
        date,
        zone: zone.iana_name().unwrap_or("local time").to_owned(),
        from: begins(date)?,
        to: begins(date.tomorrow().ok()?)?,
        late: date < yesterday,
    })
}

/// A day, summed up.
pub struct Report {
    /// Which one.
    pub due: Due,
    /// Its numbers.
    pub day: Day,
    /// What Stripe says of its money.
    pub at_stripe: AtStripe,
}

impl Report {
    /// What is told of it.
    pub fn notice(&self, site: &Site) -> Notice {
        let Due {
            date, zone, late, ..
        } = &self.due;
        let Events { received, dead, .. } = self.day.events;
        let (open, _) = self.day.open;
        let mut body = format!("{date} in {zone}\n");
        if *late {
            body += "Late: no worker was there to tell it when the day was over.\n";
        }
        body += &text(&self.day, &self.at_stripe);
        let differs = match self.at_stripe.differs() {
            true => ", money differs from Stripe's",
            false => "",
        };
        if open > 0 {
            body += "\nNext: ops dead-letters groups\n";
            body += &site.console("/dead-letters".to_owned());
        } else {
            body += &site.console("/".to_owned());
        }
        Notice {
            name: format!("summary/{date}"),
            subject: format!(
                "Tollgate {} on {date}: {received} events, {dead} of them dead, {open} dead letters open{differs}",
                site.mode()
            ),
            body,
        }
    }
}

/// A day in numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Day {
    /// Events that came, and what became of them so far.
    pub events: Events,
    /// What moved, by currency.
    pub money: Vec<Moved>,
    /// Refused webhooks by cause.
    pub rejected: Vec<(String, i64)>,
    /// Replays that were planned.
    pub replays: Vec<Replay>,
    /// Who tried how many events again singly.
    pub retried: Vec<(String, i64)>,
    /// Open dead letters, whenever they died, and their groups.
    pub open: (i64, i64),
}

/// Events that came, by state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events {
    /// All.
    pub received: i64,
    /// Those processed.
    pub processed: i64,
    /// Those ignored.
    pub ignored: i64,
    /// Those dead.
    pub dead: i64,
    /// Those discarded.
    pub discarded: i64,
    /// Seconds from receipt to processed, of 95 of 100.
    pub p95_s: Option<f64>,
}

/// A replay of many events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Its id.
    pub id: i64,
    /// Who planned it.
    pub by: String,
    /// Where it stands.
    pub state: String,
    /// How many events were planned.
    pub planned: i64,
    /// How many were put back.
    pub put_back: i64,
    /// How many of those were processed.
    pub processed: i64,
}

/// The day for people, a line for each number.
pub fn text(day: &Day, at_stripe: &AtStripe) -> String {
    let mut text = events(&day.events);
    for moved in &day.money {
        line(&mut text, format_args!("{moved}"));
    }
    if day.money.is_empty() {
        line(&mut text, format_args!("no money moved"));
    }
    text += &at_stripe.to_string();
    rejected(&mut text, &day.rejected);
    replayed(&mut text, day);
    let (letters, groups) = day.open;
    line(
        &mut text,
        format_args!("{letters} dead letters open in {groups} groups"),
    );
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a string does not fail.
    let _ = writeln!(text, "{line}");
}

fn events(events: &Events) -> String {
    let Events {
        received,
        processed,
        ignored,
        dead,
        discarded,
        p95_s,
    } = events;
    let under_way = received - processed - ignored - dead - discarded;
    let mut text = format!(
        "{received} received: {processed} processed, {ignored} ignored, {dead} dead, {discarded} discarded, \
         {under_way} under way\n"
    );
    if let Some(p95_s) = p95_s {
        let what = "s from receipt to processed for 95 of 100";
        line(&mut text, format_args!("{p95_s:.3} {what}"));
    }
    text
}

fn rejected(text: &mut String, causes: &[(String, i64)]) {
    let all: i64 = causes.iter().map(|(_, count)| count).sum();
    line(text, format_args!("{all} rejected"));
    for (cause, count) in causes {
        line(text, format_args!("  {count} {cause}"));
    }
}

fn replayed(text: &mut String, day: &Day) {
    let put_back: i64 = day.replays.iter().map(|replay| replay.put_back).sum();
    let replays = day.replays.len();
    line(
        text,
        format_args!("{put_back} replayed by {replays} replays"),
    );
    for Replay {
        id,
        by,
        state,
        planned,
        put_back,
        processed,
    } in &day.replays
    {
        let what = format!("{put_back} of {planned} put back, {processed} processed");
        line(text, format_args!("  replay {id} by {by}: {state}, {what}"));
    }
    for (by, count) in &day.retried {
        line(text, format_args!("{count} tried again singly by {by}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_that_is_due_is_the_first_that_was_missed() {
        let now: Timestamp = "2026-03-30T01:00:00Z".parse().unwrap();
        let (utc, berlin) = (TimeZone::UTC, TimeZone::get("Europe/Berlin").unwrap());
        let american = TimeZone::get("America/New_York").unwrap();
        let date = |day: &str| day.parse::<Date>().unwrap();
        for (zone, last, expected) in [
            (&utc, None, Some(("2026-03-29", false))),
            (&american, None, Some(("2026-03-28", false))),
            (&utc, Some("2026-03-29"), None),
            (&utc, Some("2026-03-30"), None),
            (&utc, Some("2026-03-28"), Some(("2026-03-29", false))),
            (&utc, Some("2026-03-26"), Some(("2026-03-27", true))),
            (&utc, Some("2025-01-01"), Some(("2026-03-23", true))),
        ] {
            let found = due(now, zone, last.map(date));
            let found = found.map(|due| (due.date, due.late));
            let expected = expected.map(|(day, late)| (date(day), late));
            assert_eq!(found, expected, "{zone:?} {last:?}");
        }
        // Summer time begins: the day has 23 hours.
        let short = due(now, &berlin, None).unwrap();
        assert_eq!(
            (
                short.from.to_string().as_str(),
                short.to.to_string().as_str()
            ),
            ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
        );
    }

    #[test]
    fn a_day_reads_with_exact_money_in_the_digits_of_its_currency() {
        let moved = |currency: &str, captured_cents, refunded_cents| Moved {
            currency: currency.to_owned(),
            captured_cents,
            refunded_cents,
        };
        let day = Day {
            events: Events {
                received: 10,
                processed: 6,
                ignored: 2,
                dead: 1,
                discarded: 0,
                p95_s: Some(0.0421),
            },
            money: vec![
                moved("jpy", 12_000, 500),
                moved("usd", 9_007_199_254_740_993, 5),
            ],
            rejected: vec![("signature_stale".to_owned(), 3)],
            replays: vec![Replay {
                id: 4,
                by: "ann".to_owned(),
                state: "finished".to_owned(),
                planned: 3,
                put_back: 2,
                processed: 2,
            }],
            retried: vec![("olga".to_owned(), 1)],
            open: (7, 2),
        };
        assert_eq!(
            text(&day, &AtStripe::Unknown("no answer in time".to_owned())),
            "10 received: 6 processed, 2 ignored, 1 dead, 0 discarded, 1 under way\n\
             0.042 s from receipt to processed for 95 of 100\n\
             12000 JPY captured, 500 JPY refunded\n\
             90071992547409.93 USD captured, 0.05 USD refunded\n\
             not compared with Stripe: no answer in time\n\
             3 rejected\n  3 signature_stale\n\
             2 replayed by 1 replays\n  replay 4 by ann: finished, 2 of 3 put back, 2 processed\n\
             1 tried again singly by olga\n\
             7 dead letters open in 2 groups\n"
        );
        let empty = text(&Day::default(), &AtStripe::NotAsked);
        assert!(empty.contains("no money moved\n0 rejected\n0 replayed"));
    }
}
