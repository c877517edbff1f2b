-- +goose Up
-- The versions of the program that run, told apart by who subscribes to what in them.
CREATE TABLE release (
    id      TEXT COLLATE "C" PRIMARY KEY,
    since   TIMESTAMPTZ NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL
);

-- +goose Down
DROP TABLE release;
