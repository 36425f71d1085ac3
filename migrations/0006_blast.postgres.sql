-- Revoking in bulk, and devices that slept past the end of their certificates.

-- What one station asked for, in time: the question of an incident. Only units of
-- orders: their rows come in the order of time, and a look-up by holder cannot take
-- this index for its own.
CREATE INDEX reservations_requester ON reservations (requester, reserved_at) WHERE account <> '';

-- A plan to revoke many certificates. What it is about never changes; how far it
-- came does.
CREATE TABLE blast_plans (
  tenant     TEXT COLLATE "C" NOT NULL,
  id         TEXT COLLATE "C" NOT NULL,
  body       BYTEA NOT NULL, -- JSON, what was planned, with the hash of the members
  progress   BYTEA NOT NULL, -- JSON, approvals, stage, position, counts
  state      TEXT COLLATE "C" NOT NULL, -- ready, running, paused, done, aborted
  version    BIGINT NOT NULL,
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX blast_plans_running ON blast_plans (state) WHERE state = 'running';

-- Its certificates, many in a row, in the order in which they were reserved.
CREATE TABLE blast_members (
  tenant  TEXT COLLATE "C" NOT NULL,
  plan    TEXT COLLATE "C" NOT NULL,
  first   BIGINT NOT NULL, -- index of the first one
  members BYTEA NOT NULL,   -- reservation, authority and serial number of each
  mac     BYTEA NOT NULL,
  PRIMARY KEY (tenant, plan, first)
);

-- Devices that came back with an expired certificate. A row stays: it is the
-- record of who was let in, and the numbers of a day are the budget.
CREATE TABLE dark_entries (
  tenant    TEXT COLLATE "C" NOT NULL,
  day       BIGINT NOT NULL, -- since 1970, UTC
  number    BIGINT NOT NULL, -- of the day, from 1
  holder    TEXT COLLATE "C" NOT NULL,   -- lower case
  authority TEXT COLLATE "C" NOT NULL,   -- of the expired certificate
  serial    BYTEA NOT NULL,
  spki      BYTEA NOT NULL,   -- SHA-256 of the new key
  policy    TEXT COLLATE "C" NOT NULL,   -- of the quarantine
  at        BIGINT NOT NULL,
  mac       BYTEA NOT NULL,
  PRIMARY KEY (tenant, day, number)
);
CREATE UNIQUE INDEX dark_entries_key ON dark_entries (tenant, holder, serial, spki);
