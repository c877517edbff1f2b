-- +goose Up
CREATE TABLE erased (
    subject   TEXT PRIMARY KEY,
    erased_at TIMESTAMP NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE erased;
