-- What the ACME server remembers (RFC 8555): external account keys, accounts,
-- orders and the nonces that were used (A43).
CREATE TABLE acme_keys (
  tenant     TEXT NOT NULL,
  id         TEXT NOT NULL, -- public; the secret is made from it and the key outside the database (S39)
  profile    TEXT NOT NULL,
  account    TEXT NOT NULL, -- the order that a birth certificate counts on, "" for others
  names      TEXT NOT NULL, -- JSON: what certificates may be for
  created_by TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  bound_to   TEXT NOT NULL, -- the ACME account that was made with it, "" before
  bound_at   BIGINT NOT NULL, -- 0: not yet
  revoked_by TEXT NOT NULL,
  revoked_at BIGINT NOT NULL, -- 0: not
  mac        BLOB NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE TABLE acme_accounts (
  tenant   TEXT NOT NULL,
  id       TEXT NOT NULL,
  print    TEXT NOT NULL, -- thumbprint of its key (RFC 7638)
  revision BIGINT NOT NULL, -- rises with every change
  body     BLOB NOT NULL, -- JSON
  mac      BLOB NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX acme_accounts_print ON acme_accounts (tenant, print);
CREATE TABLE acme_orders (
  tenant     TEXT NOT NULL,
  id         TEXT NOT NULL,
  account    TEXT NOT NULL, -- the ACME account
  serial     BLOB, -- of the certificate, once there is one
  kept_until BIGINT NOT NULL, -- the row goes after it
  revision   BIGINT NOT NULL, -- rises with every change
  body       BLOB NOT NULL, -- JSON: authorizations and challenges too
  mac        BLOB NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX acme_orders_account ON acme_orders (tenant, account);
CREATE INDEX acme_orders_serial ON acme_orders (serial);
CREATE INDEX acme_orders_kept ON acme_orders (kept_until);
-- Nonces are signed and not stored; one that was used is, until it ends.
CREATE TABLE acme_nonces (
  nonce      BLOB NOT NULL,
  expires_at BIGINT NOT NULL,
  PRIMARY KEY (nonce)
);
CREATE INDEX acme_nonces_expires ON acme_nonces (expires_at);
