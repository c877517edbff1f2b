-- +goose Up
CREATE TABLE recipients (
    id       TEXT COLLATE "C" PRIMARY KEY,
    name     TEXT COLLATE "C" NOT NULL,
    email    TEXT COLLATE "C" NOT NULL,
    language TEXT COLLATE "C" NOT NULL,
    mail     BOOLEAN NOT NULL,
    role     TEXT COLLATE "C" NOT NULL,
    known    BOOLEAN NOT NULL,
    erased   BOOLEAN NOT NULL
);
CREATE INDEX recipients_staff ON recipients (role, id) WHERE role IN ('staff', 'admin');
CREATE TABLE notifications (
    id         TEXT COLLATE "C" PRIMARY KEY,
    user_id    TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    state      TEXT COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'pending', 'sent', 'refused', 'in_app')),
    address    TEXT COLLATE "C" NOT NULL,
    data       TEXT COLLATE "C" NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    read_at    TIMESTAMPTZ,
    sent_at    TIMESTAMPTZ
);
CREATE INDEX notifications_user ON notifications (user_id, created_at, id);

-- +goose Down
DROP TABLE notifications;
DROP TABLE recipients;
