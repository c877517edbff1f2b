-- +goose Up
-- Where each module is. version grows with every change and is what a change compares; epoch grows with the owner's.
-- wish is the configured value that was acted on last: only another one is a wish.
CREATE TABLE placement (
    module      TEXT PRIMARY KEY,
    placement   TEXT NOT NULL,
    reads       INTEGER NOT NULL,
    writes      INTEGER NOT NULL,
    owner       TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    step        TEXT NOT NULL,
    wish        TEXT NOT NULL,
    refused     TEXT NOT NULL,
    changed_at  TIMESTAMP NOT NULL
) WITHOUT ROWID;
CREATE TABLE placement_journal (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    module   TEXT NOT NULL,
    at       TIMESTAMP NOT NULL,
    caller   TEXT NOT NULL,
    reason   TEXT NOT NULL,
    "from"   TEXT NOT NULL,
    "to"     TEXT NOT NULL,
    evidence TEXT NOT NULL
);
CREATE INDEX placement_journal_module ON placement_journal (module, id);
-- The processes that run: what they are, what they wish, and which version of each placement they follow.
CREATE TABLE process (
    id      TEXT PRIMARY KEY,
    body    TEXT NOT NULL,
    seen_at TIMESTAMP NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE process;
DROP TABLE placement_journal;
DROP TABLE placement;
