ALTER TABLE jobs ADD COLUMN cluster_id BIGINT NOT NULL DEFAULT 0; -- 0: whichever is the standard one
