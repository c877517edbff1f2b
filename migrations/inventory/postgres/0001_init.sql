-- +goose Up
CREATE TABLE stock (
    sku      TEXT COLLATE "C" PRIMARY KEY,
    on_hand  BIGINT NOT NULL CHECK (on_hand >= 0),
    reserved BIGINT NOT NULL CHECK (reserved >= 0),
    low      BOOLEAN NOT NULL,
    CHECK (reserved <= on_hand)
);
CREATE TABLE reservations (
    order_id   TEXT COLLATE "C" PRIMARY KEY,
    state      TEXT COLLATE "C" NOT NULL CHECK (state IN ('refused', 'held', 'committed', 'expired', 'released')),
    lines      TEXT COLLATE "C" NOT NULL,
    returned   TEXT COLLATE "C" NOT NULL,
    short      TEXT COLLATE "C" NOT NULL,
    reason     TEXT COLLATE "C" NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX reservations_held ON reservations (expires_at) WHERE state = 'held';
CREATE TABLE returns (
    order_id    TEXT COLLATE "C" NOT NULL,
    return_id   TEXT COLLATE "C" NOT NULL,
    returned_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (order_id, return_id)
);
CREATE TABLE deliveries (
    id         TEXT COLLATE "C" PRIMARY KEY,
    reference  TEXT COLLATE "C" NOT NULL,
    lines      TEXT COLLATE "C" NOT NULL,
    units      BIGINT NOT NULL,
    arrived_at TIMESTAMPTZ NOT NULL
);
CREATE UNIQUE INDEX deliveries_reference ON deliveries (reference) WHERE reference <> '';
CREATE TABLE movements (
    sku      TEXT COLLATE "C" NOT NULL,
    id       TEXT COLLATE "C" NOT NULL,
    delta    BIGINT NOT NULL,
    reason   TEXT COLLATE "C" NOT NULL,
    ref      TEXT COLLATE "C" NOT NULL,
    note     TEXT COLLATE "C" NOT NULL,
    moved_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (sku, id)
);

-- +goose Down
DROP TABLE movements;
DROP TABLE deliveries;
DROP TABLE returns;
DROP TABLE reservations;
DROP TABLE stock;
