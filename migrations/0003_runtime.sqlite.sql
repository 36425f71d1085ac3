-- What devices do after first boot: shadows and jobs.
-- A deleted shadow keeps its row and its version; of jobs, what was attempted stays until the job is deleted.

-- One document for each thing and shadow name; the thing need not be registered.
CREATE TABLE shadows (
  tenant     TEXT NOT NULL,
  thing      TEXT NOT NULL, -- as in the topic: case counts
  name       TEXT NOT NULL, -- "" is the classic shadow
  version    BIGINT NOT NULL, -- rises with every update, over deletions too
  deleted    INTEGER NOT NULL, -- 1: only the version is left
  document   BLOB NOT NULL, -- JSON: desired, reported and the metadata of both
  updated_at BIGINT NOT NULL,
  mac        BLOB NOT NULL,
  PRIMARY KEY (tenant, thing, name)
) WITHOUT ROWID;

-- Jobs: what they are (spec), how far they came (progress), and how many executions are in which state.
CREATE TABLE jobs (
  tenant      TEXT NOT NULL,
  id          TEXT NOT NULL,
  status      TEXT NOT NULL, -- SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED, DELETION_IN_PROGRESS
  active      INTEGER NOT NULL, -- 1 while the roll-out loop has something to do for it
  spec        BLOB NOT NULL, -- JSON: targets, document, rules
  progress    BLOB NOT NULL, -- JSON: where the roll-out stands, reasons, times
  created_at  BIGINT NOT NULL,
  updated_at  BIGINT NOT NULL,
  version     BIGINT NOT NULL, -- rises with every change of the row but the counters
  mac         BLOB NOT NULL, -- over the columns above
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
  tenant      TEXT NOT NULL,
  job         TEXT NOT NULL,
  thing       TEXT NOT NULL, -- folded name
  number      BIGINT NOT NULL, -- of the attempt, from 1
  name        TEXT NOT NULL, -- of the thing, as it is written
  latest      INTEGER NOT NULL, -- 1: no later attempt
  status      TEXT NOT NULL, -- WAITING, QUEUED, IN_PROGRESS, SUCCEEDED, FAILED, REJECTED, TIMED_OUT, CANCELED, REMOVED
  rank        INTEGER NOT NULL, -- 0 in progress, 1 queued, 2 waiting, 3 finished: the order in which a device sees them
  details     TEXT NOT NULL, -- JSON object of texts
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
  mac         BLOB NOT NULL,
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
  tenant      TEXT NOT NULL,
  client      TEXT NOT NULL,
  thing       TEXT NOT NULL, -- folded name; empty for a client without a thing
  name        TEXT NOT NULL, -- of the thing, as it is written
  certificate TEXT NOT NULL,
  node        TEXT NOT NULL,
  session     TEXT NOT NULL,
  connected   INTEGER NOT NULL,
  at          BIGINT NOT NULL, -- of the last change
  reason      TEXT NOT NULL, -- why it is not connected
  mac         BLOB NOT NULL,
  PRIMARY KEY (tenant, client)
);
CREATE INDEX presence_thing ON presence (tenant, thing);
CREATE INDEX presence_node ON presence (node) WHERE connected = 1;
