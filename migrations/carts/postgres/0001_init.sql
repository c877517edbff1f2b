-- +goose Up
-- A cart's row stays when the cart is emptied: a version must never be used twice, because orders name it.
CREATE TABLE carts (
    customer_id TEXT COLLATE "C" PRIMARY KEY,
    version     BIGINT NOT NULL,
    touched_at  TIMESTAMPTZ -- NULL while nothing is in it
);
CREATE INDEX carts_touched ON carts (touched_at) WHERE touched_at IS NOT NULL;
CREATE TABLE cart_lines (
    customer_id    TEXT COLLATE "C" NOT NULL,
    sku            TEXT COLLATE "C" NOT NULL,
    position       BIGINT NOT NULL, -- the cart's version that brought the line: it grows
    quantity       BIGINT NOT NULL,
    shown_amount   BIGINT NOT NULL,
    shown_currency TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (customer_id, sku)
);
-- The copy of the catalog.
CREATE TABLE products (
    sku            TEXT COLLATE "C" PRIMARY KEY,
    name           TEXT COLLATE "C" NOT NULL,
    price_amount   BIGINT NOT NULL,
    price_currency TEXT COLLATE "C" NOT NULL,
    on_sale        BOOLEAN NOT NULL,
    version        BIGINT NOT NULL
);

-- +goose Down
DROP TABLE products;
DROP TABLE cart_lines;
DROP TABLE carts;
