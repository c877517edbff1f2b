-- +goose Up
CREATE TABLE products (
    sku            TEXT PRIMARY KEY,
    name           TEXT NOT NULL,
    description    TEXT NOT NULL,
    search         TEXT NOT NULL, -- name and SKU in small letters
    sort_name      TEXT NOT NULL, -- the name's beginning in small letters
    price_amount   INTEGER NOT NULL,
    price_currency TEXT NOT NULL,
    state          TEXT NOT NULL,
    version        INTEGER NOT NULL,
    added_at       TIMESTAMP NOT NULL,
    changed_at     TIMESTAMP NOT NULL
);
CREATE INDEX products_name ON products (sort_name, sku);
CREATE INDEX products_price ON products (price_amount, sku);
CREATE TABLE prices (
    sku        TEXT NOT NULL,
    version    INTEGER NOT NULL, -- of the product, from which on the price holds
    amount     INTEGER NOT NULL,
    currency   TEXT NOT NULL,
    valid_from TIMESTAMP NOT NULL,
    PRIMARY KEY (sku, version)
) WITHOUT ROWID;
CREATE TABLE categories (
    slug     TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    added_at TIMESTAMP NOT NULL
) WITHOUT ROWID;
CREATE TABLE product_categories (
    category TEXT NOT NULL,
    sku      TEXT NOT NULL,
    PRIMARY KEY (category, sku)
) WITHOUT ROWID;
CREATE INDEX product_categories_sku ON product_categories (sku);

-- +goose Down
DROP TABLE product_categories;
DROP TABLE categories;
DROP TABLE prices;
DROP TABLE products;
