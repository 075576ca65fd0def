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

-- Where each alert rule stands, by what it is about.
CREATE TABLE alert_states (
    rule    text        NOT NULL,
    key     text        NOT NULL,
    state   text        NOT NULL,
    message text        NOT NULL,
    since   timestamptz NOT NULL DEFAULT now(),
    told_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT alert_states_pkey PRIMARY KEY (rule, key),
    CONSTRAINT alert_states_state_known CHECK (state IN ('firing', 'resolved'))
);

-- What is told to the people on call: each once on each channel.
CREATE TABLE alert_notices (
    id         bigint      GENERATED ALWAYS AS IDENTITY,
    channel    text        NOT NULL,
    name       text        NOT NULL,
    subject    text        NOT NULL,
    body       text        NOT NULL,
    status     text        NOT NULL DEFAULT 'queued',
    attempts   integer     NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL DEFAULT now(),
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at    timestamptz,
    CONSTRAINT alert_notices_pkey PRIMARY KEY (id),
    CONSTRAINT alert_notices_once UNIQUE (channel, name),
    CONSTRAINT alert_notices_channel_known CHECK (channel IN ('mail', 'hook')),
    CONSTRAINT alert_notices_status_known CHECK (status IN ('queued', 'sent', 'failed')),
    CONSTRAINT alert_notices_sent_at_when_sent CHECK ((status = 'sent') = (sent_at IS NOT NULL)),
    CONSTRAINT alert_notices_failed_has_error CHECK (status <> 'failed' OR last_error IS NOT NULL)
);

CREATE INDEX alert_notices_queued_idx ON alert_notices (due_at) WHERE status = 'queued';
CREATE INDEX alerts_raised_at_idx ON alerts (raised_at);
CREATE INDEX webhook_events_rescued_idx ON webhook_events (rescue_from) WHERE rescues > 0;
