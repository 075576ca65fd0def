//! What people read of an alert: what it is and where, since when, what to run next and where to look. Pure.

use jiff::Timestamp;

use super::news::News;
use super::rules::Firing;

/// More are not listed in one notice: a hook may refuse what is too long.
const MOST_LINES: usize = 50;

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Each name is told once on each channel.
    pub name: String,
    /// One line.
    pub subject: String,
    /// The rest.
    pub body: String,
}

/// A dead event about money.
#[derive(Debug)]
pub struct DeadPayment {
    /// Its dead letter's.
    pub id: i64,
    /// Which event.
    pub event_id: String,
    /// Of which type.
    pub event_type: String,
    /// How often it was tried.
    pub attempts: i32,
    /// A fixed word for the cause.
    pub reason: String,
    /// What went wrong.
    pub error: String,
    /// Its group.
    pub fingerprint: String,
}

/// What a handler raised for a person to decide.
#[derive(Debug)]
pub struct Raised {
    /// Its row's.
    pub id: i64,
    /// A fixed word.
    pub kind: String,
    /// The event or the object that it is about.
    pub key: String,
    /// For people.
    pub message: String,
}

/// The installation that notices come from.
#[derive(Debug, Clone)]
pub struct Site {
    /// Which mode it serves.
    pub livemode: bool,
    /// Where its console is, without a slash at the end.
    pub console: Option<String>,
}

impl Site {
    /// What is told of a change.
    pub fn news(&self, news: &News, now: Timestamp) -> Notice {
        let (word, rule, key, message, since) = match news {
            News::Fires(alert) => ("firing", alert.rule, &alert.key, &alert.message, None),
            News::FiresStill(alert, since) => {
                let Firing {
                    rule, key, message, ..
                } = alert;
                ("still firing", *rule, key, message, Some(since))
            }
            News::Resolved {
                rule,
                key,
                message,
                since,
            } => ("resolved", rule.as_str(), key, message, Some(since)),
        };
        let since = since.map_or(String::new(), |since| match word {
            "resolved" => format!("\nIt fired since {since:.0}."),
            _ => format!("\nIt fires since {since:.0}."),
        });
        let body = match word {
            "resolved" => format!("{message}{since}\n{}", self.console(page(rule, key))),
            _ => self.body(
                &format!("{message}{since}"),
                &next(rule, key),
                &page(rule, key),
                rule,
            ),
        };
        Notice {
            name: format!("{rule}/{key}/{word}/{now}"),
            subject: self.subject(&format!("[{word}] {rule}: {message}")),
            body,
        }
    }

    /// What is told of each dead event about money.
    pub fn dead_payment(&self, dead: &DeadPayment) -> Notice {
        let DeadPayment {
            id,
            event_id,
            event_type,
            attempts,
            reason,
            error,
            fingerprint,
        } = dead;
        let text = format!(
            "{event_type} {event_id} is dead after {attempts} attempts: {error}\nGroup {fingerprint}: {reason}"
        );
        Notice {
            name: format!("dead_payment/{id}"),
            subject: self.subject(&format!("[dead payment] {event_type} {event_id}: {reason}")),
            body: self.body(
                &text,
                &format!("ops events show {event_id}"),
                &format!("/events/{event_id}"),
                "dead_payments",
            ),
        }
    }

    /// What a person must decide.
    pub fn raised(&self, raised: &Raised) -> Notice {
        let Raised {
            id,
            kind,
            key,
            message,
        } = raised;
        let (next, page) = if key.starts_with("evt_") {
            (format!("ops events show {key}"), format!("/events/{key}"))
        } else {
            let page = format!("/events?filter=object:{key}");
            (format!("ops events list --filter object:{key}"), page)
        };
        Notice {
            name: format!("alert/{id}"),
            subject: self.subject(&format!("[decide] {kind}: {message}")),
            body: self.body(
                &format!("{kind} of {key}: {message}"),
                &next,
                &page,
                "decide",
            ),
        }
    }

    /// Many at once: a flood of mails is not read.
    pub fn bundle(&self, notices: &[Notice], now: Timestamp) -> Notice {
        let of = self.subject("");
        let line = |notice: &Notice| notice.subject.trim_start_matches(&of).to_owned();
        let lines: Vec<String> = notices.iter().map(line).collect();
        let first = lines.first().map_or("", String::as_str);
        let mut text = lines[..lines.len().min(MOST_LINES)].join("\n");
        if lines.len() > MOST_LINES {
            text += &format!("\nand {} more", lines.len() - MOST_LINES);
        }
        let subject = format!("[{} notices] {first}", notices.len());
        Notice {
            name: format!("bundle/{now}"),
            subject: self.subject(&subject),
            body: self.body(
                &text,
                "ops dead-letters groups",
                "/dead-letters",
                "alerts-that-tollgate-sends",
            ),
        }
    }

