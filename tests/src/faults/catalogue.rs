//! Every fault of the table.

use super::fault::Fault;
use super::{
    broker, database, forgeries, network, processes, replays, retention, storms, stripe, upgrade,
};
use crate::simulator::Shape;

/// In place of those of the same id, where time is no matter.
pub const LONG_FAULTS: &[Fault] = &[
    Fault::new("F16", "broker away for 10 min", broker::long_away)
        .seldom()
        .accepted()
        .over(500, 760)
        .recovered_within_ms(60_000)
        .burns_nothing()
        .alone(),
];

/// All of them but the crashes, which are staged by themselves.
pub const FAULTS: &[Fault] = &[
    Fault::new(
        "F01c",
        "gateway SIGKILL, three times",
        processes::kill_gateway,
    )
    .refused(),
    Fault::new(
        "F01d",
        "each of two gateways frozen for 4 s",
        processes::freeze_gateway,
    )
    .accepted()
    .staged(processes::two_gateways)
    .over(160, 10),
    Fault::new(
        "F05",
        "commit done, its answer lost",
        database::lose_replies,
    )
    .refused(),
    Fault::new(
        "F06d",
        "worker SIGKILL, three times",
        processes::kill_worker,
    )
    .accepted()
    .mails(24),
    Fault::new(
        "F09",
        "worker frozen past its lock, then thawed",
        processes::freeze_worker,
    )
    .seldom()
    .accepted()
    .over(120, 10)
    .mails(8)
    .alone(),
    Fault::new(
        "F09b",
        "worker frozen before its commit, then thawed",
        processes::freeze_before_commit,
    )
    .seldom()
    .accepted()
    .over(120, 10)
    .mails(8)
    .alone(),
    Fault::new(
        "F10",
        "worker crashes again and again on one event",
        processes::crash_loop,
    )
    .seldom()
    .accepted()
    .over(60, 4)
    .mails(80)
    .alone(),
    Fault::new("F11", "worker SIGTERM", processes::terminate_worker).accepted(),
    Fault::new(
        "F12",
        "every worker restarted in turn",
        processes::roll_workers,
    )
    .accepted(),
    Fault::new("F13", "workers 1, then 8, then 2", processes::scale_workers)
        .seldom()
        .accepted()
        .staged(processes::one_worker)
        .over(300, 10),
    Fault::new(
        "F14",
        "every message delivered three more times",
        storms::redeliver,
    )
    .accepted(),
    Fault::new("F15a", "broker SIGKILL, 3 s, restarted", broker::kill)
        .seldom()
        .accepted()
        .burns_nothing(),
    Fault::new("F15b", "broker restarted cleanly", broker::restart)
        .seldom()
        .accepted()
        .burns_nothing(),
    Fault::new("F15c", "broker frozen for 8 s", broker::freeze)
        .seldom()
        .accepted()
        .over(160, 10)
        .burns_nothing(),
    Fault::new("F15d", "close_all_connections", broker::close_connections)
        .seldom()
        .accepted()
        .burns_nothing(),
    Fault::new("F16", "broker away for 20 s", broker::away)
        .seldom()
        .accepted()
        .over(400, 22)
        .burns_nothing(),
    Fault::new("F17", "broker memory alarm for 8 s", broker::memory_alarm)
        .seldom()
        .accepted()
        .over(160, 12)
        .burns_nothing(),
    Fault::new("F18", "broker disk alarm for 8 s", broker::disk_alarm)
        .seldom()
        .accepted()
        .over(160, 12)
        .burns_nothing(),
    Fault::new("F19a", "queue purged", broker::purge)
        .accepted()
        .burns_nothing(),
    Fault::new("F19b", "queue deleted", broker::delete_queue)
        .accepted()
        .burns_nothing(),
    Fault::new("F19c", "exchange deleted", broker::delete_exchange)
        .accepted()
        .burns_nothing(),
    Fault::new("F19d", "queue unbound", broker::unbind_queue)
        .accepted()
        .burns_nothing(),
    Fault::new("F20", "broker's data directory lost", broker::lose_disk)
        .seldom()
        .accepted()
        .burns_nothing(),
    Fault::new(
        "F21",
        "broker closes the channels of slow workers (consumer timeout of 2 s)",
        broker::consumer_timeout,
    )
    .seldom()
    .accepted()
    .over(160, 12)
    .burns_nothing()
    .alone(),
    Fault::new("F23a", "database restarted", database::restart)
        .seldom()
        .refused()
        .burns_nothing(),
    Fault::new("F23b", "database SIGKILL, every process", database::kill)
        .seldom()
        .refused()
        .burns_nothing(),
    Fault::new(
        "F24",
        "database read-only for 4 s (fail-over)",
        database::read_only,
    )
    .seldom()
    .refused()
    .burns_nothing(),
    Fault::new(
        "F24b",
        "first of two database hosts frozen, the second one takes over",
        database::fail_over,
    )
    .seldom()
    .refused()
    .over(160, 10)
    .burns_nothing()
    .alone(),
    Fault::new(
        "F25",
        "database takes no more connections",
        database::no_connections,
    )
    .refused()
    .burns_nothing(),
    Fault::new(
        "F26",
        "database reports disk full (53100) for 20 s",
        database::disk_full,
    )
    .seldom()
    .refused()
    .over(160, 22)
    .burns_nothing(),
    Fault::new("F27", "a table locked for 5 s", database::lock_table)
        .accepted()
        .burns_nothing(),
    Fault::new(
        "F28",
        "all backends terminated, five times",
        database::terminate_backends,
    )
    .burns_nothing(),
    Fault::new(
        "F29",
        "round trips to database and broker take 500 ms ± 300",
        network::slow,
    )
    .seldom()
    .seldom_noticed()
    .over(60, 16),
    Fault::new("F30a", "database frozen for 6 s", database::freeze)
        .seldom()
        .refused()
        .over(160, 8)
        .burns_nothing(),
    Fault::new(
        "F30b",
        "black hole to the database for 8 s",
        network::database_black_hole,
    )
    .seldom()
    .refused()
    .over(160, 10)
    .burns_nothing(),
    Fault::new(
        "F30c",
        "black hole to the broker for 8 s",
        network::broker_black_hole,
    )
    .seldom()
    .accepted()
    .over(160, 10)
    .burns_nothing(),
    Fault::new("F30d", "broker frozen for 60 s", broker::freeze_for_long)
        .seldom()
        .accepted()
        .over(400, 66)
        .burns_nothing()
        .alone(),
    Fault::new(
        "F31a",
        "gateway from broker, flapping",
        network::flap_broker,
    )
    .accepted()
    .burns_nothing(),
    Fault::new(
        "F31b",
        "worker from database, flapping",
        network::flap_database,
    )
    .accepted()
    .burns_nothing(),
    Fault::new(
        "F32a",
        "slices of 7 bytes to database and broker",
        network::slice,
    )
    .over(40, 6),
    // A message that comes back five times may count as a failed attempt: the broker cannot tell why it does.
    Fault::new("F32b", "connections reset, five times", network::reset),
    Fault::new(
        "F32c",
        "half-closed connections to database and broker",
        network::half_close,
    ),
    Fault::new(
        "F32d",
        "16 KiB a second to database and broker",
        network::narrow,
    )
    .accepted()
    .over(40, 8)
    .burns_nothing(),
    Fault::new("F33", "sender's clock off by up to 290 s", storms::skew).accepted(),
    Fault::new(
        "F34",
        "one event 1,000 times, 64 at a time",
        storms::duplicates,
    )
    .accepted(),
    Fault::new(
        "F35",
        "each payment told by three types at once",
        storms::nothing,
    )
    .accepted()
    .shaped(Shape::Thrice)
    .alone(),
    Fault::new("F36", "life cycles in a random order", storms::nothing)
        .accepted()
        .shaped(Shape::Shuffled)
        .over(200, 3)
        .alone(),
    Fault::new(
        "F37",
        "refunds before payments, twice, beyond the captured",
        storms::nothing,
    )
    .accepted()
    .shaped(Shape::Refunds)
    .over(100, 4)
    .alone(),
    Fault::new(
        "F38",
        "wrong mode, wrong amounts, wrong currencies",
        storms::nothing,
    )
    .accepted()
    .shaped(Shape::Foreign)
    .over(100, 4)
    .alone(),
    Fault::new("F39", "signed JSON that is no payment", forgeries::of_json)
        .accepted()
        .shaped(Shape::Poison)
        .over(100, 4)
        .alone(),
    Fault::new(
        "F40",
        "800 forged, stale and missing signatures",
        forgeries::of_signatures,
    )
    .accepted()
    .alone(),
    Fault::new(
        "F41",
        "bodies too large, endless, cut off, compressed",
        forgeries::of_bodies,
    )
    .accepted(),
    Fault::new(
        "F42",
        "hidden requests and swollen headers",
        forgeries::of_headers,
    )
    .accepted(),
    Fault::new("F43", "10,000 slow connections", storms::slow_connections)
        .seldom()
        .accepted()
        .over(120, 10)
        .alone(),
    Fault::new("F44", "secret rotated under load", processes::rotate_secret)
        .accepted()
        .staged(processes::secret_in_a_file)
        .alone(),
    Fault::new(
        "F45",
        "both gateways restarted in turn",
        processes::roll_gateways,
    )
    .accepted()
    .staged(processes::two_gateways),
    Fault::new(
        "F46",
        "migrated under load, new processes beside the old",
        upgrade::migrate,
    )
    .seldom()
    .accepted()
    .over(160, 12)
    .alone(),
    Fault::new(
        "F47",
        "3,000 old events removed under load",
        retention::under_load,
    )
    .accepted()
    .over(160, 8)
    .burns_nothing()
    .alone(),
    Fault::new(
        "F48",
        "300 dead letters replayed under load",
        replays::under_load,
    )
    .seldom()
    .accepted()
    .over(240, 12)
    .alone(),
    Fault::new(
        "F50",
        "replays of what is fulfilled, and in two replays",
        replays::of_the_fulfilled,
    )
    .accepted()
    .alone(),
    Fault::new("F52a", "mail server refuses", storms::mail_refused).accepted(),
    Fault::new(
        "F52b",
        "mail server takes mails without saying so",
        storms::mail_dropped,
    )
    .accepted()
    .mails(8),
    Fault::new(
        "F53",
        "gateway off for 3 s, its events in Stripe's list only, which fails at first",
        stripe::given_up,
    )
    .alone(),
    Fault::new("F55", "collector of traces away", storms::nothing)
        .accepted()
        .staged(storms::no_collector)
        .alone(),
    Fault::new(
        "F55b",
        "collector of traces takes connections and says nothing",
        storms::nothing,
    )
    .accepted()
    .staged(storms::hung_collector)
    .alone(),
];
