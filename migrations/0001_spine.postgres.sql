-- The spine: keys' stories, orders, stations, devices, lists, log.
-- Append-only where it can be: reservations, certificates, revocations and leaves are inserted, never changed.

-- Named people and scripts; tokens are stored hashed, the row carries a MAC (S32, S36).
CREATE TABLE principals (
  tenant      TEXT COLLATE "C" NOT NULL,
  name        TEXT COLLATE "C" NOT NULL,
  role        TEXT COLLATE "C" NOT NULL,
  token_hash  BYTEA NOT NULL UNIQUE,
  created_at  BIGINT NOT NULL,
  expires_at  BIGINT NOT NULL,
  disabled_at BIGINT NOT NULL DEFAULT 0,
  mac         BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);

-- Certification authorities: a pending one has a CSR, an active one a certificate.
CREATE TABLE authorities (
  name        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  tenant      TEXT COLLATE "C" NOT NULL,
  duty        TEXT COLLATE "C" NOT NULL, -- root, device, infrastructure
  state       TEXT COLLATE "C" NOT NULL, -- pending, active, closed
  key_uri     TEXT COLLATE "C" NOT NULL, -- "" for a root, whose key is never here
  csr         BYTEA,
  certificate BYTEA,          -- DER
  base_url    TEXT COLLATE "C" NOT NULL, -- of CDP and AIA, frozen (S3)
  shards      INTEGER NOT NULL DEFAULT 1,
  issue_until BIGINT NOT NULL DEFAULT 0, -- S2
  created_at  BIGINT NOT NULL,
  mac         BYTEA NOT NULL
);

-- Production orders. What was approved is in the envelope, whose signature counts, not the columns.
CREATE TABLE orders (
  tenant     TEXT COLLATE "C" NOT NULL,
  id         TEXT COLLATE "C" NOT NULL,
  product    TEXT COLLATE "C" NOT NULL,
  state      TEXT COLLATE "C" NOT NULL, -- draft, approved, open, closed
  used       BIGINT NOT NULL DEFAULT 0, -- identities that took a unit of the quota
  body       BYTEA NOT NULL, -- canonical JSON (RFC 8785)
  envelope   BYTEA NOT NULL, -- DSSE envelope with the approvers' signatures; empty for a draft
  created_by TEXT COLLATE "C" NOT NULL,
  created_at BIGINT NOT NULL,
  changed_at BIGINT NOT NULL,
  mac        BYTEA NOT NULL, -- over everything but the counter
  PRIMARY KEY (tenant, id)
);

-- Enrolled stations.
CREATE TABLE stations (
  tenant      TEXT COLLATE "C" NOT NULL,
  id          TEXT COLLATE "C" NOT NULL,
  site        TEXT COLLATE "C" NOT NULL,
  state       TEXT COLLATE "C" NOT NULL, -- active, revoked
  spki        BYTEA NOT NULL, -- SHA-256 of the key it enrolled with
  enrolled_at BIGINT NOT NULL,
  mac         BYTEA NOT NULL,
  PRIMARY KEY (tenant, id)
);

-- One-time enrolment codes of stations (S14).
CREATE TABLE station_codes (
  hash        BYTEA NOT NULL PRIMARY KEY, -- SHA-256 of the code
  tenant      TEXT COLLATE "C" NOT NULL,
  station     TEXT COLLATE "C" NOT NULL,
  site        TEXT COLLATE "C" NOT NULL,
  created_by  TEXT COLLATE "C" NOT NULL,
  expires_at  BIGINT NOT NULL,
  attempts    INTEGER NOT NULL DEFAULT 0,
  spki        BYTEA, -- of whoever redeemed it
  redeemed_at BIGINT NOT NULL DEFAULT 0,
  mac         BYTEA NOT NULL
);

-- What a certificate is for: at most one live certificate each (S10).
CREATE TABLE identities (
  tenant       TEXT COLLATE "C" NOT NULL,
  holder       TEXT COLLATE "C" NOT NULL, -- lower case: SN1 and sn1 are one identity
  profile      TEXT COLLATE "C" NOT NULL,
  slot         TEXT COLLATE "C" NOT NULL,
  shown        TEXT COLLATE "C" NOT NULL, -- as first written
  account      TEXT COLLATE "C" NOT NULL,
  station      TEXT COLLATE "C" NOT NULL,
  reservation  BIGINT NOT NULL,
  state        TEXT COLLATE "C" NOT NULL, -- reserved, installed, void (abandoned: its unit went back to the order)
  rekeys       INTEGER NOT NULL DEFAULT 0,
  installed_at BIGINT NOT NULL DEFAULT 0,
  evidence     BYTEA, -- the device's signature over nonce, unit and certificate hash (S12)
  mac          BYTEA, -- of an installed one
  PRIMARY KEY (tenant, holder, profile, slot)
);
CREATE INDEX identities_account ON identities (account, tenant, state); -- the tenant is not first, or PostgreSQL takes it for a look-up by holder while the table is empty

