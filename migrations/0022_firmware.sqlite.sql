-- Firmware: what was published, as it was signed. The images are elsewhere.

CREATE TABLE firmware (
  tenant     TEXT NOT NULL,
  name       TEXT NOT NULL, -- class/version
  class      TEXT NOT NULL,
  version    TEXT NOT NULL,
  state      TEXT NOT NULL, -- awaiting-approval, released, withdrawn
  manifest   BLOB NOT NULL, -- COSE_Sign
  digest     TEXT NOT NULL, -- SHA-256 of the image, hex
  size       BIGINT NOT NULL,
  request    TEXT NOT NULL, -- for approval, or ""
  created_by TEXT NOT NULL,
  decided_by TEXT NOT NULL, -- who released or withdrew it, or ""
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  row_version BIGINT NOT NULL, -- version of the row
  mac        BLOB NOT NULL,
  PRIMARY KEY (tenant, name)
);
