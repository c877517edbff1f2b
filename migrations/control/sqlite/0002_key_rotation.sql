-- +goose Up
-- NULL stands for keys of before: their public half is added by the next process that starts, and they sign since they were made.
-- Budgets of rate limits are on PostgreSQL alone: a SQLite file has one process, and that keeps them in memory.
ALTER TABLE signing_key ADD COLUMN public_key BLOB;
ALTER TABLE signing_key ADD COLUMN signs_at TIMESTAMP;

-- +goose Down
ALTER TABLE signing_key DROP COLUMN signs_at;
ALTER TABLE signing_key DROP COLUMN public_key;
