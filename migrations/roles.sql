-- Least-privilege roles. Applied by `ops migrate` after the migrations, every time, so that new tables get their grants.
-- The roles cannot log in: give each service a login of its own, `CREATE ROLE shop_gateway LOGIN PASSWORD '…' IN ROLE tollgate_gateway`.

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tollgate_gateway', 'tollgate_worker', 'tollgate_ops', 'tollgate_readonly'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            END IF;
        -- Another database of this server may be migrated at the same moment.
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END
$$;

GRANT SELECT ON refinery_schema_history TO tollgate_gateway, tollgate_worker, tollgate_ops, tollgate_readonly;

-- gateway: stores events and outbox rows, counts duplicates and rejections, clears what it has published. It cannot read
-- a body back, nor forge a state.
GRANT INSERT (id, type, livemode, api_version, account, created_at, deliveries), SELECT (id, deliveries), UPDATE (deliveries)
    ON webhook_events TO tollgate_gateway;
GRANT INSERT (event_id, body) ON event_payloads TO tollgate_gateway;
GRANT INSERT (event_id, available_at, traceparent), SELECT (id, event_id), DELETE ON outbox TO tollgate_gateway;
GRANT INSERT (id, cause, count, client, body_sha256, body_bytes) ON rejections TO tollgate_gateway;

-- worker: moves states, writes effects, prunes. It cannot change a body, an attempt or the audit log.
GRANT SELECT ON webhook_events, event_payloads, event_attempts, dead_letters TO tollgate_worker;
GRANT UPDATE (state, attempts, budget_from, due_at, last_error, finished_at, rescue_from, rescues) ON webhook_events
    TO tollgate_worker;
GRANT INSERT ON event_attempts, dead_letters TO tollgate_worker;
-- Retention; a trigger keeps what is not final.
GRANT DELETE ON webhook_events, event_payloads TO tollgate_worker;
GRANT SELECT, INSERT, DELETE, UPDATE (available_at) ON outbox TO tollgate_worker;
GRANT SELECT, INSERT, UPDATE ON orders, order_items, registrations, tickets, payments, course_purchases, emails
    TO tollgate_worker;
GRANT DELETE ON course_purchases TO tollgate_worker;
GRANT SELECT, INSERT ON alerts TO tollgate_worker;
GRANT SELECT, INSERT, UPDATE ON alert_states, alert_notices TO tollgate_worker;
GRANT DELETE ON alert_notices TO tollgate_worker;
-- For the rules and the daily summary.
GRANT SELECT, DELETE ON rejections TO tollgate_worker;
GRANT SELECT ON money_moves TO tollgate_worker;
GRANT SELECT (at, actor, action) ON audit_log TO tollgate_worker;
-- It runs the replays that operators planned: it can neither plan one nor change what was planned.
GRANT UPDATE (resolved_at, resolution, told_at) ON dead_letters TO tollgate_worker;
GRANT SELECT ON pressing_dead_letters, dead_letter_groups TO tollgate_worker;
GRANT SELECT ON replays, replay_items TO tollgate_worker;
GRANT UPDATE (state, cursor, paced_at, in_flight, processed, dead_again, skipped, error, changed_by, changed_why,
    changed_at, started_at, watched_from, finished_at) ON replays TO tollgate_worker;
GRANT UPDATE (outcome, replayed_at, finished_at) ON replay_items TO tollgate_worker;
GRANT SELECT, INSERT, UPDATE ON subscriptions, invoices, refunds TO tollgate_worker;
GRANT SELECT ON products, product_seats TO tollgate_worker;
GRANT SELECT, INSERT, DELETE ON event_objects TO tollgate_worker;

-- worker and ops reconcile: what they import passes through a function that notes where it came from.
GRANT SELECT, INSERT (started_by, scheduled, everything, since),
    UPDATE (state, pages, listed, known, imported, unreadable, error, beat_at, finished_at) ON reconciliations
    TO tollgate_worker, tollgate_ops;
GRANT EXECUTE ON FUNCTION reconcile_import TO tollgate_worker, tollgate_ops;
GRANT SELECT ON reconciled_events TO tollgate_worker, tollgate_ops, tollgate_readonly;
GRANT SELECT ON reconciliations TO tollgate_readonly;

-- ops: reads everything, replays and discards, seeds, and leaves a trace of each in the audit log.
GRANT SELECT ON webhook_events, event_payloads, event_attempts, outbox, dead_letters, audit_log, products, product_seats, orders,
    order_items, registrations, tickets, payments, course_purchases, emails, alerts, subscriptions,
    invoices, refunds, replays, replay_items, alert_states, alert_notices, rejections, money_moves TO tollgate_ops;
GRANT UPDATE (state, budget_from, due_at, finished_at, rescue_from, rescues) ON webhook_events TO tollgate_ops;
GRANT INSERT ON outbox, audit_log, products, orders, order_items, registrations, replays, replay_items TO tollgate_ops;
GRANT UPDATE (resolved_at, resolution) ON dead_letters TO tollgate_ops;
GRANT UPDATE (state, paced_at, error, changed_by, changed_why, changed_at, watched_from, finished_at) ON replays
    TO tollgate_ops;
GRANT UPDATE ON products TO tollgate_ops;
GRANT SELECT ON event_objects, dead_letter_groups TO tollgate_ops, tollgate_readonly;
GRANT INSERT, UPDATE ON dead_letter_groups TO tollgate_ops;

-- read-only: everything but the bodies.
GRANT SELECT ON webhook_events, event_attempts, outbox, dead_letters, audit_log, products, product_seats, orders, order_items,
    registrations, tickets, payments, course_purchases, emails, alerts, subscriptions, invoices, refunds, replays,
    replay_items, alert_states, rejections, money_moves TO tollgate_readonly;
