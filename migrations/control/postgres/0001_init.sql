-- +goose Up
CREATE TABLE subscription (
    subscriber TEXT COLLATE "C" NOT NULL,
    message    TEXT COLLATE "C" NOT NULL,
    since      TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (subscriber, message)
);
CREATE TABLE signing_key (
    id          TEXT COLLATE "C" PRIMARY KEY,
    private_key BYTEA NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL
);

-- +goose Down
DROP TABLE signing_key;
DROP TABLE subscription;
