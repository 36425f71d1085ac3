-- What devices do after first boot: shadows and jobs.
-- A deleted shadow keeps its row and its version; of jobs, what was attempted stays until the job is deleted.

-- One document for each thing and shadow name; the thing need not be registered.
CREATE TABLE shadows (
  tenant     TEXT COLLATE "C" NOT NULL,
  thing      TEXT COLLATE "C" NOT NULL, -- as in the topic: case counts
  name       TEXT COLLATE "C" NOT NULL, -- "" is the classic shadow
  version    BIGINT NOT NULL, -- rises with every update, over deletions too
  deleted    INTEGER NOT NULL, -- 1: only the version is left
  document   BYTEA NOT NULL, -- JSON: desired, reported and the metadata of both
  updated_at BIGINT NOT NULL,
  mac        BYTEA NOT NULL,
  PRIMARY KEY (tenant, thing, name)
);

-- Jobs: what they are (spec), how far they came (progress), and how many executions are in which state.
CREATE TABLE jobs (
  tenant      TEXT COLLATE "C" NOT NULL,
  id          TEXT COLLATE "C" NOT NULL,
  status      TEXT COLLATE "C" NOT NULL, -- SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED, DELETION_IN_PROGRESS
  active      INTEGER NOT NULL, -- 1 while the roll-out loop has something to do for it
  spec        BYTEA NOT NULL, -- JSON: targets, document, rules
  progress    BYTEA NOT NULL, -- JSON: where the roll-out stands, reasons, times
  created_at  BIGINT NOT NULL,
  updated_at  BIGINT NOT NULL,
  version     BIGINT NOT NULL, -- rises with every change of the row but the counters
  mac         BYTEA NOT NULL, -- over the columns above
  waiting     BIGINT NOT NULL DEFAULT 0, -- known, not rolled out yet
  queued      BIGINT NOT NULL DEFAULT 0,
  in_progress BIGINT NOT NULL DEFAULT 0,
  succeeded   BIGINT NOT NULL DEFAULT 0,
  failed      BIGINT NOT NULL DEFAULT 0,
  rejected    BIGINT NOT NULL DEFAULT 0,
  timed_out   BIGINT NOT NULL DEFAULT 0,
  canceled    BIGINT NOT NULL DEFAULT 0,
  removed     BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, id)
);
CREATE INDEX jobs_active ON jobs (tenant, id) WHERE active = 1;

-- One row for each attempt of a thing at a job; the newest is the one that counts.
CREATE TABLE job_executions (
  tenant      TEXT COLLATE "C" NOT NULL,
  job         TEXT COLLATE "C" NOT NULL,
  thing       TEXT COLLATE "C" NOT NULL, -- folded name
  number      BIGINT NOT NULL, -- of the attempt, from 1
  name        TEXT COLLATE "C" NOT NULL, -- of the thing, as it is written
  latest      INTEGER NOT NULL, -- 1: no later attempt
  status      TEXT COLLATE "C" NOT NULL, -- WAITING, QUEUED, IN_PROGRESS, SUCCEEDED, FAILED, REJECTED, TIMED_OUT, CANCELED, REMOVED
  rank        INTEGER NOT NULL, -- 0 in progress, 1 queued, 2 waiting, 3 finished: the order in which a device sees them
  details     TEXT COLLATE "C" NOT NULL, -- JSON object of texts
  forced      INTEGER NOT NULL, -- 1: cancelled while in progress
  failures    INTEGER NOT NULL, -- attempts before this one that failed
  timeouts    INTEGER NOT NULL, -- and that timed out
  queued_at   BIGINT NOT NULL,
  started_at  BIGINT NOT NULL,
  updated_at  BIGINT NOT NULL,
  version     BIGINT NOT NULL,
  until       BIGINT NOT NULL, -- end of the in-progress timer; 0: none
  step_until  BIGINT NOT NULL, -- end of the step timer
  due         BIGINT NOT NULL, -- the earlier of both
  mac         BYTEA NOT NULL,
  PRIMARY KEY (tenant, job, thing, number)
);
-- The next pending execution of a thing is the first entry.
CREATE INDEX job_executions_pending ON job_executions (tenant, thing, rank, queued_at, job) WHERE rank < 2;
CREATE INDEX job_executions_thing ON job_executions (tenant, thing, job, number);
CREATE INDEX job_executions_rank ON job_executions (tenant, job, rank, thing) WHERE latest = 1;
CREATE INDEX job_executions_due ON job_executions (due) WHERE due > 0;

-- The newest connection of each client identifier. What queries find of a thing is
-- made of its rows.
CREATE TABLE presence (
  tenant      TEXT COLLATE "C" NOT NULL,
  client      TEXT COLLATE "C" NOT NULL,
  thing       TEXT COLLATE "C" NOT NULL, -- folded name; empty for a client without a thing
  name        TEXT COLLATE "C" NOT NULL, -- of the thing, as it is written
  certificate TEXT COLLATE "C" NOT NULL,
  node        TEXT COLLATE "C" NOT NULL,
  session     TEXT COLLATE "C" NOT NULL,
  connected   INTEGER NOT NULL,
  at          BIGINT NOT NULL, -- of the last change
  reason      TEXT COLLATE "C" NOT NULL, -- why it is not connected
  mac         BYTEA NOT NULL,
  PRIMARY KEY (tenant, client)
);
CREATE INDEX presence_thing ON presence (tenant, thing);
CREATE INDEX presence_node ON presence (node) WHERE connected = 1;
