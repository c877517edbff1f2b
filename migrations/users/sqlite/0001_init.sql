-- +goose Up
CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    role          TEXT NOT NULL,
    state         TEXT NOT NULL,
    name          TEXT NOT NULL,
    email         TEXT NOT NULL,
    email_key     TEXT UNIQUE,
    reference     TEXT UNIQUE,
    password_hash TEXT NOT NULL,
    mail          BOOLEAN NOT NULL,
    language      TEXT NOT NULL,
    signed_out_at TIMESTAMP,
    created_at    TIMESTAMP NOT NULL,
    updated_at    TIMESTAMP NOT NULL
) WITHOUT ROWID;
CREATE INDEX users_admin ON users (id) WHERE role = 'admin';
CREATE TABLE sessions (
    id             TEXT PRIMARY KEY,
    user_id        TEXT NOT NULL,
    generation     INTEGER NOT NULL,
    parent         TEXT NOT NULL,
    rotated_at     TIMESTAMP NOT NULL,
    last_issued_at TIMESTAMP NOT NULL,
    created_at     TIMESTAMP NOT NULL,
    expires_at     TIMESTAMP NOT NULL,
    revoked        BOOLEAN NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_user ON sessions (user_id, last_issued_at);
CREATE INDEX sessions_expires ON sessions (expires_at);
CREATE TABLE refresh_tokens (
    hash       TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    generation INTEGER NOT NULL,
    expires_at TIMESTAMP NOT NULL
) WITHOUT ROWID;
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_at);
CREATE TABLE revocations (
    id             TEXT PRIMARY KEY,
    session_id     TEXT NOT NULL,
    user_id        TEXT NOT NULL,
    issued_until   TIMESTAMP NOT NULL,
    except_session TEXT NOT NULL,
    created_at     TIMESTAMP NOT NULL,
    expires_at     TIMESTAMP NOT NULL
) WITHOUT ROWID;
CREATE INDEX revocations_created ON revocations (created_at);
CREATE TABLE invitations (
    id         TEXT PRIMARY KEY,
    token_hash TEXT NOT NULL UNIQUE,
    email      TEXT NOT NULL,
    email_key  TEXT NOT NULL,
    role       TEXT NOT NULL,
    state      TEXT NOT NULL,
    invited_by TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL,
    expires_at TIMESTAMP NOT NULL
) WITHOUT ROWID;
CREATE INDEX invitations_email ON invitations (email_key) WHERE state = 'pending';
CREATE INDEX invitations_expires ON invitations (expires_at);
CREATE TABLE login_failures (
    account    TEXT NOT NULL,
    address    TEXT NOT NULL,
    failures   INTEGER NOT NULL,
    since      TIMESTAMP NOT NULL,
    last       TIMESTAMP NOT NULL,
    expires_at TIMESTAMP NOT NULL,
    PRIMARY KEY (account, address)
) WITHOUT ROWID;
CREATE INDEX login_failures_expires ON login_failures (expires_at);
CREATE TABLE known_addresses (
    user_id TEXT NOT NULL,
    address TEXT NOT NULL,
    seen_at TIMESTAMP NOT NULL,
    PRIMARY KEY (user_id, address)
) WITHOUT ROWID;
CREATE INDEX known_addresses_seen ON known_addresses (seen_at);

-- +goose Down
DROP TABLE known_addresses;
DROP TABLE login_failures;
DROP TABLE invitations;
DROP TABLE revocations;
DROP TABLE refresh_tokens;
DROP TABLE sessions;
DROP TABLE users;
