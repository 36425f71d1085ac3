-- Rotation: what ends soon, and what was done with the certificates of devices.

-- The scan looks at what ends next and never at the rest. What is not ACTIVE is not
-- in use.
CREATE INDEX device_certificates_expiry ON device_certificates (tenant, not_after, id) WHERE status = 'ACTIVE';

CREATE TABLE rotation_events (
  tenant      TEXT COLLATE "C" NOT NULL,
  thing       TEXT COLLATE "C" NOT NULL, -- folded name
  campaign    TEXT COLLATE "C" NOT NULL, -- or ""
  what        TEXT COLLATE "C" NOT NULL, -- renewed, retired, held, kept, undone
  certificate TEXT COLLATE "C" NOT NULL, -- id
  was         TEXT COLLATE "C" NOT NULL, -- id of the certificate that asked, or ""
  at          BIGINT NOT NULL,
  name        TEXT COLLATE "C" NOT NULL, -- of the thing, as it is written
  reason      TEXT COLLATE "C" NOT NULL,
  detail      TEXT COLLATE "C" NOT NULL,
  mac         BYTEA NOT NULL,
  PRIMARY KEY (tenant, thing, certificate, what, campaign)
);
