-- All that is known of a payment, so that an order's state can be derived from it whatever the order of arrival.

ALTER TABLE payments
    ADD COLUMN authorized    boolean NOT NULL DEFAULT false,
    ADD COLUMN succeeded     boolean NOT NULL DEFAULT false,
    ADD COLUMN failed        boolean NOT NULL DEFAULT false,
    ADD COLUMN closed        boolean NOT NULL DEFAULT false,
    ADD COLUMN refund_failed boolean NOT NULL DEFAULT false,
    ADD COLUMN failure       text,
    ADD COLUMN dispute       text    NOT NULL DEFAULT 'none',
    ADD CONSTRAINT payments_dispute_known CHECK (dispute IN ('none', 'open', 'won', 'lost')),
    DROP CONSTRAINT payments_status_known;

UPDATE payments SET succeeded = status <> 'failed', failed = status = 'failed';

ALTER TABLE payments
    ADD CONSTRAINT payments_status_known CHECK (status IN
        ('pending', 'authorized', 'failed', 'cancelled', 'succeeded', 'partially_refunded', 'refunded')),
    ADD CONSTRAINT payments_status_of_facts
        CHECK (succeeded = (status IN ('succeeded', 'partially_refunded', 'refunded')));

ALTER TABLE orders
    ADD COLUMN unfulfillable boolean NOT NULL DEFAULT false,
    -- After a failed payment the seats are kept until then.
    ADD COLUMN held_until timestamptz,
    ADD CONSTRAINT orders_held_while_cancelled CHECK (held_until IS NULL OR status = 'cancelled');

CREATE INDEX orders_held_until_idx ON orders (held_until) WHERE held_until IS NOT NULL;

-- A seat that was revoked may be granted again, with a new ticket.
ALTER TABLE tickets DROP CONSTRAINT tickets_registration_key;
CREATE UNIQUE INDEX tickets_valid_registration_key ON tickets (registration_id) WHERE status = 'valid';
CREATE INDEX tickets_registration_id_idx ON tickets (registration_id);

-- The waitlist, first come first served.
CREATE INDEX registrations_waitlist_idx ON registrations (product_id, id) WHERE status = 'waitlisted';
ALTER TABLE registrations
    ADD COLUMN offered_until timestamptz,
    ADD CONSTRAINT registrations_offer_has_deadline CHECK ((status = 'offered') = (offered_until IS NOT NULL));
CREATE INDEX registrations_offers_idx ON registrations (offered_until) WHERE status = 'offered';

ALTER TABLE emails DROP CONSTRAINT emails_kind_known;
ALTER TABLE emails ADD CONSTRAINT emails_kind_known
    CHECK (kind IN ('order_paid', 'payment_failed', 'order_refunded', 'partly_refunded', 'seat_offered', 'invoice_failed'));

-- What a person must know; each once.
CREATE TABLE alerts (
    id        bigint      GENERATED ALWAYS AS IDENTITY,
    kind      text        NOT NULL,
    key       text        NOT NULL,
    message   text        NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT alerts_pkey PRIMARY KEY (id),
    CONSTRAINT alerts_once UNIQUE (kind, key)
);
