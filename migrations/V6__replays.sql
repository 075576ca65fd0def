-- Replays: dead events that workers put back to work at a rate, as an operator planned it.

CREATE TABLE replays (
    id            bigint      GENERATED ALWAYS AS IDENTITY,
    scope         text        NOT NULL DEFAULT 'dead_letters',
    created_by    text        NOT NULL,
    reason        text        NOT NULL,
    filter        jsonb       NOT NULL,
    plan_hash     text        NOT NULL,
    planned_count integer     NOT NULL,
    rate_per_s    integer     NOT NULL,
    state         text        NOT NULL DEFAULT 'planned',
    -- Items up to this position were put back or skipped.
    cursor        integer     NOT NULL DEFAULT 0,
    -- Until when the rate is used up.
    paced_at      timestamptz,
    in_flight     integer     NOT NULL DEFAULT 0,
    processed     integer     NOT NULL DEFAULT 0,
    dead_again    integer     NOT NULL DEFAULT 0,
    skipped       integer     NOT NULL DEFAULT 0,
    -- Why it paused by itself, or failed.
    error         text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    -- Items that finish from then on decide whether it pauses by itself.
    watched_from  timestamptz,
    finished_at   timestamptz,
    -- Who moved it into its state, and why: for the audit log.
    changed_by    text        NOT NULL,
    changed_why   text        NOT NULL,
    changed_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT replays_pkey PRIMARY KEY (id),
    CONSTRAINT replays_state_known
        CHECK (state IN ('planned', 'running', 'paused', 'finished', 'cancelled', 'failed')),
    CONSTRAINT replays_author_given CHECK (length(btrim(created_by)) > 0),
    CONSTRAINT replays_reason_length CHECK (length(btrim(reason)) BETWEEN 8 AND 1000),
    CONSTRAINT replays_rate_bounded CHECK (rate_per_s BETWEEN 1 AND 500),
    CONSTRAINT replays_something_planned CHECK (planned_count >= 1),
    CONSTRAINT replays_cursor_within_plan CHECK (cursor BETWEEN 0 AND planned_count),
    CONSTRAINT replays_counters_add_up CHECK (cursor = in_flight + processed + dead_again + skipped),
    CONSTRAINT replays_counters_not_negative CHECK (least(in_flight, processed, dead_again, skipped) >= 0),
    CONSTRAINT replays_started_unless_planned CHECK (state IN ('planned', 'cancelled', 'failed') OR started_at IS NOT NULL),
    CONSTRAINT replays_finished_when_final
        CHECK ((state IN ('finished', 'cancelled', 'failed')) = (finished_at IS NOT NULL)),
    CONSTRAINT replays_finished_with_all CHECK (state <> 'finished' OR (cursor = planned_count AND in_flight = 0)),
    CONSTRAINT replays_failed_has_error CHECK (state <> 'failed' OR error IS NOT NULL)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX replays_one_active_key ON replays (scope) WHERE state IN ('planned', 'running', 'paused');
CREATE INDEX replays_open_idx ON replays (id) WHERE state IN ('planned', 'running') OR in_flight > 0;

-- The planned set, fixed when it was planned. No foreign key to the event: retention may drop that.
CREATE TABLE replay_items (
    replay_id      bigint      NOT NULL,
    position       integer     NOT NULL,
    event_id       text        NOT NULL,
    dead_letter_id bigint      NOT NULL,
    outcome        text        NOT NULL DEFAULT 'waiting',
    replayed_at    timestamptz,
    finished_at    timestamptz,
    CONSTRAINT replay_items_pkey PRIMARY KEY (replay_id, position),
    CONSTRAINT replay_items_event_key UNIQUE (replay_id, event_id),
    CONSTRAINT replay_items_replay_fkey FOREIGN KEY (replay_id) REFERENCES replays (id),
    CONSTRAINT replay_items_outcome_known
        CHECK (outcome IN ('waiting', 'replayed', 'processed', 'dead_again', 'skipped')),
    CONSTRAINT replay_items_replayed_at_when_put_back
        CHECK ((outcome IN ('replayed', 'processed', 'dead_again')) = (replayed_at IS NOT NULL)),
    CONSTRAINT replay_items_finished_when_final
        CHECK ((outcome IN ('processed', 'dead_again', 'skipped')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 70);

CREATE INDEX replay_items_in_flight_idx ON replay_items (replay_id, event_id) WHERE outcome = 'replayed';
CREATE INDEX replay_items_finished_idx ON replay_items (replay_id, finished_at)
    WHERE outcome IN ('processed', 'dead_again');

-- What is over stays as it is, for every role: only the outcomes of what a cancelled or failed replay had put back
-- already are still added.
CREATE FUNCTION replays_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state IN ('finished', 'cancelled', 'failed')
        AND (NEW.state <> OLD.state OR NEW.cursor <> OLD.cursor OR OLD.in_flight = 0) THEN
        RAISE EXCEPTION 'replay % is over', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN (
        ('planned', 'running'), ('planned', 'cancelled'), ('planned', 'failed'),
        ('running', 'paused'), ('running', 'finished'), ('running', 'cancelled'), ('running', 'failed'),
        ('paused', 'running'), ('paused', 'cancelled'), ('paused', 'failed')) THEN
        RAISE EXCEPTION 'a replay does not go from % to %', OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER replays_guard BEFORE UPDATE ON replays FOR EACH ROW EXECUTE FUNCTION replays_guard();

CREATE FUNCTION replays_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'history of replays is kept as it is' USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER replays_keep BEFORE DELETE ON replays FOR EACH ROW EXECUTE FUNCTION replays_refuse_change();
CREATE TRIGGER replay_items_keep BEFORE DELETE ON replay_items FOR EACH ROW EXECUTE FUNCTION replays_refuse_change();
CREATE TRIGGER replay_items_guard BEFORE UPDATE ON replay_items FOR EACH ROW
    WHEN (OLD.outcome IN ('processed', 'dead_again', 'skipped')) EXECUTE FUNCTION replays_refuse_change();

-- Every change of a replay's state is audited, whoever makes it: workers may not write the audit log themselves.
CREATE FUNCTION replays_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.state <> OLD.state THEN
        INSERT INTO audit_log (actor, action, reason, subject, details)
        VALUES (NEW.changed_by, 'replay.' || NEW.state, NEW.changed_why, 'replay ' || NEW.id,
            jsonb_build_object('replay', NEW.id, 'filter', NEW.filter, 'plan_hash', NEW.plan_hash,
                'planned', NEW.planned_count, 'rate_per_s', NEW.rate_per_s, 'cursor', NEW.cursor,
                'processed', NEW.processed, 'dead_again', NEW.dead_again, 'skipped', NEW.skipped));
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER replays_audit AFTER INSERT OR UPDATE ON replays FOR EACH ROW EXECUTE FUNCTION replays_audit();

-- How often an event was replayed, and a group's dead letters.
CREATE INDEX dead_letters_event_id_idx ON dead_letters (event_id);
CREATE INDEX dead_letters_fingerprint_idx ON dead_letters (fingerprint, died_at);
-- Lists of events by type.
CREATE INDEX webhook_events_type_idx ON webhook_events (type text_pattern_ops, received_at, id);
