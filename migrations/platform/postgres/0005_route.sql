-- +goose Up
-- By which transport this module's messages go to a subscriber; barrier is the id of the marker that is waited for.
CREATE TABLE route (
    subscriber TEXT COLLATE "C" PRIMARY KEY,
    transport  TEXT COLLATE "C" NOT NULL,
    barrier    TEXT COLLATE "C" NOT NULL
);
-- The last marker of each publisher that has come through this module's queue: everything before it is handled.
CREATE TABLE barrier (
    publisher  TEXT COLLATE "C" PRIMARY KEY,
    id         TEXT COLLATE "C" NOT NULL
);
-- The epoch of the placement by which the holder owns the module: one of an older placement cannot have it again.
ALTER TABLE lease ADD COLUMN term BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE lease DROP COLUMN term;
DROP TABLE barrier;
DROP TABLE route;
