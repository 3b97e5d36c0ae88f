INSERT INTO locks (name) VALUES ('clusters');

CREATE TABLE clusters (
    id       $ID,
    name     TEXT NOT NULL UNIQUE,
    standard BOOLEAN NOT NULL,           -- of nodes that no scope names; exactly one is
    scope    TEXT NOT NULL,              -- JSON
    settings TEXT NOT NULL,              -- JSON
    ca       $BYTES NOT NULL,            -- certificate, DER
    ca_key   $BYTES NOT NULL,            -- sealed
    version  BIGINT NOT NULL,            -- counts what nodes have to hear of
    created  BIGINT NOT NULL,
    updated  BIGINT NOT NULL
);

CREATE TABLE join_tokens (
    id         $ID,
    cluster_id BIGINT REFERENCES clusters (id) ON DELETE CASCADE, -- NULL: the one that fits
    role       TEXT NOT NULL,
    hash       TEXT NOT NULL UNIQUE,
    once       BOOLEAN NOT NULL,
    uses       BIGINT NOT NULL,
    used       BIGINT NOT NULL,          -- last; 0: never
    actor      TEXT NOT NULL,
    created    BIGINT NOT NULL,
    expires    BIGINT NOT NULL
);

CREATE TABLE managers (
    name  TEXT PRIMARY KEY,
    lease BIGINT NOT NULL                -- till when it is taken for alive
);

CREATE TABLE nodes (
    id         $ID,
    cluster_id BIGINT NOT NULL REFERENCES clusters (id),
    token_id   BIGINT NOT NULL,          -- it joined with; that may be gone
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    key        TEXT NOT NULL,            -- hash of the public key of its newest certificate
    until      BIGINT NOT NULL,          -- when that is no longer good
    revoked    BIGINT NOT NULL,          -- 0: it is not
    address    TEXT NOT NULL,            -- others dial; '' : not known yet
    hostname   TEXT NOT NULL,
    idc        TEXT NOT NULL,
    location   TEXT NOT NULL,
    version    TEXT NOT NULL,            -- of its program
    manager    TEXT NOT NULL,            -- that has its stream; '' : none
    stream     BIGINT NOT NULL,          -- which one that is
    seen       BIGINT NOT NULL,          -- when it came or went last; 0: never
    joined     BIGINT NOT NULL,
    UNIQUE (cluster_id, name)
);
CREATE INDEX nodes_until ON nodes (until);
CREATE INDEX nodes_manager ON nodes (manager);
