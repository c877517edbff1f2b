-- +goose Up
-- Whose personal data a timer's payload or a stored reply holds, as in outbox, parked and dead_letters.
ALTER TABLE timers ADD COLUMN subject TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX timers_subject ON timers (subject) WHERE subject <> '';
ALTER TABLE inbox ADD COLUMN subject TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX inbox_subject ON inbox (subject) WHERE subject <> '';

-- +goose Down
DROP INDEX inbox_subject;
ALTER TABLE inbox DROP COLUMN subject;
DROP INDEX timers_subject;
ALTER TABLE timers DROP COLUMN subject;
