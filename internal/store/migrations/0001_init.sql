-- Times are seconds since the epoch, UTC. Digests are "sha256:<hex>".
--
-- The same text serves SQLite and PostgreSQL; what little differs is put right
-- by dialect (see migrate.go). Rows that anybody refers to are numbered by the
-- writer, of whom there is one at a time. A partial index has its condition as
-- a column too, without which SQLite would look it up in the table.

CREATE TABLE signers (
  id         TEXT PRIMARY KEY,
  kind       TEXT NOT NULL,
  subject    TEXT NOT NULL,
  issuer     TEXT NOT NULL,
  name       TEXT NOT NULL,
  state      TEXT NOT NULL,
  public_key TEXT NOT NULL
);

CREATE TABLE artifacts (
  repository TEXT NOT NULL,
  digest     TEXT NOT NULL,
  media_type TEXT NOT NULL,
  size       BIGINT NOT NULL,
  deployed   BOOLEAN NOT NULL,
  first_seen BIGINT NOT NULL,
  referrers  TEXT NOT NULL,   -- fingerprint of the list of its referrers as last seen
  asked      BIGINT NOT NULL, -- the scan that last asked for that list
  PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX artifacts_by_digest ON artifacts (digest);
CREATE INDEX artifacts_deployed ON artifacts (repository, digest, deployed) WHERE deployed;

CREATE TABLE tags (
  repository TEXT NOT NULL,
  tag        TEXT NOT NULL,
  digest     TEXT NOT NULL,    -- what it names; empty: listed, not looked at yet
  signature  BOOLEAN NOT NULL, -- it holds signatures ("sha256-<hex>.sig"), it names no artifact
  listed     BIGINT NOT NULL,  -- the scan that last saw it in a list
  checked    BIGINT NOT NULL,  -- the scan that last looked at what it names
  PRIMARY KEY (repository, tag)
) WITHOUT ROWID;
CREATE INDEX tags_by_digest ON tags (repository, digest, signature);

CREATE TABLE signatures (
  seq            INTEGER PRIMARY KEY,
  id             TEXT NOT NULL UNIQUE,
  repository     TEXT NOT NULL,
  digest         TEXT NOT NULL,
  format         TEXT NOT NULL,
  location       TEXT NOT NULL,
  manifest       TEXT NOT NULL,
  content        TEXT NOT NULL,
  predicate_type TEXT NOT NULL,
  payload_digest TEXT NOT NULL,
  names          TEXT NOT NULL,
  signer         TEXT NOT NULL REFERENCES signers (id),
  certificate    TEXT NOT NULL,   -- JSON of a keyless signer's, or empty
  verified       BOOLEAN NOT NULL,
  why            TEXT NOT NULL,
  not_before     BIGINT NOT NULL, -- its latest verified lower bound; 0: none
  not_after      BIGINT NOT NULL, -- its earliest verified upper bound; 0: none
  first_seen     BIGINT NOT NULL,
  gone           BOOLEAN NOT NULL
);
CREATE INDEX signatures_by_artifact ON signatures (repository, digest, gone, verified);
CREATE INDEX signatures_by_signer ON signatures (signer, repository, digest, gone, first_seen);
CREATE INDEX signatures_gone ON signatures (seq) WHERE gone;

-- What a signature rests on: the bounds of its time and, with the side
-- "requires", the authorities without which it does not verify at all.
CREATE TABLE bounds (
  signature INTEGER NOT NULL REFERENCES signatures (seq),
  n         INTEGER NOT NULL,
  side      TEXT NOT NULL,
  time      BIGINT NOT NULL,
  role      TEXT NOT NULL,
  authority TEXT NOT NULL,
  verified  BOOLEAN NOT NULL,
  alone     BOOLEAN NOT NULL, -- without this authority nothing proves its time, or it does not verify
  why       TEXT NOT NULL,
  PRIMARY KEY (signature, n)
) WITHOUT ROWID;
CREATE INDEX bounds_by_authority ON bounds (role, authority, signature, alone, verified) WHERE verified;

-- Manifests in the vault that gave evidence of a signature, where its own
-- manifest does not give all of it.
CREATE TABLE copies (
  signature INTEGER NOT NULL REFERENCES signatures (seq),
  manifest  TEXT NOT NULL,
  PRIMARY KEY (signature, manifest)
) WITHOUT ROWID;

CREATE TABLE problems (
  repository TEXT NOT NULL,
  reference  TEXT NOT NULL,
  problem    TEXT NOT NULL,
  seen       BIGINT NOT NULL,
  PRIMARY KEY (repository, reference)
);

-- How far the scan of a repository has got.
CREATE TABLE scans (
  id         INTEGER PRIMARY KEY,
  repository TEXT NOT NULL,
  started    BIGINT NOT NULL,
  ended      BIGINT NOT NULL -- 0: not yet
);
CREATE INDEX scans_by_repository ON scans (repository, id);

-- What other systems tell of signatures made.
CREATE TABLE records (
  id        TEXT PRIMARY KEY,
  source    TEXT NOT NULL,
  kind      TEXT NOT NULL,
  signer    TEXT NOT NULL,
  key_name  TEXT NOT NULL,
  digest    TEXT NOT NULL, -- of the artifact
  message   TEXT NOT NULL, -- digest of the bytes signed
  run       TEXT NOT NULL,
  principal TEXT NOT NULL,
  time      BIGINT NOT NULL,
  failed    BOOLEAN NOT NULL
);
CREATE INDEX records_by_signer ON records (signer, id);
CREATE INDEX records_by_digest ON records (digest, id);
CREATE INDEX records_by_message ON records (message, id);

-- The vault: exact bytes by digest, zstd-compressed.
CREATE TABLE vault (
  digest TEXT PRIMARY KEY,
  body   BLOB NOT NULL
);

-- Incidents, plans, approvals, approver sets: immutable versions of documents.
CREATE TABLE documents (
  kind    TEXT NOT NULL,
  id      TEXT NOT NULL,
  version BIGINT NOT NULL,
  body    TEXT NOT NULL,
  PRIMARY KEY (kind, id, version)
);

-- The lines of plans. Nothing is selected by but what the plan's digest covers.
CREATE TABLE plan_items (
  plan TEXT NOT NULL,
  seq  BIGINT NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (plan, seq)
);

-- What a plan signs: one row for each (item, format), written before the key
-- is used.
CREATE TABLE reissues (
  plan         TEXT NOT NULL,
  seq          BIGINT NOT NULL,
  format       TEXT NOT NULL,
  state        TEXT NOT NULL,
  content      TEXT NOT NULL, -- vault digest of the signed bytes, once there are any
  signature_id TEXT NOT NULL,
  why          TEXT NOT NULL,
  PRIMARY KEY (plan, seq, format)
);
CREATE INDEX reissues_by_signature ON reissues (signature_id);

CREATE TABLE journal (
  seq  INTEGER PRIMARY KEY,
  body TEXT NOT NULL
);

-- The stored hashes of the journal's Merkle tree (golang.org/x/mod/sumdb/tlog).
CREATE TABLE journal_hashes (
  seq  INTEGER PRIMARY KEY,
  hash BLOB NOT NULL
);
