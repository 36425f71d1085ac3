-- Times at which this database came back from a backup (A77).

-- A row is written by the restore and accepted by people; until then nothing is
-- served. What was accepted says how far numbers jumped and what became void.
CREATE TABLE restores (
  id      TEXT NOT NULL PRIMARY KEY, -- of the restore
  state   TEXT NOT NULL, -- pending, accepted
  body    BLOB NOT NULL, -- JSON
  version BIGINT NOT NULL,
  mac     BLOB NOT NULL
);
