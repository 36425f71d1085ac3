-- When a certificate was last used at the device door over HTTPS. A request is no
-- connection: what a thing's clients are is in presence.

CREATE TABLE certificate_uses (
  tenant      TEXT NOT NULL,
  certificate TEXT NOT NULL, -- id
  at          BIGINT NOT NULL,
  mac         BLOB NOT NULL,
  PRIMARY KEY (tenant, certificate)
);
CREATE INDEX certificate_uses_at ON certificate_uses (at);

-- Changes of certificates that devices began by themselves, until the old one is
-- retired.
CREATE TABLE renewals (
  tenant TEXT NOT NULL,
  thing  TEXT NOT NULL, -- folded name
  name   TEXT NOT NULL, -- as it is written
  was    TEXT NOT NULL, -- id of the old certificate
  is_now TEXT NOT NULL, -- id of the new one
  reason TEXT NOT NULL,
  at     BIGINT NOT NULL, -- when the new one was made
  proven BIGINT NOT NULL, -- when it was found to be in use, or 0
  due    BIGINT NOT NULL, -- of the next look
  mac    BLOB NOT NULL,
  PRIMARY KEY (tenant, thing)
);
CREATE INDEX renewals_due ON renewals (due);
