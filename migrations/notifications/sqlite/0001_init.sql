-- +goose Up
CREATE TABLE recipients (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    email    TEXT NOT NULL,
    language TEXT NOT NULL,
    mail     BOOLEAN NOT NULL,
    role     TEXT NOT NULL,
    known    BOOLEAN NOT NULL,
    erased   BOOLEAN NOT NULL
) WITHOUT ROWID;
CREATE INDEX recipients_staff ON recipients (role, id) WHERE role IN ('staff', 'admin');
CREATE TABLE notifications (
    id         TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL,
    kind       TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('waiting', 'pending', 'sent', 'refused', 'in_app')),
    address    TEXT NOT NULL,
    data       TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    read_at    TIMESTAMP,
    sent_at    TIMESTAMP
) WITHOUT ROWID;
CREATE INDEX notifications_user ON notifications (user_id, created_at, id);

-- +goose Down
DROP TABLE notifications;
DROP TABLE recipients;
