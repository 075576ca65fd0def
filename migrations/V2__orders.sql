-- Catalogue, orders and what fulfilling them produces. Money is integer minor units with its currency.

CREATE TABLE products (
    id                text    NOT NULL,
    kind              text    NOT NULL,
    name              text    NOT NULL,
    unit_amount_cents bigint  NOT NULL,
    currency          text    NOT NULL,
    capacity          integer,
    CONSTRAINT products_pkey PRIMARY KEY (id),
    CONSTRAINT products_kind_known CHECK (kind IN ('seat', 'course')),
    CONSTRAINT products_amount_not_negative CHECK (unit_amount_cents >= 0),
    CONSTRAINT products_currency_code CHECK (currency ~ '^[a-z]{3}$'),
    CONSTRAINT products_capacity_of_seats CHECK (capacity IS NULL OR (kind = 'seat' AND capacity >= 0))
);

CREATE TABLE orders (
    id                    text        NOT NULL,
    status                text        NOT NULL DEFAULT 'pending',
    status_reason         text,
    user_id               text,
    email                 text        NOT NULL,
    amount_cents          bigint      NOT NULL,
    currency              text        NOT NULL,
    provider_checkout_ref text,
    created_at            timestamptz NOT NULL DEFAULT now(),
    updated_at            timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT orders_pkey PRIMARY KEY (id),
    CONSTRAINT orders_status_known CHECK (status IN ('pending', 'paid', 'cancelled', 'refunded', 'review')),
    CONSTRAINT orders_status_explained CHECK (status NOT IN ('cancelled', 'review') OR status_reason IS NOT NULL),
    CONSTRAINT orders_amount_not_negative CHECK (amount_cents >= 0),
    CONSTRAINT orders_currency_code CHECK (currency ~ '^[a-z]{3}$')
);

CREATE UNIQUE INDEX orders_provider_checkout_ref_key ON orders (provider_checkout_ref);

CREATE TABLE order_items (
    order_id   text    NOT NULL,
    product_id text    NOT NULL,
    quantity   integer NOT NULL,
    CONSTRAINT order_items_pkey PRIMARY KEY (order_id, product_id),
    CONSTRAINT order_items_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT order_items_product_fkey FOREIGN KEY (product_id) REFERENCES products (id),
    CONSTRAINT order_items_quantity_positive CHECK (quantity >= 1)
);

-- One per seat.
CREATE TABLE registrations (
    id         bigint      GENERATED ALWAYS AS IDENTITY,
    order_id   text        NOT NULL,
    product_id text        NOT NULL,
    status     text        NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT registrations_pkey PRIMARY KEY (id),
    CONSTRAINT registrations_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT registrations_product_fkey FOREIGN KEY (product_id) REFERENCES products (id),
    CONSTRAINT registrations_status_known CHECK (status IN ('pending', 'active', 'cancelled', 'waitlisted', 'offered'))
);

CREATE INDEX registrations_order_id_idx ON registrations (order_id);
CREATE INDEX registrations_taken_idx ON registrations (product_id) WHERE status IN ('pending', 'active', 'offered');

CREATE TABLE tickets (
    id              bigint      GENERATED ALWAYS AS IDENTITY,
    registration_id bigint      NOT NULL,
    order_id        text        NOT NULL,
    code            text        NOT NULL,
    status          text        NOT NULL DEFAULT 'valid',
    issued_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tickets_pkey PRIMARY KEY (id),
    CONSTRAINT tickets_registration_key UNIQUE (registration_id),
    CONSTRAINT tickets_code_key UNIQUE (code),
    CONSTRAINT tickets_registration_fkey FOREIGN KEY (registration_id) REFERENCES registrations (id),
    CONSTRAINT tickets_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT tickets_status_known CHECK (status IN ('valid', 'void'))
);

CREATE INDEX tickets_order_id_idx ON tickets (order_id);

-- One per payment at the provider. Captured and refunded amounts only ever grow.
CREATE TABLE payments (
    provider             text   NOT NULL,
    provider_payment_ref text   NOT NULL,
    order_id             text   NOT NULL,
    status               text   NOT NULL,
    amount_cents         bigint NOT NULL,
    refunded_cents       bigint NOT NULL DEFAULT 0,
    currency             text   NOT NULL,
    CONSTRAINT payments_pkey PRIMARY KEY (provider, provider_payment_ref),
    CONSTRAINT payments_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT payments_status_known CHECK (status IN ('failed', 'succeeded', 'partially_refunded', 'refunded')),
    CONSTRAINT payments_amount_not_negative CHECK (amount_cents >= 0),
    CONSTRAINT payments_refund_within_amount CHECK (refunded_cents BETWEEN 0 AND amount_cents),
    CONSTRAINT payments_currency_code CHECK (currency ~ '^[a-z]{3}$')
);

CREATE INDEX payments_order_id_idx ON payments (order_id);

CREATE TABLE course_purchases (
    user_id      text        NOT NULL,
    course_id    text        NOT NULL,
    order_id     text        NOT NULL,
    purchased_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT course_purchases_pkey PRIMARY KEY (user_id, course_id),
    CONSTRAINT course_purchases_course_fkey FOREIGN KEY (course_id) REFERENCES products (id),
    CONSTRAINT course_purchases_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id)
);

-- Mails to send: written with the effect they tell of, once per (order, kind, key).
CREATE TABLE emails (
    id         bigint      GENERATED ALWAYS AS IDENTITY,
    order_id   text        NOT NULL,
    kind       text        NOT NULL,
    key        text        NOT NULL,
    recipient  text        NOT NULL,
    content    jsonb       NOT NULL,
    status     text        NOT NULL DEFAULT 'queued',
    attempts   integer     NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL DEFAULT now(),
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    sent_at    timestamptz,
    CONSTRAINT emails_pkey PRIMARY KEY (id),
    CONSTRAINT emails_effect_key UNIQUE (order_id, kind, key),
    CONSTRAINT emails_order_fkey FOREIGN KEY (order_id) REFERENCES orders (id),
    CONSTRAINT emails_kind_known CHECK (kind IN ('order_paid', 'payment_failed', 'order_refunded')),
    CONSTRAINT emails_status_known CHECK (status IN ('queued', 'sent', 'failed')),
    CONSTRAINT emails_sent_at_when_sent CHECK ((status = 'sent') = (sent_at IS NOT NULL)),
    CONSTRAINT emails_failed_has_error CHECK (status <> 'failed' OR last_error IS NOT NULL)
);

CREATE INDEX emails_queued_idx ON emails (due_at) WHERE status = 'queued';
