-- +goose Up
-- A cart's row stays when the cart is emptied: a version must never be used twice, because orders name it.
CREATE TABLE carts (
    customer_id TEXT PRIMARY KEY,
    version     INTEGER NOT NULL,
    touched_at  TIMESTAMP -- NULL while nothing is in it
) WITHOUT ROWID;
CREATE INDEX carts_touched ON carts (touched_at) WHERE touched_at IS NOT NULL;
CREATE TABLE cart_lines (
    customer_id    TEXT NOT NULL,
    sku            TEXT NOT NULL,
    position       INTEGER NOT NULL, -- the cart's version that brought the line: it grows
    quantity       INTEGER NOT NULL,
    shown_amount   INTEGER NOT NULL,
    shown_currency TEXT NOT NULL,
    PRIMARY KEY (customer_id, sku)
) WITHOUT ROWID;
-- The copy of the catalog.
CREATE TABLE products (
    sku            TEXT PRIMARY KEY,
    name           TEXT NOT NULL,
    price_amount   INTEGER NOT NULL,
    price_currency TEXT NOT NULL,
    on_sale        BOOLEAN NOT NULL,
    version        INTEGER NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE products;
DROP TABLE cart_lines;
DROP TABLE carts;
