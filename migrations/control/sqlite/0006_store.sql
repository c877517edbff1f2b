-- +goose Up
-- The stores of modules that have been made. One that is noted and not there was lost: it is not silently made again.
CREATE TABLE store (
    name    TEXT PRIMARY KEY,
    made_at TIMESTAMP NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE store;
