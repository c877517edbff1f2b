-- +goose Up
CREATE TABLE shipments (
    id             TEXT COLLATE "C" PRIMARY KEY,
    order_id       TEXT COLLATE "C" NOT NULL UNIQUE,
    customer_id    TEXT COLLATE "C" NOT NULL,
    state          TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'dispatched', 'delivered', 'intercept', 'cancelled', 'void')),
    name           TEXT COLLATE "C" NOT NULL,
    street         TEXT COLLATE "C" NOT NULL,
    city           TEXT COLLATE "C" NOT NULL,
    zip            TEXT COLLATE "C" NOT NULL,
    country        TEXT COLLATE "C" NOT NULL,
    carrier        TEXT COLLATE "C" NOT NULL,
    tracking       TEXT COLLATE "C" NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL,
    dispatched_at  TIMESTAMPTZ,
    delivered_at   TIMESTAMPTZ,
    cancelled_at   TIMESTAMPTZ
);
CREATE INDEX shipments_customer ON shipments (customer_id, id);
CREATE INDEX shipments_state ON shipments (state, id);
CREATE TABLE erased_customers (
    customer_id TEXT COLLATE "C" PRIMARY KEY,
    erased_at   TIMESTAMPTZ NOT NULL
);

-- +goose Down
DROP TABLE erased_customers;
DROP TABLE shipments;
