-- Campaigns: changes that many devices get in stages.

CREATE TABLE campaigns (
  tenant     TEXT COLLATE "C" NOT NULL,
  id         TEXT COLLATE "C" NOT NULL,
  state      TEXT COLLATE "C" NOT NULL, -- awaiting-approval, scheduled, running, paused, stopped, rolling-back, canceled, completed
  active     INTEGER NOT NULL, -- 1 while the loop has something to do for it
  spec       BYTEA NOT NULL, -- JSON: kind, targets, stages, rules
  progress   BYTEA NOT NULL, -- JSON: where it stands, reasons, times, who works at it
  created_by TEXT COLLATE "C" NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  version    BIGINT NOT NULL,
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX campaigns_active ON campaigns (tenant, id) WHERE active = 1;

-- How many members of which stage are in which state.
CREATE TABLE campaign_counts (
  tenant   TEXT COLLATE "C" NOT NULL,
  campaign TEXT COLLATE "C" NOT NULL,
  stage    INTEGER NOT NULL, -- -1: of none yet
  state    TEXT COLLATE "C" NOT NULL,
  members  BIGINT NOT NULL,
  PRIMARY KEY (tenant, campaign, stage, state)
);

-- The devices of a campaign.
CREATE TABLE campaign_members (
  tenant     TEXT COLLATE "C" NOT NULL,
  campaign   TEXT COLLATE "C" NOT NULL,
  thing      TEXT COLLATE "C" NOT NULL, -- folded name
  name       TEXT COLLATE "C" NOT NULL, -- as it is written
  stage      INTEGER NOT NULL, -- -1: of none yet
  place      BIGINT NOT NULL, -- in the order in which stages draw; those of the canary are negative
  state      TEXT COLLATE "C" NOT NULL,
  since      BIGINT NOT NULL, -- in this state
  not_before BIGINT NOT NULL, -- its own time: jitter and maintenance window
  offered    BIGINT NOT NULL,
  began      BIGINT NOT NULL,
  attempt    BIGINT NOT NULL,
  was        TEXT COLLATE "C" NOT NULL, -- what the change replaces
  became     TEXT COLLATE "C" NOT NULL, -- what the device has now
  code       TEXT COLLATE "C" NOT NULL,
  detail     TEXT COLLATE "C" NOT NULL,
  steps      BIGINT NOT NULL, -- that campaign_steps has of it
  version    BIGINT NOT NULL,
  mac        BYTEA NOT NULL, -- over the columns above
  next_at    BIGINT NOT NULL, -- when the loop looks at it; 0: never. A hint: what is due is decided by the columns above
  PRIMARY KEY (tenant, campaign, thing)
);
CREATE INDEX campaign_members_due ON campaign_members (tenant, campaign, state, next_at) WHERE next_at > 0;
CREATE INDEX campaign_members_state ON campaign_members (tenant, campaign, state, thing);
CREATE INDEX campaign_members_undrawn ON campaign_members (tenant, campaign, place) WHERE stage = -1 AND state = 'waiting';

-- What became of each device, step by step.
CREATE TABLE campaign_steps (
  tenant   TEXT COLLATE "C" NOT NULL,
  thing    TEXT COLLATE "C" NOT NULL, -- folded name
  at       BIGINT NOT NULL,
  campaign TEXT COLLATE "C" NOT NULL,
  number   BIGINT NOT NULL, -- from 1, for each device in a campaign
  name     TEXT COLLATE "C" NOT NULL,
  stage    INTEGER NOT NULL,
  state    TEXT COLLATE "C" NOT NULL,
  attempt  BIGINT NOT NULL,
  was      TEXT COLLATE "C" NOT NULL,
  became   TEXT COLLATE "C" NOT NULL,
  code     TEXT COLLATE "C" NOT NULL,
  detail   TEXT COLLATE "C" NOT NULL,
  mac      BYTEA NOT NULL,
  PRIMARY KEY (tenant, thing, at, campaign, number)
);
