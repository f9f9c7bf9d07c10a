-- Times are seconds since the epoch, UTC. Digests are "sha256:<hex>".

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
  PRIMARY KEY (repository, digest)
);
CREATE INDEX artifacts_by_digest ON artifacts (digest);

CREATE TABLE tags (
  repository TEXT NOT NULL,
  tag        TEXT NOT NULL,
  digest     TEXT NOT NULL,
  PRIMARY KEY (repository, tag)
);
CREATE INDEX tags_by_digest ON tags (repository, digest);

CREATE TABLE signatures (
  id             TEXT PRIMARY KEY,
  repository     TEXT NOT NULL,
  digest         TEXT NOT NULL,
  format         TEXT NOT NULL,
  manifest       TEXT NOT NULL,
  content        TEXT NOT NULL,
  predicate_type TEXT NOT NULL,
  payload_digest TEXT NOT NULL,
  names          TEXT NOT NULL,
  signer         TEXT NOT NULL REFERENCES signers (id),
  requires       TEXT NOT NULL,
  verified       BOOLEAN NOT NULL,
  why            TEXT NOT NULL,
  bounds         TEXT NOT NULL,
  first_seen     BIGINT NOT NULL,
  gone           BOOLEAN NOT NULL
);
CREATE INDEX signatures_by_artifact ON signatures (repository, digest);
CREATE INDEX signatures_by_signer ON signatures (signer, repository, digest);

CREATE TABLE problems (
  repository TEXT NOT NULL,
  reference  TEXT NOT NULL,
  problem    TEXT NOT NULL,
  seen       BIGINT NOT NULL,
  PRIMARY KEY (repository, reference)
);

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
  seq  BIGINT PRIMARY KEY,
  body TEXT NOT NULL
);

-- The stored hashes of the journal's Merkle tree (golang.org/x/mod/sumdb/tlog).
CREATE TABLE journal_hashes (
  seq  BIGINT PRIMARY KEY,
  hash BLOB NOT NULL
);
