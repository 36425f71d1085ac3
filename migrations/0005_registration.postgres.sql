-- How devices register themselves: templates of fleet provisioning, what claim
-- certificates and registered CAs may make, and what they made.

-- A template that devices may provision themselves with, and who is asked.
CREATE TABLE fleet_templates (
  tenant     TEXT COLLATE "C" NOT NULL,
  name       TEXT COLLATE "C" NOT NULL, -- of a template of the kind fleet
  hook       TEXT COLLATE "C" NOT NULL, -- "" for none
  issuer     TEXT COLLATE "C" NOT NULL, -- authority of the certificates, "" for the active one
  take_over  INTEGER NOT NULL, -- 1: a thing with a live device may go to another, if the hook allows it
  enabled    INTEGER NOT NULL,
  updated_at BIGINT NOT NULL,
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);

-- What one claim certificate, or one registered CA at the door, may make (S17).
CREATE TABLE registration_budgets (
  tenant      TEXT COLLATE "C" NOT NULL,
  name        TEXT COLLATE "C" NOT NULL, -- claim/CERTIFICATE or ca/CA
  template    TEXT COLLATE "C" NOT NULL, -- that a claim is for
  most        BIGINT NOT NULL, -- in all
  per_minute  BIGINT NOT NULL,
  outstanding BIGINT NOT NULL, -- made and not claimed, at a time
  expires_at  BIGINT NOT NULL, -- 0 for no end
  created_by  TEXT COLLATE "C" NOT NULL,
  created_at  BIGINT NOT NULL,
  used        BIGINT NOT NULL,
  window_at   BIGINT NOT NULL, -- start of the minute that window_used counts
  window_used BIGINT NOT NULL,
  networks    TEXT NOT NULL, -- prefixes from which a claim may be used; none means everywhere
  version     BIGINT NOT NULL,
  mac         BYTEA NOT NULL,
  PRIMARY KEY (tenant, name)
);

-- A certificate that was made for a claim. A row stays: what it was claimed with
-- answers a repeat.
CREATE TABLE registration_grants (
  tenant      TEXT COLLATE "C" NOT NULL,
  holder      TEXT COLLATE "C" NOT NULL, -- made from the public key
  budget      TEXT COLLATE "C" NOT NULL,
  certificate TEXT COLLATE "C" NOT NULL, -- id, "" until it was issued
  state       TEXT COLLATE "C" NOT NULL, -- reserved, pending, claimed, void
  origin      TEXT COLLATE "C" NOT NULL, -- of the key
  created_at  BIGINT NOT NULL,
  expires_at  BIGINT NOT NULL,
  request     TEXT COLLATE "C" NOT NULL, -- hash of what it was claimed with
  result      TEXT COLLATE "C" NOT NULL, -- JSON, the answer
  version     BIGINT NOT NULL,
  mac         BYTEA NOT NULL,
  PRIMARY KEY (tenant, holder)
);
CREATE INDEX registration_grants_certificate ON registration_grants (tenant, certificate) WHERE certificate <> '';
CREATE INDEX registration_grants_open ON registration_grants (tenant, budget) WHERE state IN ('reserved', 'pending');
CREATE INDEX registration_grants_due ON registration_grants (expires_at) WHERE state IN ('reserved', 'pending');

-- When the event of a parked certificate was last published (S41).
CREATE TABLE registration_events (
  tenant      TEXT COLLATE "C" NOT NULL,
  certificate TEXT COLLATE "C" NOT NULL,
  sent_at     BIGINT NOT NULL,
  mac         BYTEA NOT NULL,
  PRIMARY KEY (tenant, certificate)
);
