ALTER TABLE jobs ADD COLUMN scope TEXT NOT NULL DEFAULT '';      -- JSON: which hosts; '' : one seed
ALTER TABLE schedules ADD COLUMN scope TEXT NOT NULL DEFAULT '';

CREATE TABLE job_hosts (
    id      $ID,
    job_id  BIGINT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    digest  TEXT NOT NULL,
    host    TEXT NOT NULL,
    address TEXT NOT NULL,
    state   TEXT NOT NULL,
    error   TEXT NOT NULL,
    updated BIGINT NOT NULL,
    UNIQUE (job_id, digest, host)
);
