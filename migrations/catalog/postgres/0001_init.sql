-- +goose Up
CREATE TABLE products (
    sku            TEXT COLLATE "C" PRIMARY KEY,
    name           TEXT COLLATE "C" NOT NULL,
    description    TEXT COLLATE "C" NOT NULL,
    search         TEXT COLLATE "C" NOT NULL, -- name and SKU in small letters
    sort_name      TEXT COLLATE "C" NOT NULL, -- the name's beginning in small letters
    price_amount   BIGINT NOT NULL,
    price_currency TEXT COLLATE "C" NOT NULL,
    state          TEXT COLLATE "C" NOT NULL,
    version        BIGINT NOT NULL,
    added_at       TIMESTAMPTZ NOT NULL,
    changed_at     TIMESTAMPTZ NOT NULL
);
CREATE INDEX products_name ON products (sort_name, sku);
CREATE INDEX products_price ON products (price_amount, sku);
CREATE TABLE prices (
    sku        TEXT COLLATE "C" NOT NULL,
    version    BIGINT NOT NULL, -- of the product, from which on the price holds
    amount     BIGINT NOT NULL,
    currency   TEXT COLLATE "C" NOT NULL,
    valid_from TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (sku, version)
);
CREATE TABLE categories (
    slug     TEXT COLLATE "C" PRIMARY KEY,
    name     TEXT COLLATE "C" NOT NULL,
    added_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE product_categories (
    category TEXT COLLATE "C" NOT NULL,
    sku      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (category, sku)
);
CREATE INDEX product_categories_sku ON product_categories (sku);

-- +goose Down
DROP TABLE product_categories;
DROP TABLE categories;
DROP TABLE prices;
DROP TABLE products;
