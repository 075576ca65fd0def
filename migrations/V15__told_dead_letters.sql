-- Dead events about money are told one by one, and what operators made of a group decides what is told of it.

ALTER TABLE dead_letters ADD COLUMN about_money boolean NOT NULL DEFAULT false;
-- When people were told of it; set for those about money only.
ALTER TABLE dead_letters ADD COLUMN told_at timestamptz;

UPDATE dead_letters letter SET about_money = true, told_at = now()
FROM webhook_events event
WHERE event.id = letter.event_id AND letter.resolved_at IS NULL
    AND event.type ~ '^(payment_intent|charge|checkout\.session|refund|invoice)\.';

-- Workers of the version before leave the column out while both versions run.
CREATE FUNCTION dead_letters_mark_money() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.about_money := EXISTS (SELECT FROM webhook_events event WHERE event.id = NEW.event_id
        AND event.type ~ '^(payment_intent|charge|checkout\.session|refund|invoice)\.');
    RETURN NEW;
END
$$;

CREATE TRIGGER dead_letters_mark_money BEFORE INSERT ON dead_letters FOR EACH ROW
    WHEN (NEW.event_id IS NOT NULL AND NOT NEW.about_money) EXECUTE FUNCTION dead_letters_mark_money();

CREATE INDEX dead_letters_untold_idx ON dead_letters (id) WHERE about_money AND told_at IS NULL AND resolved_at IS NULL;
CREATE INDEX dead_letters_open_money_idx ON dead_letters (fingerprint, died_at) WHERE about_money AND resolved_at IS NULL;

-- Open letters that call for somebody: not those of a group that is ignored, nor those that had died when theirs was resolved.
CREATE VIEW pressing_dead_letters AS
    SELECT letter.id, letter.event_id, letter.reason, letter.error, letter.fingerprint, letter.died_at, letter.about_money,
        coalesce(kept.state = 'acknowledged', false) AS acknowledged
    FROM dead_letters letter LEFT JOIN dead_letter_groups kept ON kept.fingerprint = letter.fingerprint
    WHERE letter.resolved_at IS NULL AND CASE kept.state
        WHEN 'ignored' THEN false WHEN 'resolved' THEN letter.died_at > kept.changed_at ELSE true END;

-- One alert of all groups takes the place of one for each.
DELETE FROM alert_states WHERE rule = 'repeated_failures';
