-- Who authenticated a record: the ID of a signer, or empty.
ALTER TABLE records ADD COLUMN signed_by TEXT NOT NULL DEFAULT '';

-- The IDs that signatures had before their signer was known, by which the
-- journal first saw them.
CREATE TABLE renamed (
  id  TEXT PRIMARY KEY,
  now TEXT NOT NULL
) WITHOUT ROWID;
