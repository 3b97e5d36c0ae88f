CREATE TABLE traffic (
    cluster_id BIGINT NOT NULL REFERENCES clusters (id) ON DELETE CASCADE,
    at         BIGINT NOT NULL,          -- start of five minutes
    role       TEXT NOT NULL,            -- of those who moved it
    origin     BIGINT NOT NULL,          -- bytes of blobs that came from origins
    peers      BIGINT NOT NULL,          -- came from other hosts
    store      BIGINT NOT NULL,          -- were there when they were asked for
    sent       BIGINT NOT NULL,          -- went to other hosts
    PRIMARY KEY (cluster_id, at, role)
);
CREATE INDEX traffic_at ON traffic (at);

CREATE TABLE loads (
    node_id BIGINT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    at      BIGINT NOT NULL,             -- when it was said
    origin  BIGINT NOT NULL,             -- bytes per second of late
    peers   BIGINT NOT NULL,
    sent    BIGINT NOT NULL,
    kept    BIGINT NOT NULL,             -- bytes of blobs on its disk
    uploads BIGINT NOT NULL,             -- bodies on their way to other hosts
    waiting BIGINT NOT NULL              -- reads that wait for bytes
);

CREATE INDEX job_blobs_digest ON job_blobs (digest);
