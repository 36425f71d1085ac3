-- Long lists are kept in pieces, so that one revocation writes one of them.
-- crls.der then names the pieces in order; what they make together is signed.
CREATE TABLE crl_pieces (
  authority TEXT NOT NULL,
  shard     INTEGER NOT NULL,
  id        BIGINT NOT NULL,
  der       BLOB NOT NULL, -- entries one after another
  PRIMARY KEY (authority, shard, id)
);

-- The delta list that was published with the list of the same number.
CREATE TABLE crl_deltas (
  authority TEXT NOT NULL,
  shard     INTEGER NOT NULL,
  number    BIGINT NOT NULL,
  der       BLOB NOT NULL, -- signed
  PRIMARY KEY (authority, shard)
);

-- The newest compact filter of each authority; the sequence never falls.
CREATE TABLE crl_filters (
  authority   TEXT NOT NULL PRIMARY KEY,
  sequence    BIGINT NOT NULL,
  size        BIGINT NOT NULL, -- of the log that it covers
  next_update BIGINT NOT NULL,
  file        BLOB NOT NULL,   -- signed
  delta       BLOB             -- signed; changes since file
);
