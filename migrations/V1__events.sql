-- Events, from the first webhook to their final state.

-- One narrow row per event: the dedupe key, never partitioned, never holding the body.
CREATE TABLE webhook_events (
    id          text        NOT NULL,
    type        text        NOT NULL,
    state       text        NOT NULL DEFAULT 'received',
    livemode    boolean,
    api_version text,
    account     text,
    created_at  timestamptz,
    received_at timestamptz NOT NULL DEFAULT now(),
    deliveries  integer     NOT NULL DEFAULT 1,
    attempts    integer     NOT NULL DEFAULT 0,
    -- Attempts made before the last replay: the budget of attempts counts from here.
    budget_from integer     NOT NULL DEFAULT 0,
    due_at      timestamptz,
    last_error  text,
    finished_at timestamptz,
    -- From when the rescue counts how long the event's message has been out.
    rescue_from timestamptz NOT NULL DEFAULT now(),
    rescues     integer     NOT NULL DEFAULT 0,
    CONSTRAINT webhook_events_pkey PRIMARY KEY (id),
    CONSTRAINT webhook_events_id_length CHECK (length(id) BETWEEN 1 AND 255),
    CONSTRAINT webhook_events_type_length CHECK (length(type) BETWEEN 1 AND 255),
    CONSTRAINT webhook_events_state_known
        CHECK (state IN ('received', 'processed', 'ignored', 'retrying', 'dead', 'discarded')),
    CONSTRAINT webhook_events_due_while_retrying CHECK ((state = 'retrying') = (due_at IS NOT NULL)),
    CONSTRAINT webhook_events_finished_when_final
        CHECK ((state IN ('processed', 'ignored', 'dead', 'discarded')) = (finished_at IS NOT NULL)),
    CONSTRAINT webhook_events_dead_has_error CHECK (state <> 'dead' OR last_error IS NOT NULL),
    CONSTRAINT webhook_events_deliveries_positive CHECK (deliveries >= 1),
    CONSTRAINT webhook_events_attempts_counted CHECK (attempts >= budget_from AND budget_from >= 0),
    CONSTRAINT webhook_events_rescues_counted CHECK (rescues >= 0)
) WITH (fillfactor = 85);

CREATE INDEX webhook_events_rescue_idx ON webhook_events (rescue_from) WHERE state IN ('received', 'retrying');
CREATE INDEX webhook_events_received_at_idx ON webhook_events (received_at, id);

-- The exact bytes of the first webhook of each event. Insert-only. No foreign key: the row is written by the
-- statement that writes the event, and retention may drop it by itself.
CREATE TABLE event_payloads (
    event_id    text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    body        bytea       NOT NULL,
    CONSTRAINT event_payloads_pkey PRIMARY KEY (event_id)
);

DO $$
BEGIN
    ALTER TABLE event_payloads ALTER COLUMN body SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    RAISE NOTICE 'this server was built without lz4: bodies keep the default compression';
END
$$;

-- Every message enters RabbitMQ through a row of this table, written with the state change that caused it.
-- An event may have more than one row; each is cleared by its own id once the broker has confirmed it.
CREATE TABLE outbox (
    id           bigint      GENERATED ALWAYS AS IDENTITY,
    event_id     text        NOT NULL,
    available_at timestamptz NOT NULL DEFAULT now(),
    traceparent  text,
    CONSTRAINT outbox_pkey PRIMARY KEY (id)
);

CREATE INDEX outbox_available_at_idx ON outbox (available_at);
CREATE INDEX outbox_event_id_idx ON outbox (event_id);

-- One row per run of a handler. Append-only.
CREATE TABLE event_attempts (
    event_id    text        NOT NULL,
    number      integer     NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome     text        NOT NULL,
    error_kind  text,
    error       text,
    worker      text        NOT NULL,
    trace_id    text,
    CONSTRAINT event_attempts_pkey PRIMARY KEY (event_id, number),
    CONSTRAINT event_attempts_event_fkey FOREIGN KEY (event_id) REFERENCES webhook_events (id) ON DELETE CASCADE,
    CONSTRAINT event_attempts_number_positive CHECK (number >= 1),
    CONSTRAINT event_attempts_outcome_known CHECK (outcome IN ('processed', 'ignored', 'transient', 'permanent')),
    CONSTRAINT event_attempts_failure_has_error
        CHECK ((outcome IN ('transient', 'permanent')) = (error IS NOT NULL))
);

-- What will not be retried by itself. `event_id` is null for a message that names no stored event: it is kept whole.
CREATE TABLE dead_letters (
    id          bigint      GENERATED ALWAYS AS IDENTITY,
    event_id    text,
    reason      text        NOT NULL,
    error       text        NOT NULL,
    fingerprint text        NOT NULL,
    died_at     timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolution  text,
    message     bytea,
    CONSTRAINT dead_letters_pkey PRIMARY KEY (id),
    CONSTRAINT dead_letters_event_fkey FOREIGN KEY (event_id) REFERENCES webhook_events (id) ON DELETE CASCADE,
    CONSTRAINT dead_letters_event_or_message CHECK ((event_id IS NULL) = (message IS NOT NULL)),
    CONSTRAINT dead_letters_resolution_known CHECK (resolution IN ('replayed', 'discarded')),
    CONSTRAINT dead_letters_resolved_with_resolution CHECK ((resolved_at IS NULL) = (resolution IS NULL))
);

CREATE UNIQUE INDEX dead_letters_open_event_key ON dead_letters (event_id) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_open_idx ON dead_letters (died_at, id) WHERE resolved_at IS NULL;

-- Who did what, and why. Append-only.
CREATE TABLE audit_log (
    id      bigint      GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text        NOT NULL,
    action  text        NOT NULL,
    reason  text        NOT NULL,
    subject text,
    details jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT audit_log_pkey PRIMARY KEY (id),
    CONSTRAINT audit_log_reason_given CHECK (length(btrim(reason)) > 0),
    CONSTRAINT audit_log_actor_given CHECK (length(btrim(actor)) > 0)
);
