-- Which roots devices trust, and the rollover of a root over the air.

CREATE TABLE device_trust (
  tenant  TEXT COLLATE "C" NOT NULL,
  thing   TEXT COLLATE "C" NOT NULL, -- folded name
  body    BYTEA NOT NULL, -- JSON, the roots as the device confirmed them, and when
  version BIGINT NOT NULL,
  mac     BYTEA NOT NULL,
  PRIMARY KEY (tenant, thing)
);

CREATE TABLE trust_rollovers (
  tenant  TEXT COLLATE "C" NOT NULL,
  name    TEXT COLLATE "C" NOT NULL,
  body    BYTEA NOT NULL, -- JSON, the roots, the gates, the phase, and each step with its time
  version BIGINT NOT NULL,
  mac     BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);