    fn subject(&self, what: &str) -> String {
        format!("Tollgate {}: {what}", self.mode())
    }

    /// In a word.
    pub fn mode(&self) -> &'static str {
        if self.livemode { "live" } else { "test" }
    }

    fn body(&self, text: &str, next: &str, page: &str, heading: &str) -> String {
        let console = self.console(page.to_owned());
        format!("{text}\n\nNext: {next}\n{console}Runbook: deploy/runbook.md#{heading}\n")
    }

    /// A line with a link, where it is known where the console is.
    pub fn console(&self, page: String) -> String {
        let link = |console: &String| format!("Console: {console}{page}\n");
        self.console.as_ref().map_or(String::new(), link)
    }
}

/// The command to run first.
fn next(rule: &str, key: &str) -> String {
    match rule {
        "dead_payments" | "recurred" => format!("ops dead-letters list --fingerprint {key}"),
        "repeated_failures" => "ops dead-letters groups".to_owned(),
        "backlog_age" => "ops events list --state received --limit 20".to_owned(),
        "signature_failures" => format!("ops rejections list --since 1h --cause {key}"),
        "retired_secret" => "ops rejections list --since 1h --cause signature_retired".to_owned(),
        "wrong_mode" => "ops events list --state ignored --since 1h".to_owned(),
        "reconciliation" => "ops reconcile --since 1h --dry-run".to_owned(),
        "silence" => "ops rejections list --since 1h".to_owned(),
        _ => "ops doctor".to_owned(),
    }
}

/// The page of the console.
fn page(rule: &str, key: &str) -> String {
    match rule {
        "dead_payments" | "recurred" => format!("/dead-letters/{key}"),
        "repeated_failures" => "/dead-letters".to_owned(),
        "backlog_age" => "/events?filter=state:received".to_owned(),
        "signature_failures" | "retired_secret" => "/rejections".to_owned(),
        "wrong_mode" => "/events?filter=state:ignored".to_owned(),
        "reconciliation" => "/reconcile".to_owned(),
        _ => "/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::news::Repeat;
    use super::*;

    fn site(console: Option<&str>) -> Site {
        Site {
            livemode: true,
            console: console.map(str::to_owned),
        }
    }

    fn alert(rule: &'static str, key: &str) -> Firing {
        Firing {
            rule,
            key: key.to_owned(),
            message: "what happened".to_owned(),
            repeat: Repeat::Usual,
        }
    }

    #[test]
    fn a_notice_says_what_where_and_what_to_run_next() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let news = News::Fires(alert("dead_payments", "f00d"));
        let told = site(Some("https://ops.example.com")).news(&news, now);
        assert_eq!(
            told.subject,
            "Tollgate live: [firing] dead_payments: what happened"
        );
        assert_eq!(
            told.body,
            "what happened\n\nNext: ops dead-letters list --fingerprint f00d\n\
             Console: https://ops.example.com/dead-letters/f00d\nRunbook: deploy/runbook.md#dead_payments\n"
        );
        let still = News::FiresStill(alert("rescued", ""), now);
        assert_eq!(
            site(None).news(&still, now).body,
            "what happened\nIt fires since 1970-01-12T13:46:40Z.\n\nNext: ops doctor\nRunbook: deploy/runbook.md#rescued\n"
        );
    }

    #[test]
    fn of_many_notices_each_has_a_line() {
        let raised = |id| Raised {
            id,
            kind: "review".to_owned(),
            key: "ord_1".to_owned(),
            message: format!("number {id}"),
        };
        let site = site(None);
        let notices: Vec<Notice> = (1..=60).map(|id| site.raised(&raised(id))).collect();
        let most = site.bundle(&notices, Timestamp::UNIX_EPOCH).body;
        assert!(most.contains("number 50\nand 10 more\n"), "{most}");
        let notices = &notices[..2];
        let all = site.bundle(notices, Timestamp::UNIX_EPOCH);
        assert_eq!(
            all.subject,
            "Tollgate live: [2 notices] [decide] review: number 1"
        );
        assert!(
            all.body
                .starts_with("[decide] review: number 1\n[decide] review: number 2\n\n"),
            "{}",
            all.body
        );
    }
}
