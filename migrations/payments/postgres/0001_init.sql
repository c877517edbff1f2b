-- +goose Up
CREATE TABLE payments (
    id          TEXT COLLATE "C" PRIMARY KEY,
    order_id    TEXT COLLATE "C" NOT NULL UNIQUE,
    customer_id TEXT COLLATE "C" NOT NULL, -- '' while only a void is known
    card        TEXT COLLATE "C" NOT NULL, -- token; '' once its user was erased
    currency    TEXT COLLATE "C" NOT NULL,
    amount      BIGINT NOT NULL,
    state       TEXT COLLATE "C" NOT NULL, -- what charge, voided and settled come to
    charge      TEXT COLLATE "C" NOT NULL,
    reason      TEXT COLLATE "C" NOT NULL, -- why the charge was declined
    captured    BIGINT NOT NULL,
    refunded    BIGINT NOT NULL,
    refunding   BIGINT NOT NULL,
    voided      BOOLEAN NOT NULL,
    void_reason TEXT COLLATE "C" NOT NULL,
    settled     BOOLEAN NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL
);
CREATE INDEX payments_time ON payments (created_at, id);
CREATE INDEX payments_customer ON payments (customer_id, created_at, id);
CREATE INDEX payments_state ON payments (state, created_at, id);
CREATE INDEX payments_report ON payments (customer_id, currency);

CREATE TABLE refunds (
    payment_id TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL, -- unique within the payment
    asked_by   TEXT COLLATE "C" NOT NULL,
    amount     BIGINT NOT NULL, -- asked for
    state      TEXT COLLATE "C" NOT NULL,
    reason     TEXT COLLATE "C" NOT NULL,
    refusal    TEXT COLLATE "C" NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (payment_id, id)
);
CREATE INDEX refunds_state ON refunds (state);

-- The key keeps a charge or refund from being booked twice, whatever the program does.
CREATE TABLE entries (
    transaction_id TEXT COLLATE "C" NOT NULL,
    account        TEXT COLLATE "C" NOT NULL,
    payment_id     TEXT COLLATE "C" NOT NULL,
    kind           TEXT COLLATE "C" NOT NULL,
    amount         BIGINT NOT NULL,
    currency       TEXT COLLATE "C" NOT NULL,
    booked_at      TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (transaction_id, account)
);
CREATE INDEX entries_payment ON entries (payment_id);

-- +goose Down
DROP TABLE entries;
DROP TABLE refunds;
DROP TABLE payments;