-- One public key belongs to one holder.
CREATE TABLE public_keys (
  spki   BYTEA NOT NULL PRIMARY KEY, -- SHA-256 of subjectPublicKeyInfo
  tenant TEXT COLLATE "C" NOT NULL,
  holder TEXT COLLATE "C" NOT NULL,
  state  TEXT COLLATE "C" NOT NULL -- bound, compromised
);

-- Every serial number a CA key might have signed, and what the certificate says.
CREATE TABLE reservations (
  id          BIGSERIAL PRIMARY KEY,
  authority   TEXT COLLATE "C" NOT NULL,
  serial      BYTEA NOT NULL UNIQUE,
  tenant      TEXT COLLATE "C" NOT NULL,
  account     TEXT COLLATE "C" NOT NULL,
  profile     TEXT COLLATE "C" NOT NULL,
  version     INTEGER NOT NULL, -- of the profile
  holder      TEXT COLLATE "C" NOT NULL,
  slot        TEXT COLLATE "C" NOT NULL,
  spki        BYTEA NOT NULL,
  tbs         BYTEA NOT NULL,
  shard       INTEGER NOT NULL,
  not_before  BIGINT NOT NULL,
  not_after   BIGINT NOT NULL,
  requester   TEXT COLLATE "C" NOT NULL,
  operator    TEXT COLLATE "C" NOT NULL,
  tool        TEXT COLLATE "C" NOT NULL,
  origin      TEXT COLLATE "C" NOT NULL,
  reserved_at BIGINT NOT NULL,
  mac         BYTEA NOT NULL -- over the row: of a reservation without a certificate nothing else tells
);

CREATE INDEX reservations_holder ON reservations (tenant, holder);

-- Every certificate; with its reservation and its leaf it is the whole story of a serial number.
CREATE TABLE certificates (
  reservation BIGINT NOT NULL PRIMARY KEY,
  der         BYTEA NOT NULL,
  issued_at   BIGINT NOT NULL,
  leaf        BIGINT NOT NULL -- index in log_leaves
);

-- Permanent (S33): a row is never removed. A hold is reason 6 and may be released.
CREATE TABLE revocations (
  authority   TEXT COLLATE "C" NOT NULL,
  serial      BYTEA NOT NULL,
  tenant      TEXT COLLATE "C" NOT NULL,
  holder      TEXT COLLATE "C" NOT NULL,
  shard       INTEGER NOT NULL,
  reason      INTEGER NOT NULL, -- RFC 5280, Section 5.3.1
  revoked_at  BIGINT NOT NULL,
  revoked_by  TEXT COLLATE "C" NOT NULL,
  note        TEXT COLLATE "C" NOT NULL,
  not_after   BIGINT NOT NULL,
  released_at BIGINT NOT NULL DEFAULT 0,
  leaf        BIGINT NOT NULL,
  mac         BYTEA NOT NULL,
  PRIMARY KEY (authority, serial)
);
CREATE INDEX revocations_leaf ON revocations (leaf);
CREATE INDEX revocations_shard ON revocations (authority, shard);

-- Identities that get no certificate any more (S16).
CREATE TABLE blocks (
  tenant     TEXT COLLATE "C" NOT NULL,
  holder     TEXT COLLATE "C" NOT NULL,
  blocked_at BIGINT NOT NULL,
  blocked_by TEXT COLLATE "C" NOT NULL,
  note       TEXT COLLATE "C" NOT NULL,
  leaf       BIGINT NOT NULL,
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, holder)
);
CREATE INDEX blocks_leaf ON blocks (leaf);

-- The transparency log. The head is moved by the last statement of a commit, so indexes have no holes.
CREATE TABLE log_head (
  id   INTEGER NOT NULL PRIMARY KEY,
  size BIGINT NOT NULL
);
INSERT INTO log_head (id, size) VALUES (1, 0);

CREATE TABLE log_leaves (
  idx     BIGINT PRIMARY KEY,
  type    TEXT COLLATE "C" NOT NULL, -- issue, revoke, hold, release, void, block
  tenant  TEXT COLLATE "C" NOT NULL,
  account TEXT COLLATE "C" NOT NULL,
  holder  TEXT COLLATE "C" NOT NULL,
  subject BYTEA NOT NULL, -- SHA-256 of the certificate, or of what is revoked
  salt    BYTEA NOT NULL, -- keyed: it binds serial and at to the entry
  entry   BYTEA NOT NULL, -- H(salt, the above)
  serial  BYTEA NOT NULL,
  at      BIGINT NOT NULL -- milliseconds, as in the row that the leaf is about
);
CREATE INDEX log_leaves_account ON log_leaves (tenant, account, type);
-- What is not issuance is rare and read at every start.
CREATE INDEX log_leaves_status ON log_leaves (type, idx) WHERE type <> 'issue';

