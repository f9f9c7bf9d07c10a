-- What a plan re-signs, in pieces: a shard is a run of the plan's lines in one
-- repository. One worker at a time has it, for as long as its lease lasts; the
-- epoch tells a worker that lost it from the one that has it now. Times are
-- milliseconds since the epoch here, by the clock of the database.
CREATE TABLE shards (
  plan       TEXT NOT NULL,
  n          BIGINT NOT NULL, -- in the order of the plan, from 1
  repository TEXT NOT NULL,
  deployed   BOOLEAN NOT NULL,
  first_seq  BIGINT NOT NULL,
  last_seq   BIGINT NOT NULL,
  items      BIGINT NOT NULL, -- to re-sign, of the lines from first to last
  units      BIGINT NOT NULL, -- items, each as often as it has formats
  state      TEXT NOT NULL,   -- ready, running, done, failed
  epoch      BIGINT NOT NULL, -- of the last claim; no two claims of a plan have the same
  owner      TEXT NOT NULL,   -- who made it
  since      BIGINT NOT NULL, -- when
  until      BIGINT NOT NULL, -- running: the end of the lease; ready: when it should have been claimed
  attempts   BIGINT NOT NULL, -- claims since the step was started
  queued     BOOLEAN NOT NULL, -- it was left to the workers
  again      BOOLEAN NOT NULL, -- somebody may have written after losing it: it is looked at once more
  signed     BIGINT NOT NULL, -- units, when the last claim ended
  held       BIGINT NOT NULL,
  failed     BIGINT NOT NULL,
  why        TEXT NOT NULL,
  PRIMARY KEY (plan, n)
) WITHOUT ROWID;
CREATE INDEX shards_by_epoch ON shards (plan, epoch);
CREATE INDEX shards_by_repository ON shards (repository, state);

-- When the state of a reissue was last written; 0: before this column.
ALTER TABLE reissues ADD COLUMN at BIGINT NOT NULL DEFAULT 0;
