-- Campaigns: changes that many devices get in stages.

CREATE TABLE campaigns (
  tenant     TEXT NOT NULL,
  id         TEXT NOT NULL,
  state      TEXT NOT NULL, -- awaiting-approval, scheduled, running, paused, stopped, rolling-back, canceled, completed
  active     INTEGER NOT NULL, -- 1 while the loop has something to do for it
  spec       BLOB NOT NULL, -- JSON: kind, targets, stages, rules
  progress   BLOB NOT NULL, -- JSON: where it stands, reasons, times, who works at it
  created_by TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  version    BIGINT NOT NULL,
  mac        BLOB NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX campaigns_active ON campaigns (tenant, id) WHERE active = 1;

-- How many members of which stage are in which state.
CREATE TABLE campaign_counts (
  tenant   TEXT NOT NULL,
  campaign TEXT NOT NULL,
  stage    INTEGER NOT NULL, -- -1: of none yet
  state    TEXT NOT NULL,
  members  BIGINT NOT NULL,
  PRIMARY KEY (tenant, campaign, stage, state)
);

-- The devices of a campaign.
CREATE TABLE campaign_members (
  tenant     TEXT NOT NULL,
  campaign   TEXT NOT NULL,
  thing      TEXT NOT NULL, -- folded name
  name       TEXT NOT NULL, -- as it is written
  stage      INTEGER NOT NULL, -- -1: of none yet
  place      BIGINT NOT NULL, -- in the order in which stages draw; those of the canary are negative
  state      TEXT NOT NULL,
  since      BIGINT NOT NULL, -- in this state
  not_before BIGINT NOT NULL, -- its own time: jitter and maintenance window
  offered    BIGINT NOT NULL,
  began      BIGINT NOT NULL,
  attempt    BIGINT NOT NULL,
  was        TEXT NOT NULL, -- what the change replaces
  became     TEXT NOT NULL, -- what the device has now
  code       TEXT NOT NULL,
  detail     TEXT NOT NULL,
  steps      BIGINT NOT NULL, -- that campaign_steps has of it
  version    BIGINT NOT NULL,
  mac        BLOB NOT NULL, -- over the columns above
  next_at    BIGINT NOT NULL, -- when the loop looks at it; 0: never. A hint: what is due is decided by the columns above
  PRIMARY KEY (tenant, campaign, thing)
);
CREATE INDEX campaign_members_due ON campaign_members (tenant, campaign, state, next_at) WHERE next_at > 0;
CREATE INDEX campaign_members_state ON campaign_members (tenant, campaign, state, thing);
CREATE INDEX campaign_members_undrawn ON campaign_members (tenant, campaign, place) WHERE stage = -1 AND state = 'waiting';

-- What became of each device, step by step.
CREATE TABLE campaign_steps (
  tenant   TEXT NOT NULL,
  thing    TEXT NOT NULL, -- folded name
  at       BIGINT NOT NULL,
  campaign TEXT NOT NULL,
  number   BIGINT NOT NULL, -- from 1, for each device in a campaign
  name     TEXT NOT NULL,
  stage    INTEGER NOT NULL,
  state    TEXT NOT NULL,
  attempt  BIGINT NOT NULL,
  was      TEXT NOT NULL,
  became   TEXT NOT NULL,
  code     TEXT NOT NULL,
  detail   TEXT NOT NULL,
  mac      BLOB NOT NULL,
  PRIMARY KEY (tenant, thing, at, campaign, number)
);
