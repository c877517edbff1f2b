-- +goose Up
ALTER TABLE order_view ADD COLUMN refund_refused BOOLEAN NOT NULL DEFAULT FALSE;

-- +goose Down
ALTER TABLE order_view DROP COLUMN refund_refused;
