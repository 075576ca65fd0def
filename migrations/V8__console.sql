-- What the console needs: states of dead-letter groups, which events speak of which objects, and indexes of its lists.

-- What operators made of a group. A group without a row is open.
CREATE TABLE dead_letter_groups (
    fingerprint text        NOT NULL,
    state       text        NOT NULL DEFAULT 'open',
    note        text        NOT NULL DEFAULT '',
    changed_at  timestamptz NOT NULL DEFAULT now(),
    changed_by  text        NOT NULL,
    CONSTRAINT dead_letter_groups_pkey PRIMARY KEY (fingerprint),
    CONSTRAINT dead_letter_groups_state_known CHECK (state IN ('open', 'acknowledged', 'resolved', 'ignored')),
    CONSTRAINT dead_letter_groups_note_length CHECK (length(note) <= 4000),
    CONSTRAINT dead_letter_groups_changed_by_given CHECK (length(btrim(changed_by)) > 0)
);

-- The ids that an event's object bears: its own, its payment's, its order's. Written with the first attempt.
CREATE TABLE event_objects (
    object_id text NOT NULL,
    event_id  text NOT NULL,
    CONSTRAINT event_objects_pkey PRIMARY KEY (object_id, event_id),
    CONSTRAINT event_objects_event_fkey FOREIGN KEY (event_id) REFERENCES webhook_events (id) ON DELETE CASCADE
);

CREATE INDEX event_objects_event_id_idx ON event_objects (event_id);

-- Processed events are most of the table and are found by time; those under way are few, and cost nothing on arrival.
CREATE INDEX webhook_events_state_idx ON webhook_events (state, received_at, id)
    WHERE state IN ('retrying', 'ignored', 'dead', 'discarded');
CREATE INDEX webhook_events_repeated_idx ON webhook_events (received_at, id) WHERE attempts > 1;
CREATE INDEX webhook_events_account_idx ON webhook_events (account, received_at, id) WHERE account IS NOT NULL;

CREATE INDEX dead_letters_died_at_idx ON dead_letters (died_at);

CREATE INDEX audit_log_actor_idx ON audit_log (actor, id);
CREATE INDEX audit_log_action_idx ON audit_log (action, id);
CREATE INDEX audit_log_details_idx ON audit_log USING gin (details jsonb_path_ops);
