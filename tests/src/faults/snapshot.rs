//! Reads what a run left behind.

use tokio_postgres::{Client, Row};

use crate::checker::{AttemptRow, EventRow, MailRow, Move, OrderRow, ReplayRow, Snapshot};

const ORDERS: &str = "
    SELECT o.id, o.status,
        (SELECT count(*) FROM registrations r WHERE r.order_id = o.id),
        (SELECT count(*) FROM registrations r WHERE r.order_id = o.id AND r.status = 'active'),
        (SELECT count(*) FROM tickets t WHERE t.order_id = o.id AND t.status = 'valid'),
        (SELECT count(*) FROM (SELECT FROM tickets t WHERE t.order_id = o.id AND t.status = 'valid'
            GROUP BY t.registration_id HAVING count(*) > 1) doubled),
        (SELECT coalesce(sum(p.amount_cents) FILTER (WHERE p.succeeded), 0)::bigint FROM payments p WHERE p.order_id = o.id),
        (SELECT coalesce(sum(p.refunded_cents), 0)::bigint FROM payments p WHERE p.order_id = o.id)
    FROM orders o";

const OVERSOLD: &str = "
    SELECT p.id FROM products p WHERE p.capacity <
        (SELECT count(*) FROM registrations r WHERE r.product_id = p.id AND r.status = 'active')";

const EVENTS: &str = "
    SELECT e.id, e.state, e.attempts::bigint, coalesce(encode(sha256(p.body), 'hex'), '')
    FROM webhook_events e LEFT JOIN event_payloads p ON p.event_id = e.id";

const REPLAYS: &str = "
    SELECT r.id, r.state, r.planned_count::bigint,
        ARRAY[r.in_flight, r.processed, r.dead_again, r.skipped]::bigint[],
        (SELECT ARRAY[count(*) FILTER (WHERE outcome = 'replayed'), count(*) FILTER (WHERE outcome = 'processed'),
            count(*) FILTER (WHERE outcome = 'dead_again'), count(*) FILTER (WHERE outcome = 'skipped')]
         FROM replay_items i WHERE i.replay_id = r.id),
        (SELECT count(*) FROM audit_log a WHERE a.subject = 'replay ' || r.id AND a.actor <> '' AND a.reason <> '')
    FROM replays r";

const NOTE_MOVES: &str = "
    CREATE TABLE moves (kind text, id text, before text, after text);
    CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$ BEGIN
        INSERT INTO moves VALUES (TG_ARGV[0], NEW.id, to_jsonb(OLD) ->> TG_ARGV[1], to_jsonb(NEW) ->> TG_ARGV[1]);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_move AFTER UPDATE OF state ON webhook_events FOR EACH ROW
        WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION note_move('event', 'state');
    CREATE TRIGGER note_move AFTER UPDATE OF status ON orders FOR EACH ROW
        WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION note_move('order', 'status')";

/// From now on every change of a state is kept, with the change itself or not at all.
pub async fn note_moves(db: &Client) {
    db.batch_execute(NOTE_MOVES).await.unwrap();
}

/// Reads all tables that the checker looks at. `mails` are what a mail server took, headers and all.
pub async fn read(db: &Client, mails: Option<Vec<String>>) -> Snapshot {
    let rows = async |sql: &str| db.query(sql, &[]).await.unwrap();
    let attempts = rows(
        "SELECT event_id, number::bigint, outcome, coalesce(error_kind, '') FROM event_attempts",
    )
    .await;
    let queued =
        rows("SELECT coalesce(order_id, ''), kind, key, status = 'sent' FROM emails").await;
    Snapshot {
        events: rows(EVENTS)
            .await
            .iter()
            .map(|row| EventRow {
                id: row.get(0),
                state: row.get(1),
                attempts: row.get(2),
                digest: row.get(3),
            })
            .collect(),
        attempts: attempts
            .iter()
            .map(|row| AttemptRow {
                event_id: row.get(0),
                number: row.get(1),
                outcome: row.get(2),
                kind: row.get(3),
            })
            .collect(),
        orders: rows(ORDERS)
            .await
            .iter()
            .map(|row| OrderRow {
                id: row.get(0),
                status: row.get(1),
                seats: row.get(2),
                active: row.get(3),
                tickets: row.get(4),
                doubled: row.get(5),
                captured_cents: row.get(6),
                refunded_cents: row.get(7),
            })
            .collect(),
        mails: queued
            .iter()
            .map(|row| MailRow {
                order: row.get(0),
                kind: row.get(1),
                key: row.get(2),
                sent: row.get(3),
            })
            .collect(),
        moves: rows("SELECT kind, id, before, after FROM moves")
            .await
            .iter()
            .map(change)
            .collect(),
        waiting: Vec::new(),
        replays: rows(REPLAYS).await.iter().map(replay).collect(),
        taken: mails.map(|mails| mails.iter().map(|mail| message_id(mail)).collect()),
        oversold: rows(OVERSOLD).await.iter().map(|row| row.get(0)).collect(),
    }
}

fn change(row: &Row) -> Move {
    Move {
        kind: row.get(0),
        id: row.get(1),
        from: row.get(2),
        to: row.get(3),
    }
}

fn replay(row: &Row) -> ReplayRow {
    let four = |index| {
        let counts: Vec<i64> = row.get(index);
        counts.try_into().unwrap()
    };
    ReplayRow {
        id: row.get(0),
        state: row.get(1),
        planned: row.get(2),
        counted: four(3),
        items: four(4),
        audited: row.get(5),
    }
}

fn message_id(mail: &str) -> String {
    let is_id = |line: &&str| line.to_ascii_lowercase().starts_with("message-id:");
    mail.lines().find(is_id).unwrap_or_default().to_owned()
}
