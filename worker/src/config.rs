//! The worker's settings. The only module that knows their names.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use jiff::tz::TimeZone;
use lettre::AsyncSmtpTransport;
use lettre::Tokio1Executor;
use lettre::message::Mailbox;
use shared::orders::store::SeatTimes;
use shared::settings::{
    Check, Problems, ServiceArgs, ServiceSettings, address, boolean, count, duration,
};
use shared::stripe::{StripeArgs, StripeSettings};

use crate::alerting::notices::Site;
use crate::alerting::{AlertSettings, Hook};
use crate::decision::Policy;
use crate::mail::Outlet;
use crate::reconciler::Schedule;
use crate::retention::Ages;

/// Fulfills events: consumes the queue, runs handlers, sends mails, relays and rescues messages. Run as many as wanted.
#[derive(Parser)]
#[command(name = "worker", version)]
pub struct Args {
    #[command(flatten)]
    service: ServiceArgs,
    /// Which mode this installation serves: events of the other one are stored and ignored
    #[arg(long, env = "STRIPE_LIVEMODE", default_value = "false")]
    livemode: String,
    /// Address for /livez, /readyz and /metrics
    #[arg(long, env = "WORKER_ADMIN_LISTEN", default_value = "127.0.0.1:9081")]
    admin_listen: String,
    /// Events handled at a time; the broker hands over as many more messages in advance
    #[arg(long, env = "WORKER_CONCURRENCY", default_value = "8")]
    concurrency: String,
    /// Threads; one does for any handler that waits for the database rather than computing
    #[arg(long, env = "WORKER_THREADS", default_value = "1")]
    threads: String,
    /// Attempts before an event is dead
    #[arg(long, env = "WORKER_MAX_ATTEMPTS", default_value = "12")]
    max_attempts: String,
    /// Longest wait before the second attempt; doubles with each further one
    #[arg(long, env = "WORKER_BACKOFF_BASE", default_value = "1s")]
    backoff_base: String,
    /// Longest wait between attempts
    #[arg(long, env = "WORKER_BACKOFF_MAX", default_value = "10m")]
    backoff_max: String,
    /// An event that is not final this long after its message went out is published again
    #[arg(long, env = "RESCUE_AFTER", default_value = "5m")]
    rescue_after: String,
    /// How long seats are kept after a failed payment
    #[arg(long, env = "SEAT_HOLD", default_value = "30m")]
    seat_hold: String,
    /// How long a free seat is kept for the first of the waitlist
    #[arg(long, env = "SEAT_OFFER", default_value = "24h")]
    seat_offer: String,
    /// Bodies of final events are removed when they are older than this; `off` keeps them
    #[arg(long, env = "RETENTION_PAYLOADS", default_value = "off")]
    retention_payloads: String,
    /// Final events are removed when they are older than this, 31d at the least; `off` keeps them
    #[arg(long, env = "RETENTION_EVENTS", default_value = "off")]
    retention_events: String,
    #[command(flatten)]
    stripe: StripeArgs,
    /// How often Stripe's list of undelivered events is looked at, where its key is set; `off` for never
    #[arg(long, env = "RECONCILE_EVERY", default_value = "1h")]
    reconcile_every: String,
    /// Addresses that alerts and the daily summary are mailed to, separated by commas
    #[arg(
        long,
        env = "ALERT_MAIL_TO",
        default_value = "",
        hide_default_value = true
    )]
    alert_mail_to: String,
    /// URL that alerts are posted to as {"text": "…"}, which Slack and others take
    #[arg(long, env = "ALERT_HOOK_URL", hide_env_values = true)]
    alert_hook_url: Option<String>,
    /// Signs those posts, in the header Tollgate-Signature, as Stripe signs
    #[arg(long, env = "ALERT_HOOK_SECRET", hide_env_values = true)]
    alert_hook_secret: Option<String>,
    /// An alert that still fires is told again after this time
    #[arg(long, env = "ALERT_REPEAT", default_value = "4h")]
    alert_repeat: String,
    /// Whose days the daily summary is of, e.g. Europe/Berlin; the same for every worker
    #[arg(long, env = "ALERT_TIME_ZONE", default_value = "UTC")]
    alert_time_zone: String,
    /// Where people reach the console, e.g. https://ops.example.com: alerts link to it
    #[arg(long, env = "ALERT_CONSOLE_URL")]
    alert_console_url: Option<String>,
    /// Mail server, e.g. smtp://user:password@host:587?tls=required; without it mails are written to MAIL_DIR
    #[arg(long, env = "SMTP_URL", hide_env_values = true)]
    smtp_url: Option<String>,
    /// Directory for .eml files where SMTP_URL is not set
    #[arg(long, env = "MAIL_DIR", default_value = "mail")]
    mail_dir: PathBuf,
    /// Sender of all mails
    #[arg(
        long,
        env = "MAIL_FROM",
        default_value = "Tollgate <no-reply@localhost>"
    )]
    mail_from: String,
}

