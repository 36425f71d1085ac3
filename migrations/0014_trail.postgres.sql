-- What people did: one row an action, chained by hash (A75).

-- Rows are only ever added. The chain shows a row that is gone or was changed; the
-- newest hash is in the log's signed checkpoint, which is kept elsewhere.
CREATE TABLE trail (
  seq    BIGINT NOT NULL PRIMARY KEY, -- from 1, without gaps
  tenant TEXT COLLATE "C" NOT NULL,
  at     BIGINT NOT NULL,
  actor  TEXT COLLATE "C" NOT NULL,
  action TEXT COLLATE "C" NOT NULL,
  entry  BYTEA NOT NULL, -- JSON; these octets are what is hashed
  hash   BYTEA NOT NULL, -- of the hash before, seq and entry
  mac    BYTEA NOT NULL
);

CREATE INDEX trail_tenant ON trail (tenant, seq);

-- Break-glass sessions (S42). The key of one that was opened is spent.
CREATE TABLE break_glass (
  id         TEXT COLLATE "C" NOT NULL PRIMARY KEY, -- of the opening, random
  tenant     TEXT COLLATE "C" NOT NULL,
  key_id     TEXT COLLATE "C" NOT NULL, -- of the key that opened it
  token_hash BYTEA NOT NULL UNIQUE,
  opened_at  BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  closed_at  BIGINT NOT NULL, -- 0 while it was not closed before its end
  drill      BIGINT NOT NULL, -- 1: it may do nothing, and spent no key
  reason     TEXT COLLATE "C" NOT NULL,
  remote     TEXT COLLATE "C" NOT NULL, -- where it was opened from
  mac        BYTEA NOT NULL
);

-- A key opens one session, and never another one.
CREATE UNIQUE INDEX break_glass_key ON break_glass (key_id) WHERE drill = 0;
