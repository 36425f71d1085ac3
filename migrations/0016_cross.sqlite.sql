-- Cross certificates: one root certifies another. Their rows are read whole and
-- compared with the table's seal.
CREATE TABLE cross_certificates (
  tenant  TEXT NOT NULL,
  name    TEXT NOT NULL,
  body    BLOB NOT NULL, -- JSON, the certificate, which root signed it, and which it certifies
  version BIGINT NOT NULL,
  mac     BLOB NOT NULL,
  PRIMARY KEY (tenant, name)
);
