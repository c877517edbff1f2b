-- +goose Up
-- An address has one pending invitation at most: of several the newest stays.
UPDATE invitations SET state = 'replaced' WHERE state = 'pending'
    AND EXISTS (SELECT 1 FROM invitations n WHERE n.email_key = invitations.email_key AND n.state = 'pending' AND n.id > invitations.id);
DROP INDEX invitations_email;
CREATE UNIQUE INDEX invitations_email ON invitations (email_key) WHERE state = 'pending';

-- +goose Down
DROP INDEX invitations_email;
CREATE INDEX invitations_email ON invitations (email_key) WHERE state = 'pending';
