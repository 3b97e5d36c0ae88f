CREATE TABLE jobs (
    id        $ID,
    kind      TEXT NOT NULL,
    url       TEXT NOT NULL,             -- of the manifest
    platforms TEXT NOT NULL,             -- words; '' : the default ones
    secret    $BYTES,                    -- sealed; gone when the job has ended
    actor     TEXT NOT NULL,
    state     TEXT NOT NULL,
    error     TEXT NOT NULL,
    digest    TEXT NOT NULL,             -- of the manifest, once it is known
    created   BIGINT NOT NULL,
    updated   BIGINT NOT NULL,
    started   BIGINT NOT NULL,           -- 0: not yet
    finished  BIGINT NOT NULL,           -- 0: not yet
    due       BIGINT NOT NULL,           -- not before
    deadline  BIGINT NOT NULL,
    tries     BIGINT NOT NULL,
    cancel    BOOLEAN NOT NULL,
    owner     TEXT NOT NULL,             -- the runner
    lease     BIGINT NOT NULL,           -- till when it is the owner's
    run       BIGINT NOT NULL            -- counts owners
);
CREATE INDEX jobs_due ON jobs (state, due, id);
CREATE INDEX jobs_finished ON jobs (finished);

CREATE TABLE job_blobs (
    job_id  BIGINT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    digest  TEXT NOT NULL,
    kind    TEXT NOT NULL,               -- layer or config
    size    BIGINT NOT NULL,
    got     BIGINT NOT NULL,             -- bytes that are in place
    host    TEXT NOT NULL,               -- who has, or fetches it
    address TEXT NOT NULL,
    state   TEXT NOT NULL,
    error   TEXT NOT NULL,
    updated BIGINT NOT NULL,
    PRIMARY KEY (job_id, digest)
);
