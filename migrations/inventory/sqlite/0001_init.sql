-- +goose Up
CREATE TABLE stock (
    sku      TEXT PRIMARY KEY,
    on_hand  INTEGER NOT NULL CHECK (on_hand >= 0),
    reserved INTEGER NOT NULL CHECK (reserved >= 0),
    low      BOOLEAN NOT NULL,
    CHECK (reserved <= on_hand)
) WITHOUT ROWID;
CREATE TABLE reservations (
    order_id   TEXT PRIMARY KEY,
    state      TEXT NOT NULL CHECK (state IN ('refused', 'held', 'committed', 'expired', 'released')),
    lines      TEXT NOT NULL,
    returned   TEXT NOT NULL,
    short      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    expires_at TIMESTAMP NOT NULL,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
) WITHOUT ROWID;
CREATE INDEX reservations_held ON reservations (expires_at) WHERE state = 'held';
CREATE TABLE returns (
    order_id    TEXT NOT NULL,
    return_id   TEXT NOT NULL,
    returned_at TIMESTAMP NOT NULL,
    PRIMARY KEY (order_id, return_id)
) WITHOUT ROWID;
CREATE TABLE deliveries (
    id         TEXT PRIMARY KEY,
    reference  TEXT NOT NULL,
    lines      TEXT NOT NULL,
    units      INTEGER NOT NULL,
    arrived_at TIMESTAMP NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX deliveries_reference ON deliveries (reference) WHERE reference <> '';
CREATE TABLE movements (
    sku      TEXT NOT NULL,
    id       TEXT NOT NULL,
    delta    INTEGER NOT NULL,
    reason   TEXT NOT NULL,
    ref      TEXT NOT NULL,
    note     TEXT NOT NULL,
    moved_at TIMESTAMP NOT NULL,
    PRIMARY KEY (sku, id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE movements;
DROP TABLE deliveries;
DROP TABLE returns;
DROP TABLE reservations;
DROP TABLE stock;
