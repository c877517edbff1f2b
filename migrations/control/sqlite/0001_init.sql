-- +goose Up
CREATE TABLE subscription (
    subscriber TEXT NOT NULL,
    message    TEXT NOT NULL,
    since      TIMESTAMP NOT NULL,
    PRIMARY KEY (subscriber, message)
) WITHOUT ROWID;
CREATE TABLE signing_key (
    id          TEXT PRIMARY KEY,
    private_key BLOB NOT NULL,
    created_at  TIMESTAMP NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE signing_key;
DROP TABLE subscription;
