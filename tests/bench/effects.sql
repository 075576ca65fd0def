-- What a processed payment leaves behind, written by hand: the same rows in the same tables, in one transaction, and the
-- mail's in a second one, for a mail is sent after the commit.
-- Variables: clients, and i, which begins at -1.
\set i :i + 1
\set n :i * :clients + :client_id
BEGIN;
SELECT event.type, payload.body FROM webhook_events event JOIN event_payloads payload ON payload.event_id = event.id
    WHERE event.id = 'evt_' || lpad(:n::text, 24, '0') AND event.state = 'received' FOR UPDATE OF event;
SELECT status, email, amount_cents, currency FROM orders WHERE id = 'order_' || lpad(:n::text, 24, '0') FOR NO KEY UPDATE;
INSERT INTO payments (provider, provider_payment_ref, order_id, status, amount_cents, currency, succeeded)
    VALUES ('stripe', 'pi_' || lpad(:n::text, 24, '0'), 'order_' || lpad(:n::text, 24, '0'), 'succeeded', 2500, 'usd', true);
SELECT pg_advisory_xact_lock(hashtextextended(product_id, 1)) FROM order_items
    WHERE order_id = 'order_' || lpad(:n::text, 24, '0');
WITH seat AS (
    UPDATE registrations registration SET status = 'active' FROM products product
    WHERE registration.order_id = 'order_' || lpad(:n::text, 24, '0') AND registration.status = 'pending'
        AND product.id = registration.product_id AND product.capacity > (
            SELECT count(*) FROM registrations taken WHERE taken.product_id = product.id AND taken.status = 'active')
    RETURNING registration.id, registration.order_id
)
INSERT INTO tickets (registration_id, order_id, code) SELECT id, order_id, gen_random_uuid()::text FROM seat;
INSERT INTO emails (order_id, kind, key, recipient, content)
    SELECT orders.id, 'order_paid', 'pi_' || lpad(:n::text, 24, '0'), orders.email, jsonb_build_object(
        'order_id', orders.id, 'amount', '25.00 USD', 'reason', NULL, 'until', NULL,
        'items', jsonb_build_array(jsonb_build_object('name', product.name, 'quantity', item.quantity)),
        'tickets', jsonb_build_array(jsonb_build_object('name', product.name, 'code', ticket.code)))
    FROM orders JOIN order_items item ON item.order_id = orders.id JOIN products product ON product.id = item.product_id
    JOIN tickets ticket ON ticket.order_id = orders.id
    WHERE orders.id = 'order_' || lpad(:n::text, 24, '0');
UPDATE orders SET status = 'paid', updated_at = now() WHERE id = 'order_' || lpad(:n::text, 24, '0') AND status = 'pending';
WITH event AS (
    UPDATE webhook_events SET state = 'processed', attempts = attempts + 1, finished_at = clock_timestamp()
    WHERE id = 'evt_' || lpad(:n::text, 24, '0') AND attempts = 0 AND state = 'received'
    RETURNING id, attempts
), object AS (
    INSERT INTO event_objects (event_id, object_id) VALUES
        ('evt_' || lpad(:n::text, 24, '0'), 'pi_' || lpad(:n::text, 24, '0')),
        ('evt_' || lpad(:n::text, 24, '0'), 'order_' || lpad(:n::text, 24, '0'))
)
INSERT INTO event_attempts (event_id, number, started_at, outcome, worker, trace_id)
    SELECT id, attempts, now(), 'processed', 'pgbench', md5(id) FROM event;
COMMIT;
UPDATE emails SET status = 'sent', sent_at = now(), attempts = attempts + 1
    WHERE coalesce(order_id, '') = 'order_' || lpad(:n::text, 24, '0') AND kind = 'order_paid'
        AND key = 'pi_' || lpad(:n::text, 24, '0') AND status = 'queued';
