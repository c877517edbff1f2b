-- +goose Up
-- The write side: a stream of events per order. The head row is what writers of one order lock.
CREATE TABLE stream (
    order_id         TEXT COLLATE "C" PRIMARY KEY,
    version          BIGINT NOT NULL,
    snapshot_version BIGINT NOT NULL,
    customer_id      TEXT COLLATE "C" NOT NULL,
    cart_version     BIGINT NOT NULL,
    reference        TEXT COLLATE "C" NOT NULL
);
CREATE INDEX stream_customer ON stream (customer_id);
CREATE UNIQUE INDEX stream_reference ON stream (reference) WHERE reference <> '';
CREATE UNIQUE INDEX stream_cart ON stream (customer_id, cart_version) WHERE cart_version > 0;
CREATE TABLE event (
    order_id TEXT COLLATE "C" NOT NULL,
    version  BIGINT NOT NULL,
    type     TEXT COLLATE "C" NOT NULL,
    body     TEXT COLLATE "C" NOT NULL,
    personal TEXT COLLATE "C" NOT NULL,
    at       TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (order_id, version)
);
CREATE TABLE snapshots (
    order_id TEXT COLLATE "C" PRIMARY KEY,
    version  BIGINT NOT NULL,
    format   BIGINT NOT NULL,
    body     TEXT COLLATE "C" NOT NULL,
    personal TEXT COLLATE "C" NOT NULL
);
-- The checkout saga of each order.
CREATE TABLE checkout (
    order_id TEXT COLLATE "C" PRIMARY KEY,
    state    TEXT COLLATE "C" NOT NULL,
    goal     TEXT COLLATE "C" NOT NULL,
    reason   TEXT COLLATE "C" NOT NULL,
    version  BIGINT NOT NULL,
    deadline TIMESTAMPTZ NOT NULL,
    card     TEXT COLLATE "C" NOT NULL
);
-- The read side, made of the events alone.
CREATE TABLE order_view (
    order_id       TEXT COLLATE "C" PRIMARY KEY,
    version        BIGINT NOT NULL,
    customer_id    TEXT COLLATE "C" NOT NULL,
    status         TEXT COLLATE "C" NOT NULL,
    reason         TEXT COLLATE "C" NOT NULL,
    fulfilment     TEXT COLLATE "C" NOT NULL,
    return_state   TEXT COLLATE "C" NOT NULL,
    placed_by      TEXT COLLATE "C" NOT NULL,
    reference      TEXT COLLATE "C" NOT NULL,
    reference_time TIMESTAMPTZ,
    currency       TEXT COLLATE "C" NOT NULL,
    total          BIGINT NOT NULL,
    refunded       BIGINT NOT NULL,
    lines          BIGINT NOT NULL,
    units          BIGINT NOT NULL,
    returned_units BIGINT NOT NULL,
    open_returns   BIGINT NOT NULL,
    carrier        TEXT COLLATE "C" NOT NULL,
    tracking       TEXT COLLATE "C" NOT NULL,
    personal       TEXT COLLATE "C" NOT NULL,
    placed_at      TIMESTAMPTZ NOT NULL,
    updated_at     TIMESTAMPTZ NOT NULL,
    confirmed_at   TIMESTAMPTZ,
    delivered_at   TIMESTAMPTZ
);
CREATE INDEX order_view_customer ON order_view (customer_id, order_id);
CREATE INDEX order_view_status ON order_view (status, order_id);
CREATE INDEX order_view_reference ON order_view (reference) WHERE reference <> '';
CREATE TABLE order_line_view (
    order_id TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    sku      TEXT COLLATE "C" NOT NULL,
    name     TEXT COLLATE "C" NOT NULL,
    quantity BIGINT NOT NULL,
    price    BIGINT NOT NULL,
    returned BIGINT NOT NULL,
    PRIMARY KEY (order_id, position)
);
CREATE TABLE return_view (
    return_id TEXT COLLATE "C" PRIMARY KEY,
    order_id  TEXT COLLATE "C" NOT NULL,
    position  BIGINT NOT NULL,
    made_by   TEXT COLLATE "C" NOT NULL,
    lines     TEXT COLLATE "C" NOT NULL,
    currency  TEXT COLLATE "C" NOT NULL,
    refund    BIGINT NOT NULL,
    refunded  BOOLEAN NOT NULL,
    restocked BOOLEAN NOT NULL,
    note      TEXT COLLATE "C" NOT NULL,
    at        TIMESTAMPTZ NOT NULL,
    UNIQUE (order_id, position)
);
-- Copies of what others know.
CREATE TABLE price (
    sku      TEXT COLLATE "C" PRIMARY KEY,
    name     TEXT COLLATE "C" NOT NULL,
    amount   BIGINT NOT NULL,
    currency TEXT COLLATE "C" NOT NULL,
    on_sale  BOOLEAN NOT NULL,
    version  BIGINT NOT NULL
);
CREATE TABLE customer (
    customer_id TEXT COLLATE "C" PRIMARY KEY,
    erased      BOOLEAN NOT NULL
);

-- +goose Down
DROP TABLE customer;
DROP TABLE price;
DROP TABLE return_view;
DROP TABLE order_line_view;
DROP TABLE order_view;
DROP TABLE checkout;
DROP TABLE snapshots;
DROP TABLE event;
DROP TABLE stream;
