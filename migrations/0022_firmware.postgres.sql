-- Firmware: what was published, as it was signed. The images are elsewhere.

CREATE TABLE firmware (
  tenant     TEXT COLLATE "C" NOT NULL,
  name       TEXT COLLATE "C" NOT NULL, -- class/version
  class      TEXT COLLATE "C" NOT NULL,
  version    TEXT COLLATE "C" NOT NULL,
  state      TEXT COLLATE "C" NOT NULL, -- awaiting-approval, released, withdrawn
  manifest   BYTEA NOT NULL, -- COSE_Sign
  digest     TEXT COLLATE "C" NOT NULL, -- SHA-256 of the image, hex
  size       BIGINT NOT NULL,
  request    TEXT COLLATE "C" NOT NULL, -- for approval, or ""
  created_by TEXT COLLATE "C" NOT NULL,
  decided_by TEXT COLLATE "C" NOT NULL, -- who released or withdrew it, or ""
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  row_version BIGINT NOT NULL, -- version of the row
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);
