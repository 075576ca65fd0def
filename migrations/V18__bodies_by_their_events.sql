-- Retention finds old bodies by their events, in the order in which those came. A summary of ranges finds them only until
-- the first ones are removed: their space is taken by new bodies, and every range holds old and new ones from then on.
DROP INDEX event_payloads_received_at_idx;
