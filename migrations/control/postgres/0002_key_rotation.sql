-- +goose Up
-- NULL stands for keys of before: their public half is added by the next process that starts, and they sign since they were made.
ALTER TABLE signing_key ADD COLUMN public_key BYTEA, ADD COLUMN signs_at TIMESTAMPTZ;

-- A budget of a rate limit, by the hash of limit and client; times are microseconds since 1970. Losing it in a crash gives
-- everybody a full budget, and nothing of it is worth the disk. tat is when the budget is full again.
CREATE UNLOGGED TABLE rate_limit (
    key     BYTEA PRIMARY KEY,
    tat     DOUBLE PRECISION NOT NULL,
    at      DOUBLE PRECISION NOT NULL,
    paid    INTEGER NOT NULL,
    granted INTEGER NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- +goose Down
DROP TABLE rate_limit;
ALTER TABLE signing_key DROP COLUMN signs_at, DROP COLUMN public_key;
