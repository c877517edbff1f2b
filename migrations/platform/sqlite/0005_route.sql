-- +goose Up
-- By which transport this module's messages go to a subscriber; barrier is the id of the marker that is waited for.
CREATE TABLE route (
    subscriber TEXT PRIMARY KEY,
    transport  TEXT NOT NULL,
    barrier    TEXT NOT NULL
) WITHOUT ROWID;
-- The last marker of each publisher that has come through this module's queue: everything before it is handled.
CREATE TABLE barrier (
    publisher  TEXT PRIMARY KEY,
    id         TEXT NOT NULL
) WITHOUT ROWID;
-- The epoch of the placement by which the holder owns the module: one of an older placement cannot have it again.
ALTER TABLE lease ADD COLUMN term INTEGER NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE lease DROP COLUMN term;
DROP TABLE barrier;
DROP TABLE route;
