//! What the doctor finds in the database: the server, the schema, roles and privileges.

use deadpool_postgres::Object;
use shared::database::{query, query_opt};
use shared::migrations::require_current;

use super::{Finding, State, failed, ok, warning};
use crate::OpsError;

pub async fn check_database(client: &Object) -> Result<Vec<Finding>, OpsError> {
    const SERVER: &str = "
        SELECT current_setting('server_version'), current_setting('server_version_num')::integer,
            current_setting('fsync'), current_setting('full_page_writes'),
            (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
            current_setting('transaction_read_only'), current_user::text,
            extract(epoch FROM clock_timestamp())::float8";
    let row = query_opt(client, SERVER, &[])
        .await?
        .ok_or_else(|| OpsError::Unexpected("no answer".to_owned()))?;
    let (version, number, user): (String, i32, String) = (row.get(0), row.get(1), row.get(6));
    let mut findings = vec![match number {
        140_000.. => ok("database", format!("PostgreSQL {version} as {user}")),
        _ => failed(
            "database",
            format!("PostgreSQL {version}"),
            "use PostgreSQL 14 or later",
        ),
    }];
    for (check, value) in [
        ("fsync", row.get::<_, String>(2)),
        ("full_page_writes", row.get(3)),
    ] {
        findings.push(match value.as_str() {
            "on" => ok(check, "on"),
            _ => failed(
                check,
                value,
                format!("set {check} = on in postgresql.conf: a crash would lose accepted events"),
            ),
        });
    }
    let synchronous: String = row.get(4);
    findings.push(match synchronous.as_str() {
        "off" | "local" | "remote_write" => warning(
            "synchronous_commit",
            synchronous,
            "the services overrule it; set it to on for other programs",
        ),
        _ => ok("synchronous_commit", synchronous),
    });
    findings.push(match row.get::<_, &str>(5) {
        "off" => ok("writable", "yes"),
        _ => failed("writable", "read-only", "point DATABASE_URL at the primary"),
    });
    findings.push(check_clock(row.get(7)));
    findings.push(match require_current(&***client).await {
        Ok(()) => ok("schema", "current"),
        Err(error) => failed("schema", error.to_string(), "run `ops migrate`"),
    });
    if findings
        .iter()
        .all(|finding| finding.check != "schema" || finding.state == State::Ok)
    {
        findings.extend(check_privileges(client).await?);
    }
    Ok(findings)
}

fn check_clock(database_s: f64) -> Finding {
    let skew_s = (jiff::Timestamp::now().as_duration().as_secs_f64() - database_s).abs();
    if skew_s < 5.0 {
        ok("clock", format!("{skew_s:.1} s from the database's"))
    } else {
        warning(
            "clock",
            format!("{skew_s:.0} s from the database's"),
            "run NTP: signatures are checked against the clock",
        )
    }
}

async fn check_privileges(client: &Object) -> Result<Vec<Finding>, OpsError> {
    const ROLES: &str = "
        SELECT wanted FROM unnest(ARRAY['tollgate_gateway', 'tollgate_worker', 'tollgate_ops', 'tollgate_readonly']) wanted
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted)";
    const MINE: &str = "
        SELECT concat_ws(' ', privilege, 'on', relation)
        FROM (VALUES ('webhook_events', 'SELECT'), ('event_attempts', 'SELECT'), ('dead_letters', 'SELECT'),
            ('rejections', 'SELECT'), ('reconciled_events', 'SELECT'), ('outbox', 'INSERT'), ('audit_log', 'INSERT'),
            ('replays', 'INSERT'), ('replay_items', 'INSERT'),
            ('orders', 'INSERT'), ('products', 'INSERT'))
            AS needed (relation, privilege)
        WHERE NOT has_table_privilege(relation, privilege)";
    const EXCESS: &str = "
        SELECT concat_ws(' ', role, 'has', privilege, 'on', relation)
        FROM (VALUES ('tollgate_gateway', 'event_payloads', 'SELECT'), ('tollgate_gateway', 'webhook_events', 'DELETE'),
            ('tollgate_gateway', 'rejections', 'SELECT'),
            ('tollgate_worker', 'event_payloads', 'UPDATE'), ('tollgate_worker', 'audit_log', 'INSERT'),
            ('tollgate_worker', 'webhook_events', 'INSERT'), ('tollgate_ops', 'webhook_events', 'INSERT'),
            ('tollgate_ops', 'audit_log', 'UPDATE'), ('tollgate_ops', 'audit_log', 'DELETE'),
            ('tollgate_readonly', 'event_payloads', 'SELECT'))
            AS forbidden (role, relation, privilege)
        WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = role) AND has_table_privilege(role, relation, privilege)";
    let texts = async |sql: &str| -> Result<Vec<String>, OpsError> {
        Ok(query(client, sql, &[])
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect())
    };
    let (roles, mine, excess) = (
        texts(ROLES).await?,
        texts(MINE).await?,
        texts(EXCESS).await?,
    );
    Ok(vec![
        match roles.as_slice() {
            [] => ok("roles", "all there"),
            _ => warning(
                "roles",
                format!("missing: {}", roles.join(", ")),
                "run `ops migrate` as a user who may create roles",
            ),
        },
        match mine.as_slice() {
            [] => ok("privileges", "this user may do all that ops does"),
            _ => failed(
                "privileges",
                format!("lacking: {}", mine.join(", ")),
                "GRANT tollgate_ops TO this user",
            ),
        },
        match excess.as_slice() {
            [] => ok("least privilege", "no role may do more than it needs"),
            _ => warning(
                "least privilege",
                excess.join(", "),
                "REVOKE what was granted by hand",
            ),
        },
    ])
}
