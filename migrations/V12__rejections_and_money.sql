-- What alerts and the daily summary need: refused webhooks, and when money moved.

-- One row for each cause of some seconds, with the first webhook refused for it as a sample. Never a body or a header.
-- The gateway makes the id, so that a row whose commit it did not hear of is written once.
CREATE TABLE rejections (
    id          text        NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    cause       text        NOT NULL,
    count       bigint      NOT NULL,
    client      inet        NOT NULL,
    body_sha256 bytea,
    body_bytes  integer,
    CONSTRAINT rejections_pkey PRIMARY KEY (id),
    CONSTRAINT rejections_something_counted CHECK (count >= 1),
    CONSTRAINT rejections_cause_length CHECK (length(cause) BETWEEN 1 AND 64),
    CONSTRAINT rejections_hash_length CHECK (length(body_sha256) = 32),
    CONSTRAINT rejections_hash_of_a_body CHECK ((body_sha256 IS NULL) = (body_bytes IS NULL))
);

CREATE INDEX rejections_at_idx ON rejections (at, id);

-- What payments grew by, and when: amounts in minor units. Written by a trigger, and by nobody else.
CREATE TABLE money_moves (
    id                   bigint      GENERATED ALWAYS AS IDENTITY,
    at                   timestamptz NOT NULL DEFAULT now(),
    provider_payment_ref text        NOT NULL,
    currency             text        NOT NULL,
    captured_cents       bigint      NOT NULL,
    refunded_cents       bigint      NOT NULL,
    CONSTRAINT money_moves_pkey PRIMARY KEY (id)
);

CREATE INDEX money_moves_at_idx ON money_moves (at);

CREATE FUNCTION payments_note_move() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    captured bigint := CASE WHEN NEW.succeeded THEN NEW.amount_cents ELSE 0 END;
    refunded bigint := NEW.refunded_cents;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        captured := captured - CASE WHEN OLD.succeeded THEN OLD.amount_cents ELSE 0 END;
        refunded := refunded - OLD.refunded_cents;
    END IF;
    IF captured <> 0 OR refunded <> 0 THEN
        INSERT INTO money_moves (provider_payment_ref, currency, captured_cents, refunded_cents)
        VALUES (NEW.provider_payment_ref, NEW.currency, captured, refunded);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER payments_move_inserted AFTER INSERT ON payments FOR EACH ROW
    WHEN (NEW.succeeded OR NEW.refunded_cents <> 0) EXECUTE FUNCTION payments_note_move();
CREATE TRIGGER payments_move_updated AFTER UPDATE ON payments FOR EACH ROW
    WHEN (NEW.succeeded <> OLD.succeeded OR NEW.amount_cents <> OLD.amount_cents OR NEW.refunded_cents <> OLD.refunded_cents)
    EXECUTE FUNCTION payments_note_move();

-- Many at once are told in one notice: each keeps its name in a row of its own.
ALTER TABLE alert_notices DROP CONSTRAINT alert_notices_status_known;
ALTER TABLE alert_notices ADD CONSTRAINT alert_notices_status_known
    CHECK (status IN ('queued', 'sent', 'failed', 'bundled'));

-- What the rules look at every few seconds must not depend on how much there is.
CREATE INDEX dead_letters_open_group_idx ON dead_letters (fingerprint, died_at) WHERE resolved_at IS NULL;
CREATE INDEX webhook_events_ignored_mode_idx ON webhook_events (livemode, received_at) WHERE state = 'ignored';
CREATE INDEX audit_log_at_idx ON audit_log (at);
