-- What was relayed for each machine, by the day (days since 1970, UTC): what quotas are counted by.
CREATE TABLE relay_usage (
  machine_id TEXT NOT NULL REFERENCES machines (id),
  day INTEGER NOT NULL,
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  PRIMARY KEY (machine_id, day)
) STRICT, WITHOUT ROWID;