/// The worker's settings, parsed.
pub struct Config {
    /// Database, broker, logs.
    pub service: ServiceSettings,
    /// The mode served.
    pub livemode: bool,
    /// Admin address.
    pub admin_listen: SocketAddr,
    /// Events handled at a time.
    pub concurrency: u16,
    /// Threads of the runtime.
    pub threads: usize,
    /// When to retry, when to give up.
    pub policy: Policy,
    /// When a message counts as lost.
    pub rescue_after: Duration,
    /// How long seats wait.
    pub seat_times: SeatTimes,
    /// When what is final is removed.
    pub ages: Ages,
    /// When Stripe's list is compared with what is stored, if ever.
    pub reconcile: Option<Schedule>,
    /// Who is told of alerts.
    pub alerts: AlertSettings,
    /// Where mails go.
    pub outlet: Outlet,
    /// Who sends them.
    pub mail_from: Mailbox,
}

impl Config {
    /// Reads arguments and environment; `--help`, `--version` and unknown arguments end the process.
    pub fn from_environment() -> Result<Self, Problems> {
        Self::from_args(&Args::parse())
    }

    /// Checks every setting, and reports every problem at once.
    pub fn from_args(args: &Args) -> Result<Self, Problems> {
        let mut check = Check::default();
        let service = args.service.parse(&mut check);
        let livemode = check.value("STRIPE_LIVEMODE", &args.livemode, boolean);
        let admin_listen = check.value("WORKER_ADMIN_LISTEN", &args.admin_listen, address);
        let concurrency = check.value("WORKER_CONCURRENCY", &args.concurrency, count(1));
        let threads = check.value("WORKER_THREADS", &args.threads, count(1));
        let policy = policy(args, &mut check);
        let rescue_after = check.value("RESCUE_AFTER", &args.rescue_after, duration);
        let hold = check.value("SEAT_HOLD", &args.seat_hold, duration);
        let offer = check.value("SEAT_OFFER", &args.seat_offer, duration);
        let ages = ages(args, &mut check);
        let stripe = stripe(args, livemode, &mut check);
        let reconcile_every = check.value("RECONCILE_EVERY", &args.reconcile_every, age);
        let alerts = alerts(args, livemode, stripe.clone().flatten(), &mut check);
        let outlet = match args
            .smtp_url
            .as_deref()
            .filter(|url| !url.trim().is_empty())
        {
            Some(url) => check.value("SMTP_URL", url, smtp),
            None => Some(Outlet::Directory(args.mail_dir.clone())),
        };
        let mail_from = check.value("MAIL_FROM", &args.mail_from, |raw| {
            raw.parse().map_err(|_| {
                format!("must be an address such as Shop <shop@example.com>, not `{raw}`")
            })
        });
        let config = || {
            Some(Self {
                service: service?,
                livemode: livemode?,
                admin_listen: admin_listen?,
                concurrency: concurrency?,
                threads: threads?,
                policy: policy?,
                rescue_after: rescue_after?,
                seat_times: SeatTimes {
                    hold: hold?,
                    offer: offer?,
                },
                ages: ages?,
                reconcile: schedule(stripe?, reconcile_every?),
                alerts: alerts?,
                outlet: outlet?,
                mail_from: mail_from?,
            })
        };
        check.finish(config())
    }
}

fn policy(args: &Args, check: &mut Check) -> Option<Policy> {
    let max_attempts = check.value("WORKER_MAX_ATTEMPTS", &args.max_attempts, count(1));
    let base = check.value("WORKER_BACKOFF_BASE", &args.backoff_base, duration);
    let longest = check.value("WORKER_BACKOFF_MAX", &args.backoff_max, duration);
    let (max_attempts, backoff_base, backoff_max) = (max_attempts?, base?, longest?);
    Some(Policy {
        max_attempts,
        backoff_base,
        backoff_max,
    })
}

/// Stripe, or a person there, may send an event again for 30 days: until then it must be known.
const LEAST_EVENT_AGE: Duration = Duration::from_secs(31 * 86_400);

fn ages(args: &Args, check: &mut Check) -> Option<Ages> {
    let payloads = check.value("RETENTION_PAYLOADS", &args.retention_payloads, age);
    let events = check.value("RETENTION_EVENTS", &args.retention_events, age);
    if events
        .flatten()
        .is_some_and(|events| events < LEAST_EVENT_AGE)
    {
        let text =
            "RETENTION_EVENTS must be at least 31d: until then Stripe may send an event again";
        check.problem(text.to_owned());
    }
    Some(Ages {
        payloads: payloads?,
        events: events?,
    })
}

/// How to reach Stripe's API, with a key of the mode that is served; `None` inside where there is no key.
fn stripe(
    args: &Args,
    livemode: Option<bool>,
    check: &mut Check,
) -> Option<Option<StripeSettings>> {
    let (stripe, livemode) = (args.stripe.parse(check)?, livemode?);
    if let Some(stripe) = &stripe
        && let Err(problem) = stripe.api(livemode)
    {
        check.problem(format!("{} {problem}", stripe.key_name()));
        return None;
    }
    Some(stripe)
}

