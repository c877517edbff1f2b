-- +goose Up
CREATE TABLE shipments (
    id             TEXT PRIMARY KEY,
    order_id       TEXT NOT NULL UNIQUE,
    customer_id    TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('pending', 'dispatched', 'delivered', 'intercept', 'cancelled', 'void')),
    name           TEXT NOT NULL,
    street         TEXT NOT NULL,
    city           TEXT NOT NULL,
    zip            TEXT NOT NULL,
    country        TEXT NOT NULL,
    carrier        TEXT NOT NULL,
    tracking       TEXT NOT NULL,
    created_at     TIMESTAMP NOT NULL,
    dispatched_at  TIMESTAMP,
    delivered_at   TIMESTAMP,
    cancelled_at   TIMESTAMP
) WITHOUT ROWID;
CREATE INDEX shipments_customer ON shipments (customer_id, id);
CREATE INDEX shipments_state ON shipments (state, id);
CREATE TABLE erased_customers (
    customer_id TEXT PRIMARY KEY,
    erased_at   TIMESTAMP NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE erased_customers;
DROP TABLE shipments;
