-- Long lists are kept in pieces, so that one revocation writes one of them.
-- crls.der then names the pieces in order; what they make together is signed.
CREATE TABLE crl_pieces (
  authority TEXT COLLATE "C" NOT NULL,
  shard     INTEGER NOT NULL,
  id        BIGINT NOT NULL,
  der       BYTEA NOT NULL, -- entries one after another
  PRIMARY KEY (authority, shard, id)
);

-- The delta list that was published with the list of the same number.
CREATE TABLE crl_deltas (
  authority TEXT COLLATE "C" NOT NULL,
  shard     INTEGER NOT NULL,
  number    BIGINT NOT NULL,
  der       BYTEA NOT NULL, -- signed
  PRIMARY KEY (authority, shard)
);

-- The newest compact filter of each authority; the sequence never falls.
CREATE TABLE crl_filters (
  authority   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  sequence    BIGINT NOT NULL,
  size        BIGINT NOT NULL, -- of the log that it covers
  next_update BIGINT NOT NULL,
  file        BYTEA NOT NULL,   -- signed
  delta       BYTEA             -- signed; changes since file
);
