-- +goose Up
CREATE TABLE payments (
    id          TEXT PRIMARY KEY,
    order_id    TEXT NOT NULL UNIQUE,
    customer_id TEXT NOT NULL, -- '' while only a void is known
    card        TEXT NOT NULL, -- token; '' once its user was erased
    currency    TEXT NOT NULL,
    amount      INTEGER NOT NULL,
    state       TEXT NOT NULL, -- what charge, voided and settled come to
    charge      TEXT NOT NULL,
    reason      TEXT NOT NULL, -- why the charge was declined
    captured    INTEGER NOT NULL,
    refunded    INTEGER NOT NULL,
    refunding   INTEGER NOT NULL,
    voided      BOOLEAN NOT NULL,
    void_reason TEXT NOT NULL,
    settled     BOOLEAN NOT NULL,
    created_at  TIMESTAMP NOT NULL,
    updated_at  TIMESTAMP NOT NULL
);
CREATE INDEX payments_time ON payments (created_at, id);
CREATE INDEX payments_customer ON payments (customer_id, created_at, id);
CREATE INDEX payments_state ON payments (state, created_at, id);
CREATE INDEX payments_report ON payments (customer_id, currency);

CREATE TABLE refunds (
    payment_id TEXT NOT NULL,
    id         TEXT NOT NULL, -- unique within the payment
    asked_by   TEXT NOT NULL,
    amount     INTEGER NOT NULL, -- asked for
    state      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    refusal    TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    PRIMARY KEY (payment_id, id)
);
CREATE INDEX refunds_state ON refunds (state);

-- The key keeps a charge or refund from being booked twice, whatever the program does.
CREATE TABLE entries (
    transaction_id TEXT NOT NULL,
    account        TEXT NOT NULL,
    payment_id     TEXT NOT NULL,
    kind           TEXT NOT NULL,
    amount         INTEGER NOT NULL,
    currency       TEXT NOT NULL,
    booked_at      TIMESTAMP NOT NULL,
    PRIMARY KEY (transaction_id, account)
);
CREATE INDEX entries_payment ON entries (payment_id);

-- +goose Down
DROP TABLE entries;
DROP TABLE refunds;
DROP TABLE payments;
