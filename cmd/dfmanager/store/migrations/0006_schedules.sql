CREATE TABLE schedules (
    id         $ID,
    cron       TEXT NOT NULL,            -- when, in UTC
    url        TEXT NOT NULL,            -- of the manifest
    platforms  TEXT NOT NULL,            -- words; '' : the default ones
    cluster_id BIGINT NOT NULL,          -- 0: whichever is the standard one
    secret     $BYTES,                   -- sealed; NULL: there is none
    actor      TEXT NOT NULL,            -- who made it
    created    BIGINT NOT NULL,
    due        BIGINT NOT NULL,          -- when there is to be a job next
    job_id     BIGINT NOT NULL           -- the last one; 0: there was none
);
CREATE INDEX schedules_due ON schedules (due);
