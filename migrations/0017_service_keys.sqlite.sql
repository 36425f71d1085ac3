-- Keys of the service that all its nodes use, sealed under the key outside the
-- database (S39). The certificate of one is in the ledger.
CREATE TABLE service_keys (
  tenant     TEXT NOT NULL,
  name       TEXT NOT NULL,
  generation BIGINT NOT NULL, -- rises by one with every renewal
  sealed     BLOB NOT NULL,   -- PKCS #8
  created_at BIGINT NOT NULL,
  mac        BLOB NOT NULL,
  PRIMARY KEY (tenant, name, generation)
);
