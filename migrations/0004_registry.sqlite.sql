-- What a device may do after first boot, and how it is found: certificates that
-- the runtime knows, the CAs behind them, policies, groups, and the index.

-- Device certificates. The status is here and nowhere else; revocation comes on top.
CREATE TABLE device_certificates (
  tenant        TEXT NOT NULL,
  id            TEXT NOT NULL, -- lower-case hex of the SHA-256 of the DER
  der           BLOB NOT NULL, -- empty if we issued it: then it is in certificates
  ca            TEXT NOT NULL, -- id in registered_cas, or ""
  authority     TEXT NOT NULL, -- our own that issued it, or ""
  serial        BLOB NOT NULL, -- its serial number under that authority, else the octets of the id
  status        TEXT NOT NULL, -- PENDING_ACTIVATION, ACTIVE, INACTIVE, REVOKED, PENDING_TRANSFER
  how           TEXT NOT NULL, -- first-boot, jitp, jitr, claim, byoc, bulk, renewal, claim-cert
  holder        TEXT NOT NULL, -- the device that it identifies
  common_name   TEXT NOT NULL,
  not_before    BIGINT NOT NULL,
  not_after     BIGINT NOT NULL,
  transfer_to   TEXT NOT NULL, -- tenant, while PENDING_TRANSFER
  registered_at BIGINT NOT NULL,
  updated_at    BIGINT NOT NULL,
  version       BIGINT NOT NULL,
  mac           BLOB NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX device_certificates_id ON device_certificates (id);
CREATE UNIQUE INDEX device_certificates_serial ON device_certificates (authority, serial, tenant);
CREATE INDEX device_certificates_ca ON device_certificates (tenant, ca, id);
CREATE INDEX device_certificates_status ON device_certificates (tenant, status, id);

-- Which certificate acts for which thing.
CREATE TABLE thing_principals (
  tenant      TEXT NOT NULL,
  thing       TEXT NOT NULL, -- folded name
  certificate TEXT NOT NULL, -- id
  kind        TEXT NOT NULL, -- EXCLUSIVE_THING, NON_EXCLUSIVE_THING
  attached_at BIGINT NOT NULL,
  mac         BLOB NOT NULL,
  PRIMARY KEY (tenant, certificate, thing)
);
CREATE INDEX thing_principals_thing ON thing_principals (tenant, thing);

-- CAs whose certificates are let in. How they become things is in registrations,
-- under the authority's name or, of a CA that was brought along, under its id.
CREATE TABLE registered_cas (
  tenant        TEXT NOT NULL,
  id            TEXT NOT NULL, -- lower-case hex of the SHA-256 of the DER
  der           BLOB NOT NULL,
  subject       BLOB NOT NULL, -- SHA-256 of the subject
  authority     TEXT NOT NULL, -- our own, or ""
  status        TEXT NOT NULL, -- ACTIVE, INACTIVE
  mode          TEXT NOT NULL, -- DEFAULT, SNI_ONLY
  auto          INTEGER NOT NULL, -- 1: unknown certificates are registered at the door
  proven        INTEGER NOT NULL, -- 1: the tenant has the CA's key (S23)
  registered_at BIGINT NOT NULL,
  updated_at    BIGINT NOT NULL,
  version       BIGINT NOT NULL,
  mac           BLOB NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX registered_cas_id ON registered_cas (id);
CREATE INDEX registered_cas_subject ON registered_cas (subject);

-- Device policies: a head, up to five versions, and what they are attached to.
CREATE TABLE policies (
  tenant          TEXT NOT NULL,
  folded          TEXT NOT NULL,
  name            TEXT NOT NULL,
  default_version INTEGER NOT NULL,
  latest_version  INTEGER NOT NULL,
  created_at      BIGINT NOT NULL,
  updated_at      BIGINT NOT NULL,
  version         BIGINT NOT NULL, -- of the row
  mac             BLOB NOT NULL,
  PRIMARY KEY (tenant, folded)
);

CREATE TABLE policy_versions (
  tenant     TEXT NOT NULL,
  policy     TEXT NOT NULL, -- folded name
  number     INTEGER NOT NULL,
  document   TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  mac        BLOB NOT NULL,
  PRIMARY KEY (tenant, policy, number)
);

CREATE TABLE policy_attachments (
  tenant      TEXT NOT NULL,
  target      TEXT NOT NULL, -- cert/ID or thinggroup/FOLDED
  policy      TEXT NOT NULL, -- folded name
  attached_at BIGINT NOT NULL,
  mac         BLOB NOT NULL,
  PRIMARY KEY (tenant, target, policy)
);
CREATE INDEX policy_attachments_policy ON policy_attachments (tenant, policy, target);

-- Groups of things. Members of a static one are named by the things, those of a
-- dynamic one are in the index.
CREATE TABLE thing_groups (
  tenant      TEXT NOT NULL,
  class       TEXT NOT NULL, -- thing, billing
  folded      TEXT NOT NULL,
  name        TEXT NOT NULL,
  parent      TEXT NOT NULL, -- folded name, or ""
  depth       INTEGER NOT NULL,
  query       TEXT NOT NULL, -- of a dynamic group, else ""
  description TEXT NOT NULL,
  attributes  TEXT NOT NULL, -- JSON object
  tags        TEXT NOT NULL, -- JSON object
  created_at  BIGINT NOT NULL,
  updated_at  BIGINT NOT NULL,
  version     BIGINT NOT NULL,
  mac         BLOB NOT NULL, -- over all but the progress
  status      TEXT NOT NULL, -- ACTIVE, BUILDING
  progress    TEXT NOT NULL, -- folded name of the thing up to which a dynamic group was built
  PRIMARY KEY (tenant, class, folded)
);
CREATE INDEX thing_groups_parent ON thing_groups (tenant, parent, folded);
CREATE INDEX thing_groups_dynamic ON thing_groups (tenant) WHERE query <> '';
CREATE INDEX thing_groups_building ON thing_groups (status) WHERE status <> 'ACTIVE';

CREATE TABLE thing_types (
  tenant        TEXT NOT NULL,
  folded        TEXT NOT NULL,
  name          TEXT NOT NULL,
  description   TEXT NOT NULL,
  attributes    TEXT NOT NULL, -- JSON list of names
  tags          TEXT NOT NULL, -- JSON object
  deprecated_at BIGINT NOT NULL,
  created_at    BIGINT NOT NULL,
  updated_at    BIGINT NOT NULL,
  version       BIGINT NOT NULL,
  mac           BLOB NOT NULL,
  PRIMARY KEY (tenant, folded)
);

-- What things are found by, a row for each value. It is derived: from things and
-- certificates in the same transaction, and from what other domains bring.
CREATE TABLE thing_index (
  tenant TEXT NOT NULL,
  thing  TEXT NOT NULL, -- folded name
  field  TEXT NOT NULL,
  text   TEXT NOT NULL, -- folded and cut
  number REAL,          -- if the value is one
  PRIMARY KEY (tenant, field, text, thing) -- so that the things of a value are together and in order
) WITHOUT ROWID;
CREATE INDEX thing_index_thing ON thing_index (tenant, thing, field, text, number);
CREATE INDEX thing_index_number ON thing_index (tenant, field, number, thing) WHERE number IS NOT NULL;

-- What other nodes have to look at anew. Rows are dropped after a while; only
-- PostgreSQL has several nodes.
CREATE TABLE registry_events (
  id          INTEGER PRIMARY KEY,
  tenant      TEXT NOT NULL,
  certificate TEXT NOT NULL, -- id, or ""
  thing       TEXT NOT NULL  -- folded name, or ""
);
