-- Retention: what is final and old may go, and nothing else, whoever deletes.
CREATE INDEX webhook_events_finished_idx ON webhook_events (finished_at)
    WHERE state IN ('processed', 'ignored', 'discarded');
CREATE INDEX event_payloads_received_at_idx ON event_payloads (received_at);
CREATE INDEX replay_items_unsettled_idx ON replay_items (event_id) WHERE outcome = 'replayed';

CREATE FUNCTION events_keep_unfinished() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wanted text;
BEGIN
    IF TG_TABLE_NAME = 'webhook_events' THEN
        wanted := OLD.id;
    ELSE
        wanted := OLD.event_id;
    END IF;
    IF EXISTS (SELECT FROM webhook_events
        WHERE id = wanted AND state NOT IN ('processed', 'ignored', 'discarded')) THEN
        RAISE EXCEPTION 'event % is not final', wanted USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER webhook_events_keep BEFORE DELETE ON webhook_events FOR EACH ROW EXECUTE FUNCTION events_keep_unfinished();
CREATE TRIGGER event_payloads_keep BEFORE DELETE ON event_payloads FOR EACH ROW EXECUTE FUNCTION events_keep_unfinished();
