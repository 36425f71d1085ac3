-- What people did: one row an action, chained by hash (A75).

-- Rows are only ever added. The chain shows a row that is gone or was changed; the
-- newest hash is in the log's signed checkpoint, which is kept elsewhere.
CREATE TABLE trail (
  seq    BIGINT NOT NULL PRIMARY KEY, -- from 1, without gaps
  tenant TEXT NOT NULL,
  at     BIGINT NOT NULL,
  actor  TEXT NOT NULL,
  action TEXT NOT NULL,
  entry  BLOB NOT NULL, -- JSON; these octets are what is hashed
  hash   BLOB NOT NULL, -- of the hash before, seq and entry
  mac    BLOB NOT NULL
);

CREATE INDEX trail_tenant ON trail (tenant, seq);

-- Break-glass sessions (S42). The key of one that was opened is spent.
CREATE TABLE break_glass (
  id         TEXT NOT NULL PRIMARY KEY, -- of the opening, random
  tenant     TEXT NOT NULL,
  key_id     TEXT NOT NULL, -- of the key that opened it
  token_hash BLOB NOT NULL UNIQUE,
  opened_at  BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  closed_at  BIGINT NOT NULL, -- 0 while it was not closed before its end
  drill      BIGINT NOT NULL, -- 1: it may do nothing, and spent no key
  reason     TEXT NOT NULL,
  remote     TEXT NOT NULL, -- where it was opened from
  mac        BLOB NOT NULL
);

-- A key opens one session, and never another one.
CREATE UNIQUE INDEX break_glass_key ON break_glass (key_id) WHERE drill = 0;
