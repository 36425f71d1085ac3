-- Cross certificates: one root certifies another. Their rows are read whole and
-- compared with the table's seal.
CREATE TABLE cross_certificates (
  tenant  TEXT COLLATE "C" NOT NULL,
  name    TEXT COLLATE "C" NOT NULL,
  body    BYTEA NOT NULL, -- JSON, the certificate, which root signed it, and which it certifies
  version BIGINT NOT NULL,
  mac     BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);
