-- +goose Up
-- When a process with a part of the program, as one of a module that has left, last said so.
ALTER TABLE subscription ADD COLUMN part_seen_at TIMESTAMP;

-- +goose Down
ALTER TABLE subscription DROP COLUMN part_seen_at;
