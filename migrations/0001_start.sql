CREATE TABLE network (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  identity TEXT NOT NULL,
  range4 TEXT NOT NULL,
  range6 TEXT NOT NULL,
  next_host INTEGER NOT NULL CHECK (next_host >= 1),
  epoch INTEGER NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE machines (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  role TEXT NOT NULL CHECK (role IN ('node', 'client')),
  tags TEXT NOT NULL,
  identity TEXT NOT NULL UNIQUE,
  wireguard TEXT NOT NULL,
  host INTEGER NOT NULL UNIQUE,
  ipv4 TEXT NOT NULL UNIQUE,
  ipv6 TEXT NOT NULL UNIQUE,
  version TEXT NOT NULL,
  platform TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  last_seen_at INTEGER,
  revoked_at INTEGER
) STRICT;

-- A revoked machine gives its WireGuard key free; its name, its identity and its addresses never: others hold on to them.
CREATE UNIQUE INDEX machines_name ON machines (name);
CREATE UNIQUE INDEX machines_wireguard ON machines (wireguard) WHERE revoked_at IS NULL;

CREATE TABLE records (
  machine_id TEXT PRIMARY KEY REFERENCES machines (id),
  serial TEXT NOT NULL,
  bytes TEXT NOT NULL,
  signatures TEXT NOT NULL,
  received_at INTEGER NOT NULL
) STRICT;

CREATE TABLE invites (
  id TEXT PRIMARY KEY,
  secret_sha256 TEXT NOT NULL,
  role TEXT NOT NULL CHECK (role IN ('node', 'client')),
  name TEXT,
  tags TEXT NOT NULL,
  max_uses INTEGER NOT NULL CHECK (max_uses >= 1),
  used INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0 AND used <= max_uses),
  expires_at INTEGER NOT NULL,
  revoked_at INTEGER,
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE enrolments (
  invite_id TEXT NOT NULL REFERENCES invites (id),
  identity TEXT NOT NULL,
  machine_id TEXT NOT NULL REFERENCES machines (id),
  PRIMARY KEY (invite_id, identity)
) STRICT, WITHOUT ROWID;

CREATE TABLE metrics (
  machine_id TEXT NOT NULL REFERENCES machines (id),
  span_s INTEGER NOT NULL CHECK (span_s IN (60, 3600)),
  at INTEGER NOT NULL,
  samples INTEGER NOT NULL CHECK (samples >= 1),
  latency REAL,
  jitter REAL,
  packet_loss REAL,
  cpu_usage REAL,
  memory_usage REAL,
  disk_usage REAL,
  load_average REAL,
  bytes_sent INTEGER NOT NULL,
  bytes_received INTEGER NOT NULL,
  connections INTEGER NOT NULL,
  PRIMARY KEY (machine_id, span_s, at)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
  id INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  event TEXT NOT NULL,
  machine_id TEXT,
  detail TEXT NOT NULL
) STRICT;
