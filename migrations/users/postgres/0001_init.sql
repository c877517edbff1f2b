-- +goose Up
CREATE TABLE users (
    id            TEXT COLLATE "C" PRIMARY KEY,
    role          TEXT COLLATE "C" NOT NULL,
    state         TEXT COLLATE "C" NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    email         TEXT COLLATE "C" NOT NULL,
    email_key     TEXT COLLATE "C" UNIQUE,
    reference     TEXT COLLATE "C" UNIQUE,
    password_hash TEXT COLLATE "C" NOT NULL,
    mail          BOOLEAN NOT NULL,
    language      TEXT COLLATE "C" NOT NULL,
    signed_out_at TIMESTAMPTZ,
    created_at    TIMESTAMPTZ NOT NULL,
    updated_at    TIMESTAMPTZ NOT NULL
);
CREATE INDEX users_admin ON users (id) WHERE role = 'admin';
CREATE TABLE sessions (
    id             TEXT COLLATE "C" PRIMARY KEY,
    user_id        TEXT COLLATE "C" NOT NULL,
    generation     BIGINT NOT NULL,
    parent         TEXT COLLATE "C" NOT NULL,
    rotated_at     TIMESTAMPTZ NOT NULL,
    last_issued_at TIMESTAMPTZ NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL,
    expires_at     TIMESTAMPTZ NOT NULL,
    revoked        BOOLEAN NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id, last_issued_at);
CREATE INDEX sessions_expires ON sessions (expires_at);
CREATE TABLE refresh_tokens (
    hash       TEXT COLLATE "C" PRIMARY KEY,
    session_id TEXT COLLATE "C" NOT NULL,
    user_id    TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_at);
CREATE TABLE revocations (
    id             TEXT COLLATE "C" PRIMARY KEY,
    session_id     TEXT COLLATE "C" NOT NULL,
    user_id        TEXT COLLATE "C" NOT NULL,
    issued_until   TIMESTAMPTZ NOT NULL,
    except_session TEXT COLLATE "C" NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL,
    expires_at     TIMESTAMPTZ NOT NULL
);
CREATE INDEX revocations_created ON revocations (created_at);
CREATE TABLE invitations (
    id         TEXT COLLATE "C" PRIMARY KEY,
    token_hash TEXT COLLATE "C" NOT NULL UNIQUE,
    email      TEXT COLLATE "C" NOT NULL,
    email_key  TEXT COLLATE "C" NOT NULL,
    role       TEXT COLLATE "C" NOT NULL,
    state      TEXT COLLATE "C" NOT NULL,
    invited_by TEXT COLLATE "C" NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX invitations_email ON invitations (email_key) WHERE state = 'pending';
CREATE INDEX invitations_expires ON invitations (expires_at);
CREATE TABLE login_failures (
    account    TEXT COLLATE "C" NOT NULL,
    address    TEXT COLLATE "C" NOT NULL,
    failures   BIGINT NOT NULL,
    since      TIMESTAMPTZ NOT NULL,
    last       TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, address)
);
CREATE INDEX login_failures_expires ON login_failures (expires_at);
CREATE TABLE known_addresses (
    user_id TEXT COLLATE "C" NOT NULL,
    address TEXT COLLATE "C" NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, address)
);
CREATE INDEX known_addresses_seen ON known_addresses (seen_at);

-- +goose Down
DROP TABLE known_addresses;
DROP TABLE login_failures;
DROP TABLE invitations;
DROP TABLE revocations;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
DROP TABLE users;
