-- +goose Up
CREATE TABLE erased (
    subject   TEXT COLLATE "C" PRIMARY KEY,
    erased_at TIMESTAMPTZ NOT NULL
);

-- +goose Down
DROP TABLE erased;
