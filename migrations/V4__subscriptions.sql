-- Mirrors of Stripe's subscriptions and invoices: the newest news wins, whatever arrives last.

CREATE TABLE subscriptions (
    id                   text        NOT NULL,
    customer             text,
    status               text        NOT NULL,
    current_period_end   timestamptz,
    cancel_at_period_end boolean     NOT NULL DEFAULT false,
    -- What the row is as of: the event's time, then how final its status is, then its id.
    news_at              timestamptz NOT NULL,
    news_rank            integer     NOT NULL,
    news_event_id        text        NOT NULL,
    CONSTRAINT subscriptions_pkey PRIMARY KEY (id)
);

CREATE TABLE invoices (
    id              text        NOT NULL,
    subscription_id text,
    customer        text,
    status          text        NOT NULL,
    amount_cents    bigint      NOT NULL,
    currency        text        NOT NULL,
    news_at         timestamptz NOT NULL,
    news_rank       integer     NOT NULL,
    news_event_id   text        NOT NULL,
    CONSTRAINT invoices_pkey PRIMARY KEY (id),
    CONSTRAINT invoices_status_known CHECK (status IN ('paid', 'payment_failed')),
    CONSTRAINT invoices_amount_not_negative CHECK (amount_cents >= 0),
    CONSTRAINT invoices_currency_code CHECK (currency ~ '^[a-z]{3}$')
);

CREATE INDEX invoices_subscription_id_idx ON invoices (subscription_id);

-- A mail about an invoice has no order.
ALTER TABLE emails
    ALTER COLUMN order_id DROP NOT NULL,
    DROP CONSTRAINT emails_effect_key;
CREATE UNIQUE INDEX emails_effect_key ON emails (coalesce(order_id, ''), kind, key);
