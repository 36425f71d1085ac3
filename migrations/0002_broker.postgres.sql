-- What the message broker keeps of persistent sessions and retained messages, so that a crash loses nothing that was acknowledged.
-- Rows come and go at the rate of messages. They carry no MAC: what a device may hear is decided again at each delivery.

-- MQTT sessions that outlive their connection.
CREATE TABLE broker_sessions (
  tenant      TEXT COLLATE "C" NOT NULL,
  client      TEXT COLLATE "C" NOT NULL,
  thing       TEXT COLLATE "C" NOT NULL,
  certificate TEXT COLLATE "C" NOT NULL,    -- hex of the SHA-256, of the last connection
  version     INTEGER NOT NULL, -- of MQTT: 4 or 5
  expiry      BIGINT NOT NULL,  -- seconds after a disconnect
  connected   INTEGER NOT NULL, -- 1 while no disconnect was written
  ends_at     BIGINT NOT NULL,  -- 0 while connected
  sent_up_to  BIGINT NOT NULL,  -- newest position that was sent at least once
  will        BYTEA NOT NULL,    -- JSON; empty = none
  will_at     BIGINT NOT NULL,
  node        TEXT NOT NULL DEFAULT '', -- of the service that has it; empty without a cluster
  PRIMARY KEY (tenant, client)
);

CREATE TABLE broker_subscriptions (
  tenant       TEXT COLLATE "C" NOT NULL,
  client       TEXT COLLATE "C" NOT NULL,
  filter       TEXT COLLATE "C" NOT NULL,    -- as sent, with $share/NAME/
  options      INTEGER NOT NULL, -- the octet of SUBSCRIBE: QoS, no local, retain as published, retain handling
  subscription BIGINT NOT NULL,  -- identifier; 0 = none
  PRIMARY KEY (tenant, client, filter)
);

-- Services that share these tables. Who cannot count its beat up any more is fenced: its sessions are another's.
CREATE TABLE broker_nodes (
  node TEXT NOT NULL PRIMARY KEY, -- one life of a service
  name TEXT NOT NULL,             -- the same after a restart
  beat BIGINT NOT NULL            -- -1 = stopped in order
);

-- Identifiers of QoS 2 messages between PUBLISH and PUBREL.
CREATE TABLE broker_received (
  tenant TEXT COLLATE "C" NOT NULL,
  client TEXT COLLATE "C" NOT NULL,
  packet INTEGER NOT NULL,
  PRIMARY KEY (tenant, client, packet)
);

-- Messages that wait for a session. The position is their order, and their packet identifier follows from it.
CREATE TABLE broker_queue (
  tenant      TEXT COLLATE "C" NOT NULL,
  client      TEXT COLLATE "C" NOT NULL,
  position    BIGINT NOT NULL,
  publisher   TEXT COLLATE "C" NOT NULL,
  topic       TEXT COLLATE "C" NOT NULL,
  qos         INTEGER NOT NULL, -- with which it is delivered
  flags       INTEGER NOT NULL, -- 1 retain, 2 released (QoS 2), and the QoS of the publisher times 4
  ids         BYTEA NOT NULL,    -- subscription identifiers, as variable byte integers
  expires_at  BIGINT NOT NULL,  -- 0 = never
  size        BIGINT NOT NULL,
  body        BIGINT NOT NULL,  -- broker_bodies.id; 0 = properties and payload are here
  properties  BYTEA NOT NULL,
  payload     BYTEA NOT NULL,
  PRIMARY KEY (tenant, client, position)
);
CREATE INDEX broker_queue_body ON broker_queue (body) WHERE body <> 0;

-- Large payloads that wait for several sessions, once.
CREATE TABLE broker_bodies (
  id         BIGINT NOT NULL PRIMARY KEY,
  properties BYTEA NOT NULL,
  payload    BYTEA NOT NULL
);

CREATE TABLE broker_retained (
  tenant      TEXT COLLATE "C" NOT NULL,
  topic       TEXT COLLATE "C" NOT NULL,
  thing       TEXT COLLATE "C" NOT NULL, -- who left it: revocation takes it away
  certificate TEXT COLLATE "C" NOT NULL,
  publisher   TEXT COLLATE "C" NOT NULL,
  qos         INTEGER NOT NULL,
  stored_at   BIGINT NOT NULL,
  expires_at  BIGINT NOT NULL,
  properties  BYTEA NOT NULL,
  payload     BYTEA NOT NULL,
  PRIMARY KEY (tenant, topic)
);
