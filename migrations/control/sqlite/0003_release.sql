-- +goose Up
-- The versions of the program that run, told apart by who subscribes to what in them.
CREATE TABLE release (
    id      TEXT PRIMARY KEY,
    since   TIMESTAMP NOT NULL,
    seen_at TIMESTAMP NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE release;
