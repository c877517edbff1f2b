-- +goose Up
ALTER TABLE return_view ADD COLUMN refund_refused BOOLEAN NOT NULL DEFAULT FALSE;

-- +goose Down
ALTER TABLE return_view DROP COLUMN refund_refused;
