-- +goose Up
CREATE TABLE outbox (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id     TEXT NOT NULL,
    name           TEXT NOT NULL,
    key            TEXT NOT NULL,
    sequence       INTEGER NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id   TEXT NOT NULL,
    traceparent    TEXT NOT NULL,
    subject        TEXT NOT NULL,
    created_at     TIMESTAMP NOT NULL,
    unsubscribed   BOOLEAN NOT NULL,
    payload        BLOB NOT NULL
);
CREATE INDEX outbox_subject ON outbox (subject) WHERE subject <> '';
CREATE INDEX outbox_unsubscribed ON outbox (created_at) WHERE unsubscribed;
CREATE TABLE outbox_key (
    key      TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE delivery (
    subscriber TEXT NOT NULL,
    outbox_id  INTEGER NOT NULL,
    PRIMARY KEY (subscriber, outbox_id)
) WITHOUT ROWID;
CREATE INDEX delivery_outbox ON delivery (outbox_id);
CREATE TABLE inbox (
    handler    TEXT NOT NULL,
    message_id TEXT NOT NULL,
    handled_at TIMESTAMP NOT NULL,
    reply      BLOB,
    PRIMARY KEY (handler, message_id)
) WITHOUT ROWID;
CREATE TABLE parked_key (
    handler  TEXT NOT NULL,
    key      TEXT NOT NULL,
    next_at  TIMESTAMP,
    attempt  INTEGER NOT NULL,
    first_at TIMESTAMP NOT NULL,
    delay_ms INTEGER NOT NULL,
    PRIMARY KEY (handler, key)
) WITHOUT ROWID;
CREATE INDEX parked_key_next ON parked_key (next_at) WHERE next_at IS NOT NULL;
CREATE TABLE parked (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    handler    TEXT NOT NULL,
    key        TEXT NOT NULL,
    message_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    subject    TEXT NOT NULL,
    message    BLOB NOT NULL,
    error      TEXT NOT NULL,
    UNIQUE (handler, message_id)
);
CREATE INDEX parked_by_key ON parked (handler, key, position);
CREATE INDEX parked_subject ON parked (subject) WHERE subject <> '';
CREATE TABLE dead_letters (
    id         TEXT PRIMARY KEY,
    position   INTEGER NOT NULL,
    handler    TEXT NOT NULL,
    key        TEXT NOT NULL,
    message_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    subject    TEXT NOT NULL,
    message    BLOB NOT NULL,
    reason     TEXT NOT NULL,
    attempts   INTEGER NOT NULL,
    first_at   TIMESTAMP NOT NULL,
    died_at    TIMESTAMP NOT NULL,
    UNIQUE (handler, message_id)
);
CREATE INDEX dead_letters_subject ON dead_letters (subject) WHERE subject <> '';
CREATE TABLE timers (
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    key      TEXT NOT NULL,
    due_at   TIMESTAMP NOT NULL,
    first_at TIMESTAMP NOT NULL,
    attempt  INTEGER NOT NULL,
    payload  BLOB NOT NULL,
    PRIMARY KEY (name, key)
) WITHOUT ROWID;
CREATE INDEX timers_due ON timers (due_at);
CREATE TABLE idempotency (
    subject  TEXT NOT NULL,
    route    TEXT NOT NULL,
    key      TEXT NOT NULL,
    hash     BLOB NOT NULL,
    status   INTEGER NOT NULL,
    location TEXT NOT NULL,
    body     BLOB NOT NULL,
    personal TEXT NOT NULL,
    erased   BOOLEAN NOT NULL,
    keep     BOOLEAN NOT NULL,
    made_at  TIMESTAMP NOT NULL,
    PRIMARY KEY (subject, route, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_made ON idempotency (made_at) WHERE NOT keep;
CREATE INDEX idempotency_personal ON idempotency (personal) WHERE personal <> '';
CREATE TABLE lease (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    expires_at TIMESTAMP NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE lease;
DROP TABLE idempotency;
DROP TABLE timers;
DROP TABLE dead_letters;
DROP TABLE parked;
DROP TABLE parked_key;
DROP TABLE inbox;
DROP TABLE delivery;
DROP TABLE outbox_key;
DROP TABLE outbox;
