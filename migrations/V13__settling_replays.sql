-- A replay that has put everything back makes room for the next one, and settles while the last of its events are retried.
ALTER TABLE replays DROP CONSTRAINT replays_state_known;
ALTER TABLE replays ADD CONSTRAINT replays_state_known
    CHECK (state IN ('planned', 'running', 'paused', 'settling', 'finished', 'cancelled', 'failed'));
ALTER TABLE replays ADD CONSTRAINT replays_settling_with_all CHECK (state <> 'settling' OR cursor = planned_count);

DROP INDEX replays_open_idx;
CREATE INDEX replays_open_idx ON replays (id) WHERE state IN ('planned', 'running', 'settling') OR in_flight > 0;

CREATE OR REPLACE FUNCTION replays_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state IN ('finished', 'cancelled', 'failed')
        AND (NEW.state <> OLD.state OR NEW.cursor <> OLD.cursor OR OLD.in_flight = 0) THEN
        RAISE EXCEPTION 'replay % is over', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN (
        ('planned', 'running'), ('planned', 'cancelled'), ('planned', 'failed'),
        ('running', 'paused'), ('running', 'settling'), ('running', 'finished'), ('running', 'cancelled'), ('running', 'failed'),
        ('paused', 'running'), ('paused', 'cancelled'), ('paused', 'failed'),
        ('settling', 'finished'), ('settling', 'failed')) THEN
        RAISE EXCEPTION 'a replay does not go from % to %', OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;

-- Which replays an event was part of.
CREATE INDEX replay_items_event_idx ON replay_items (event_id);
