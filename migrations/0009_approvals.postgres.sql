-- Changes that somebody asked for and somebody else has to approve.

-- Documents that wait for a second person. What was asked for never changes; what
-- became of it does.
CREATE TABLE approval_requests (
  tenant   TEXT COLLATE "C" NOT NULL,
  id       TEXT COLLATE "C" NOT NULL, -- rises with time
  hash     TEXT COLLATE "C" NOT NULL, -- of the documents
  state    TEXT COLLATE "C" NOT NULL, -- open, approved, rejected, expired, superseded
  body     BYTEA NOT NULL, -- JSON, the documents, who asked for them, when, until when
  decision BYTEA NOT NULL, -- JSON, who decided, when, and what they saw
  version  BIGINT NOT NULL,
  mac      BYTEA NOT NULL,
  PRIMARY KEY (tenant, id)
);

-- Asking for the same again finds what there is.
CREATE UNIQUE INDEX approval_requests_open ON approval_requests (tenant, hash) WHERE state = 'open';
