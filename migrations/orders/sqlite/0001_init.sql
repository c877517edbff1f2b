-- +goose Up
-- The write side: a stream of events per order. The head row is what writers of one order lock. Tables with long
-- rows keep their rowid: without it each row would spill.
CREATE TABLE stream (
    order_id         TEXT PRIMARY KEY,
    version          INTEGER NOT NULL,
    snapshot_version INTEGER NOT NULL,
    customer_id      TEXT NOT NULL,
    cart_version     INTEGER NOT NULL,
    reference        TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX stream_customer ON stream (customer_id);
CREATE UNIQUE INDEX stream_reference ON stream (reference) WHERE reference <> '';
CREATE UNIQUE INDEX stream_cart ON stream (customer_id, cart_version) WHERE cart_version > 0;
CREATE TABLE event (
    order_id TEXT NOT NULL,
    version  INTEGER NOT NULL,
    type     TEXT NOT NULL,
    body     TEXT NOT NULL,
    personal TEXT NOT NULL,
    at       TIMESTAMP NOT NULL,
    PRIMARY KEY (order_id, version)
);
CREATE TABLE snapshots (
    order_id TEXT PRIMARY KEY,
    version  INTEGER NOT NULL,
    format   INTEGER NOT NULL,
    body     TEXT NOT NULL,
    personal TEXT NOT NULL
);
-- The checkout saga of each order.
CREATE TABLE checkout (
    order_id TEXT PRIMARY KEY,
    state    TEXT NOT NULL,
    goal     TEXT NOT NULL,
    reason   TEXT NOT NULL,
    version  INTEGER NOT NULL,
    deadline TIMESTAMP NOT NULL,
    card     TEXT NOT NULL
) WITHOUT ROWID;
-- The read side, made of the events alone.
CREATE TABLE order_view (
    order_id       TEXT PRIMARY KEY,
    version        INTEGER NOT NULL,
    customer_id    TEXT NOT NULL,
    status         TEXT NOT NULL,
    reason         TEXT NOT NULL,
    fulfilment     TEXT NOT NULL,
    return_state   TEXT NOT NULL,
    placed_by      TEXT NOT NULL,
    reference      TEXT NOT NULL,
    reference_time TIMESTAMP,
    currency       TEXT NOT NULL,
    total          INTEGER NOT NULL,
    refunded       INTEGER NOT NULL,
    lines          INTEGER NOT NULL,
    units          INTEGER NOT NULL,
    returned_units INTEGER NOT NULL,
    open_returns   INTEGER NOT NULL,
    carrier        TEXT NOT NULL,
    tracking       TEXT NOT NULL,
    personal       TEXT NOT NULL,
    placed_at      TIMESTAMP NOT NULL,
    updated_at     TIMESTAMP NOT NULL,
    confirmed_at   TIMESTAMP,
    delivered_at   TIMESTAMP
) WITHOUT ROWID;
CREATE INDEX order_view_customer ON order_view (customer_id, order_id);
CREATE INDEX order_view_status ON order_view (status, order_id);
CREATE INDEX order_view_reference ON order_view (reference) WHERE reference <> '';
CREATE TABLE order_line_view (
    order_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    sku      TEXT NOT NULL,
    name     TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    price    INTEGER NOT NULL,
    returned INTEGER NOT NULL,
    PRIMARY KEY (order_id, position)
) WITHOUT ROWID;
CREATE TABLE return_view (
    return_id TEXT PRIMARY KEY,
    order_id  TEXT NOT NULL,
    position  INTEGER NOT NULL,
    made_by   TEXT NOT NULL,
    lines     TEXT NOT NULL,
    currency  TEXT NOT NULL,
    refund    INTEGER NOT NULL,
    refunded  BOOLEAN NOT NULL,
    restocked BOOLEAN NOT NULL,
    note      TEXT NOT NULL,
    at        TIMESTAMP NOT NULL,
    UNIQUE (order_id, position)
) WITHOUT ROWID;
-- Copies of what others know.
CREATE TABLE price (
    sku      TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    amount   INTEGER NOT NULL,
    currency TEXT NOT NULL,
    on_sale  BOOLEAN NOT NULL,
    version  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE customer (
    customer_id TEXT PRIMARY KEY,
    erased      BOOLEAN NOT NULL
) WITHOUT ROWID;

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
