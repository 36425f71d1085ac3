-- Rotation: what ends soon, and what was done with the certificates of devices.

-- The scan looks at what ends next and never at the rest. What is not ACTIVE is not
-- in use.
CREATE INDEX device_certificates_expiry ON device_certificates (tenant, not_after, id) WHERE status = 'ACTIVE';

CREATE TABLE rotation_events (
  tenant      TEXT NOT NULL,
  thing       TEXT NOT NULL, -- folded name
  campaign    TEXT NOT NULL, -- or ""
  what        TEXT NOT NULL, -- renewed, retired, held, kept, undone
  certificate TEXT NOT NULL, -- id
  was         TEXT NOT NULL, -- id of the certificate that asked, or ""
  at          BIGINT NOT NULL,
  name        TEXT NOT NULL, -- of the thing, as it is written
  reason      TEXT NOT NULL,
  detail      TEXT NOT NULL,
  mac         BLOB NOT NULL,
  PRIMARY KEY (tenant, thing, certificate, what, campaign)
);
