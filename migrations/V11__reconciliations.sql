-- Reconciliation: events of Stripe's own list that we never saw are imported.

-- One row per run, one run at a time. Of a run that died, the beat is old.
CREATE TABLE reconciliations (
    id          bigint      GENERATED ALWAYS AS IDENTITY,
    started_by  text        NOT NULL,
    -- Whether the schedule began it: the window of the next one follows from it.
    scheduled   boolean     NOT NULL,
    -- Whether events that Stripe counts as delivered were looked at too.
    everything  boolean     NOT NULL DEFAULT false,
    -- Events that were created then or later.
    since       timestamptz NOT NULL,
    state       text        NOT NULL DEFAULT 'running',
    pages       integer     NOT NULL DEFAULT 0,
    listed      integer     NOT NULL DEFAULT 0,
    known       integer     NOT NULL DEFAULT 0,
    imported    integer     NOT NULL DEFAULT 0,
    unreadable  integer     NOT NULL DEFAULT 0,
    error       text,
    started_at  timestamptz NOT NULL DEFAULT now(),
    beat_at     timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT reconciliations_pkey PRIMARY KEY (id),
    CONSTRAINT reconciliations_state_known CHECK (state IN ('running', 'finished', 'failed')),
    CONSTRAINT reconciliations_author_given CHECK (length(btrim(started_by)) > 0),
    CONSTRAINT reconciliations_counters_add_up CHECK (listed = known + imported + unreadable),
    CONSTRAINT reconciliations_counters_not_negative CHECK (least(pages, known, imported, unreadable) >= 0),
    CONSTRAINT reconciliations_finished_when_final CHECK ((state = 'running') = (finished_at IS NULL)),
    CONSTRAINT reconciliations_failed_has_error CHECK ((state = 'failed') = (error IS NOT NULL))
);

CREATE UNIQUE INDEX reconciliations_one_running_key ON reconciliations (state) WHERE state = 'running';
CREATE INDEX reconciliations_scheduled_idx ON reconciliations (started_at) WHERE scheduled;

CREATE FUNCTION reconciliations_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'reconciliation % is over', OLD.id USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER reconciliations_guard BEFORE UPDATE ON reconciliations FOR EACH ROW
    WHEN (OLD.state <> 'running') EXECUTE FUNCTION reconciliations_guard();

-- Which events came by Stripe's list first, and not by a webhook.
CREATE TABLE reconciled_events (
    event_id          text   NOT NULL,
    reconciliation_id bigint NOT NULL,
    CONSTRAINT reconciled_events_pkey PRIMARY KEY (event_id),
    CONSTRAINT reconciled_events_event_fkey FOREIGN KEY (event_id) REFERENCES webhook_events (id) ON DELETE CASCADE,
    CONSTRAINT reconciled_events_run_fkey FOREIGN KEY (reconciliation_id) REFERENCES reconciliations (id)
);

-- Stores events of a run that goes on, with body, message and origin, and gives the ids of those that are new. A known
-- event is left as it is. A function, because who reconciles may not insert events otherwise. Ids must be sorted and
-- distinct: the gateway stores in the same order, so that neither waits for the other in a circle.
CREATE FUNCTION reconcile_import(run bigint, ids text[], types text[], livemodes boolean[], api_versions text[],
    accounts text[], created timestamptz[], bodies bytea[])
RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM FROM reconciliations WHERE reconciliations.id = run AND state = 'running' FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'reconciliation % is over', run USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN QUERY
        WITH event AS (
            INSERT INTO webhook_events (id, type, livemode, api_version, account, created_at)
            SELECT * FROM unnest(ids, types, livemodes, api_versions, accounts, created)
            ON CONFLICT ON CONSTRAINT webhook_events_pkey DO NOTHING
            RETURNING webhook_events.id
        ), payload AS (
            INSERT INTO event_payloads (event_id, body)
            SELECT event.id, given.body FROM unnest(ids, bodies) AS given (id, body) JOIN event ON event.id = given.id
        ), message AS (
            INSERT INTO outbox (event_id) SELECT event.id FROM event
        ), origin AS (
            INSERT INTO reconciled_events (event_id, reconciliation_id) SELECT event.id, run FROM event
        )
        SELECT event.id FROM event;
END
$$;

REVOKE EXECUTE ON FUNCTION reconcile_import FROM PUBLIC;
