-- Rows to be updated by transactions that must not overlap.
CREATE TABLE locks (
    name  TEXT PRIMARY KEY,
    taken BIGINT NOT NULL DEFAULT 0
);
INSERT INTO locks (name) VALUES ('users');

CREATE TABLE users (
    id          $ID,
    name        TEXT NOT NULL UNIQUE,
    role        TEXT NOT NULL,
    password    TEXT NOT NULL,           -- a hash; '' : signs in elsewhere only
    subject     TEXT UNIQUE,             -- issuer and subject of an OpenID Connect provider
    must_change BOOLEAN NOT NULL,
    disabled    BOOLEAN NOT NULL,
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL
);

CREATE TABLE sessions (
    hash    TEXT PRIMARY KEY,            -- of what is in the cookie
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires ON sessions (expires);

CREATE TABLE tokens (
    id      $ID,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    hash    TEXT NOT NULL UNIQUE,
    scopes  TEXT NOT NULL,               -- words
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,             -- 0: never
    used    BIGINT NOT NULL,             -- 0: never
    UNIQUE (user_id, name)
);

CREATE TABLE sign_in_failures (
    subject  TEXT PRIMARY KEY,           -- an address, a name, or both
    failures BIGINT NOT NULL,
    last     BIGINT NOT NULL
);

CREATE TABLE audit (
    id     $ID,
    at     BIGINT NOT NULL,
    actor  TEXT NOT NULL,
    remote TEXT NOT NULL,                -- address
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL                 -- never a secret
);
