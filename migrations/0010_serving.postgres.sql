-- Which authority issues what, and how authorities end.

-- Declarations. Their rows are read whole and compared with the table's seal.
CREATE TABLE serving (
  tenant  TEXT COLLATE "C" NOT NULL,
  name    TEXT COLLATE "C" NOT NULL,
  body    BYTEA NOT NULL, -- JSON, what is served and by which authorities, in their order
  version BIGINT NOT NULL,
  mac     BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);

-- Authorities that leave: replaced by a successor, retired or revoked.
CREATE TABLE authority_ends (
  tenant    TEXT COLLATE "C" NOT NULL,
  authority TEXT COLLATE "C" NOT NULL,
  body      BYTEA NOT NULL, -- JSON, what was decided, and each step with its time
  version   BIGINT NOT NULL,
  mac       BYTEA NOT NULL,
  PRIMARY KEY (tenant, authority)
);
