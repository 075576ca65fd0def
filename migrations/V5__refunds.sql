-- Refunds by Stripe's ids, as their own events show them. What an order's money amounts to is told by its payments.

CREATE TABLE refunds (
    id                   text        NOT NULL,
    provider_payment_ref text,
    charge               text,
    amount_cents         bigint      NOT NULL,
    currency             text        NOT NULL,
    status               text        NOT NULL,
    failure_reason       text,
    news_at              timestamptz NOT NULL,
    news_rank            integer     NOT NULL,
    news_event_id        text        NOT NULL,
    CONSTRAINT refunds_pkey PRIMARY KEY (id),
    CONSTRAINT refunds_amount_not_negative CHECK (amount_cents >= 0),
    CONSTRAINT refunds_currency_code CHECK (currency ~ '^[a-z]{3}$')
);

CREATE INDEX refunds_payment_idx ON refunds (provider_payment_ref);
