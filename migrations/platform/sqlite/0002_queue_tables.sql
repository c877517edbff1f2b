-- +goose Up
-- PostgreSQL alone needs settings for its queue tables; the numbers are the same in both dialects.
SELECT 1;

-- +goose Down
SELECT 1;