CREATE TABLE log_tiles (
  level  INTEGER NOT NULL,
  idx    BIGINT NOT NULL,
  hashes BYTEA NOT NULL,
  PRIMARY KEY (level, idx)
);

CREATE TABLE log_checkpoint (
  id   INTEGER NOT NULL PRIMARY KEY,
  size BIGINT NOT NULL,
  root BYTEA NOT NULL,
  note BYTEA NOT NULL
);

-- What each small table holds, sealed: number, keyed sum and names of its rows,
-- so that a row that was deleted or brought back leaves a trace (S32).
CREATE TABLE seals (
  name  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  state BYTEA NOT NULL
);

-- The latest time at which the database was written; a clock before it is wrong (A74).
CREATE TABLE clock_high (
  id  INTEGER NOT NULL PRIMARY KEY,
  at  BIGINT NOT NULL,
  mac BYTEA NOT NULL
);

-- The newest list of each authority and shard; the number never falls.
CREATE TABLE crls (
  authority   TEXT COLLATE "C" NOT NULL,
  shard       INTEGER NOT NULL,
  number      BIGINT NOT NULL,
  this_update BIGINT NOT NULL,
  next_update BIGINT NOT NULL,
  leaf        BIGINT NOT NULL, -- size of the log that it covers
  der         BYTEA NOT NULL,
  mac         BYTEA NOT NULL, -- over the row without the list, which is signed
  PRIMARY KEY (authority, shard)
);

-- Devices after first boot.
CREATE TABLE things (
  tenant        TEXT COLLATE "C" NOT NULL,
  name          TEXT COLLATE "C" NOT NULL,
  folded        TEXT COLLATE "C" NOT NULL, -- lower case; two things that differ only in case are refused (S22)
  holder        TEXT COLLATE "C" NOT NULL, -- the identity that it was registered from
  type          TEXT COLLATE "C" NOT NULL,
  groups        TEXT COLLATE "C" NOT NULL, -- JSON list of names
  billing_group TEXT COLLATE "C" NOT NULL,
  policy        TEXT COLLATE "C" NOT NULL, -- JSON list of names
  configuration TEXT COLLATE "C" NOT NULL, -- JSON object, as answered at first boot
  registered_by TEXT COLLATE "C" NOT NULL, -- authority of the birth certificate
  created_at    BIGINT NOT NULL,
  updated_at    BIGINT NOT NULL,
  version       BIGINT NOT NULL DEFAULT 1,
  mac           BYTEA NOT NULL, -- over the row and its attributes
  PRIMARY KEY (tenant, folded)
);
CREATE INDEX things_holder ON things (tenant, holder);

CREATE TABLE thing_attributes (
  tenant TEXT COLLATE "C" NOT NULL,
  thing  TEXT COLLATE "C" NOT NULL, -- folded name
  key    TEXT COLLATE "C" NOT NULL,
  value  TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant, thing, key)
);
CREATE INDEX thing_attributes_search ON thing_attributes (tenant, key, value);

-- How the certificates of an authority are registered at first boot.
CREATE TABLE registrations (
  authority  TEXT COLLATE "C" NOT NULL, -- of ours, or the id of a registered CA
  tenant     TEXT COLLATE "C" NOT NULL,
  template   TEXT COLLATE "C" NOT NULL, -- name in templates
  hook       TEXT COLLATE "C" NOT NULL, -- name in hooks, or ""
  take_over  INTEGER NOT NULL, -- 1: a thing may change its device, if the hook allows it too (S22)
  enabled    INTEGER NOT NULL,
  updated_at BIGINT NOT NULL,
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, authority)
);

CREATE TABLE templates (
  tenant     TEXT COLLATE "C" NOT NULL,
  name       TEXT COLLATE "C" NOT NULL,
  kind       TEXT COLLATE "C" NOT NULL,
  body       BYTEA NOT NULL,
  updated_at BIGINT NOT NULL,
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);

CREATE TABLE hooks (
  tenant     TEXT COLLATE "C" NOT NULL,
  name       TEXT COLLATE "C" NOT NULL,
  url        TEXT COLLATE "C" NOT NULL,
  allow      TEXT COLLATE "C" NOT NULL, -- JSON list of address prefixes; empty refuses every address (A58)
  secrets    BYTEA NOT NULL, -- sealed (S39)
  roots      BYTEA, -- PEM of the roots that the hook's TLS certificate is checked with; none means the system's
  updated_at BIGINT NOT NULL,
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);
