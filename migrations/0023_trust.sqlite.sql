-- Which roots devices trust, and the rollover of a root over the air.

CREATE TABLE device_trust (
  tenant  TEXT NOT NULL,
  thing   TEXT NOT NULL, -- folded name
  body    BLOB NOT NULL, -- JSON, the roots as the device confirmed them, and when
  version BIGINT NOT NULL,
  mac     BLOB NOT NULL,
  PRIMARY KEY (tenant, thing)
);

CREATE TABLE trust_rollovers (
  tenant  TEXT NOT NULL,
  name    TEXT NOT NULL,
  body    BLOB NOT NULL, -- JSON, the roots, the gates, the phase, and each step with its time
  version BIGINT NOT NULL,
  mac     BLOB NOT NULL,
  PRIMARY KEY (tenant, name)
);
