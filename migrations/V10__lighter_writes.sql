-- Each index costs every event: on arrival, and again when its state changes. These found nothing that others do not find.

-- Retention goes by the time of receipt.
DROP INDEX webhook_events_finished_idx;
-- The rescue looks at few events, and the outbox is short.
DROP INDEX outbox_event_id_idx;
-- Bodies are stored in the order in which they come, and never changed: a summary of each range finds the old ones.
DROP INDEX event_payloads_received_at_idx;
CREATE INDEX event_payloads_received_at_idx ON event_payloads USING brin (received_at) WITH (autosummarize = on);

-- Written with the event's own update, removed with it by retention.
ALTER TABLE event_objects DROP CONSTRAINT event_objects_event_fkey;

-- Seats are counted one by one, and only where a count changes: most orders are of one seat. Whoever changes a seat's
-- status holds the lock of its product's seats, so that these rows are locked in one order.
DROP TRIGGER registrations_count_inserted ON registrations;
DROP TRIGGER registrations_count_updated ON registrations;
DROP TRIGGER registrations_count_deleted ON registrations;

CREATE OR REPLACE FUNCTION registrations_count() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.status IN ('active', 'offered') THEN
        UPDATE product_seats SET active = active - (OLD.status = 'active')::integer,
            offered = offered - (OLD.status = 'offered')::integer
        WHERE product_id = OLD.product_id;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status IN ('active', 'offered') THEN
        INSERT INTO product_seats AS seats (product_id, active, offered)
        VALUES (NEW.product_id, (NEW.status = 'active')::integer, (NEW.status = 'offered')::integer)
        ON CONFLICT (product_id) DO UPDATE
        SET active = seats.active + excluded.active, offered = seats.offered + excluded.offered;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER registrations_count_inserted AFTER INSERT ON registrations FOR EACH ROW
    WHEN (NEW.status IN ('active', 'offered')) EXECUTE FUNCTION registrations_count();
CREATE TRIGGER registrations_count_updated AFTER UPDATE OF status, product_id ON registrations FOR EACH ROW
    WHEN (OLD.status IN ('active', 'offered') OR NEW.status IN ('active', 'offered')) EXECUTE FUNCTION registrations_count();
CREATE TRIGGER registrations_count_deleted AFTER DELETE ON registrations FOR EACH ROW
    WHEN (OLD.status IN ('active', 'offered')) EXECUTE FUNCTION registrations_count();
