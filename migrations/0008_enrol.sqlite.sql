-- One-time passwords with which a unit enrols for one certificate profile (A37).
-- The password itself is nowhere: it is made from the id and the key outside the
-- database (S39).
CREATE TABLE enrol_passwords (
  tenant     TEXT NOT NULL,
  id         TEXT NOT NULL, -- public; the reference value of protocols that have one
  unit       TEXT NOT NULL,
  profile    TEXT NOT NULL,
  account    TEXT NOT NULL, -- the order that a birth certificate counts on, "" for others
  hash       BLOB NOT NULL, -- SHA-256 of the password
  created_by TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  attempts   INTEGER NOT NULL, -- with it, for somebody or something else
  spki       BLOB, -- hash of the key that it was used for; no other key after it
  used_at    BIGINT NOT NULL, -- 0: not yet
  mac        BLOB NOT NULL,
  PRIMARY KEY (id)
);
CREATE UNIQUE INDEX enrol_passwords_hash ON enrol_passwords (hash);
