-- Whose device a unit is, and what happened to that.

CREATE TABLE ownership (
  home    TEXT NOT NULL, -- tenant of the authority that made the birth certificate
  holder  TEXT NOT NULL, -- folded
  owner   TEXT NOT NULL, -- tenant
  body    BLOB NOT NULL, -- JSON, the state and how the owner registers it
  version BIGINT NOT NULL,
  mac     BLOB NOT NULL,
  PRIMARY KEY (home, holder),
  UNIQUE (owner, holder)
);

CREATE TABLE ownership_events (
  tenant TEXT NOT NULL, -- to whom it happened
  holder TEXT NOT NULL,
  seq    BIGINT NOT NULL,
  home   TEXT NOT NULL,
  what   TEXT NOT NULL,
  body   BLOB NOT NULL, -- JSON, with what the tenant had
  mac    BLOB NOT NULL,
  PRIMARY KEY (tenant, holder, seq)
);

CREATE INDEX ownership_events_home ON ownership_events (home, holder);

CREATE TABLE ownership_acts (
  tenant  TEXT NOT NULL,
  name    TEXT NOT NULL,
  code    TEXT NOT NULL, -- hash of a release's code, or ""
  unswept BIGINT NOT NULL, -- 1 while something that units left behind is to end
  body    BLOB NOT NULL, -- JSON
  version BIGINT NOT NULL,
  mac     BLOB NOT NULL,
  PRIMARY KEY (tenant, name)
);

CREATE UNIQUE INDEX ownership_acts_code ON ownership_acts (code) WHERE code <> '';
CREATE INDEX ownership_acts_unswept ON ownership_acts (unswept) WHERE unswept = 1;