fn schedule(stripe: Option<StripeSettings>, every: Option<Duration>) -> Option<Schedule> {
    let (stripe, every) = stripe.zip(every)?;
    Some(Schedule { stripe, every })
}

fn alerts(
    args: &Args,
    livemode: Option<bool>,
    stripe: Option<StripeSettings>,
    check: &mut Check,
) -> Option<AlertSettings> {
    let mail_to = check.value("ALERT_MAIL_TO", &args.alert_mail_to, mailboxes);
    let repeat = check.value("ALERT_REPEAT", &args.alert_repeat, duration);
    let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let secret = given(&args.alert_hook_secret);
    let hook = match given(&args.alert_hook_url) {
        Some(url) => check
            .value("ALERT_HOOK_URL", &url, |url| {
                Hook::new(url, secret.as_deref())
            })
            .map(Some),
        None => Some(None),
    };
    let time_zone = check.value("ALERT_TIME_ZONE", &args.alert_time_zone, time_zone);
    let console = match given(&args.alert_console_url) {
        Some(url) => check
            .value("ALERT_CONSOLE_URL", &url, console_url)
            .map(Some),
        None => Some(None),
    };
    Some(AlertSettings {
        mail_to: mail_to?,
        hook: hook?,
        repeat: repeat?,
        time_zone: time_zone?,
        stripe,
        site: Site {
            livemode: livemode?,
            console: console?,
        },
    })
}

fn time_zone(raw: &str) -> Result<TimeZone, String> {
    TimeZone::get(raw.trim())
        .map_err(|_| format!("must be a time zone such as Europe/Berlin, not `{raw}`"))
}

fn console_url(raw: &str) -> Result<String, String> {
    let url = raw.trim().trim_end_matches('/');
    let is_url = |scheme| {
        url.strip_prefix(scheme)
            .is_some_and(|rest: &str| !rest.is_empty())
    };
    if (is_url("https://") || is_url("http://")) && !url.contains(char::is_whitespace) {
        Ok(url.to_owned())
    } else {
        // Not repeated: a URL may hold a password.
        Err("must be a URL such as https://ops.example.com".to_owned())
    }
}

fn mailboxes(raw: &str) -> Result<Vec<Mailbox>, String> {
    raw.split(',')
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .map(|address| {
            address
                .parse()
                .map_err(|_| format!("must be addresses separated by commas, not `{address}`"))
        })
        .collect()
}

fn age(raw: &str) -> Result<Option<Duration>, String> {
    match raw {
        "off" => Ok(None),
        _ => duration(raw).map(Some),
    }
}

/// The message never repeats the URL: it may hold a password.
fn smtp(raw: &str) -> Result<Outlet, String> {
    let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(raw).map_err(|_| {
        "is not a mail server's URL (smtp://user:password@host:587?tls=required)".to_owned()
    })?;
    Ok(Outlet::Smtp(
        transport.timeout(Some(Duration::from_secs(10))).build(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_named_at_once_without_a_password() {
        let args = [
            "worker",
            "--livemode=maybe",
            "--concurrency=0",
            "--backoff-base=0s",
            "--retention-payloads=soon",
            "--retention-events=30d",
            "--reconcile-every=often",
            "--stripe-secret-key=pk_test_hunter2",
            "--stripe-api-url=http://api.stripe.com",
            "--alert-mail-to=nobody",
            "--alert-hook-url=ftp://hunter2",
            "--alert-time-zone=Mars/Olympus",
            "--alert-console-url=ops.example.com",
            "--smtp-url=http://user:hunter2@mail",
            "--mail-from=nobody",
        ];
        let problems = Config::from_args(&Args::try_parse_from(args).unwrap())
            .err()
            .unwrap()
            .to_string();
        for name in [
            "STRIPE_LIVEMODE",
            "WORKER_CONCURRENCY",
            "WORKER_BACKOFF_BASE",
            "RETENTION_PAYLOADS",
            "RETENTION_EVENTS",
            "RECONCILE_EVERY",
            "STRIPE_SECRET_KEY",
            "STRIPE_API_URL",
            "ALERT_MAIL_TO",
            "ALERT_HOOK_URL",
            "ALERT_TIME_ZONE",
            "ALERT_CONSOLE_URL",
            "SMTP_URL",
            "MAIL_FROM",
        ] {
            assert!(problems.contains(name), "{problems}");
        }
        assert!(!problems.contains("hunter2"), "{problems}");
    }

    #[test]
    fn a_key_of_the_wrong_mode_is_refused_without_being_repeated() {
        let of = |args: [&str; 3]| Config::from_args(&Args::try_parse_from(args).unwrap());
        let (test, live) = (
            "--stripe-secret-key=rk_test_hunter2",
            "--stripe-secret-key=sk_live_hunter2",
        );
        for (key, livemode) in [(test, "--livemode=true"), (live, "--livemode=false")] {
            let problems = of(["worker", key, livemode]).err().unwrap().to_string();
            assert!(
                problems.contains("STRIPE_SECRET_KEY is a key of"),
                "{problems}"
            );
            assert!(!problems.contains("hunter2"), "{problems}");
        }
    }
}
