package store

import (
	"context"
	"database/sql"
	"time"
)

// JobHost is how far a job's blob has come at a host.
type JobHost struct {
	ID            int64
	Digest        string // of the blob
	Host, Address string
	State         State
	Error         string
	Updated       time.Time
}

// SetJobHosts notes how far a blob of a job has come at hosts.
func (db *DB) SetJobHosts(ctx context.Context, j Job, all []JobHost) error {
	if len(all) == 0 {
		return nil
	}
	return db.tx(ctx, func(t *sql.Tx) error {
		if err := lost(one(t.ExecContext(ctx, "UPDATE jobs SET updated = $4 WHERE "+held, j.ID, j.Owner, j.Run, millis(time.Now())))); err != nil {
			return err
		}
		for _, h := range all {
			_, err := t.ExecContext(ctx, `INSERT INTO job_hosts (job_id, digest, host, address, state, error, updated) VALUES ($1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT (job_id, digest, host) DO UPDATE SET address = excluded.address, state = excluded.state, error = excluded.error, updated = excluded.updated`,
				j.ID, h.Digest, h.Host, h.Address, h.State, h.Error, millis(time.Now()))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// JobHosts returns a page of the rows of a job's blobs and hosts.
func (db *DB) JobHosts(ctx context.Context, job int64, p Page) ([]JobHost, error) {
	return list(ctx, db, func(s scanner) (h JobHost, err error) {
		var updated int64
		err = s.Scan(&h.ID, &h.Digest, &h.Host, &h.Address, &h.State, &h.Error, &updated)
		h.Updated = fromMillis(updated)
		return h, err
	}, "SELECT id, digest, host, address, state, error, updated FROM job_hosts WHERE job_id = $1 AND id > $2 ORDER BY id LIMIT $3", job, p.After, p.Limit)
}

// DoneHosts returns at which hosts a blob of a job is done with.
func (db *DB) DoneHosts(ctx context.Context, job int64, digest string) (map[string]bool, error) {
	all, err := list(ctx, db, func(s scanner) (host string, err error) {
		return host, s.Scan(&host)
	}, "SELECT host FROM job_hosts WHERE job_id = $1 AND digest = $2 AND state = $3", job, digest, Succeeded)
	done := map[string]bool{}
	for _, h := range all {
		done[h] = true
	}
	return done, err
}

// HostSum is a host's blobs of a job, summed up.
type HostSum struct {
	Host, Address string
	Blobs, Done   int
	Failed        int
	Error         string // of one of them
}

// HostSums returns what has become of a job at its hosts, where something failed
// first, and how many hosts there are.
func (db *DB) HostSums(ctx context.Context, job int64, limit int) (all []HostSum, hosts int, err error) {
	all, err = list(ctx, db, func(s scanner) (h HostSum, err error) {
		return h, s.Scan(&h.Host, &h.Address, &h.Blobs, &h.Done, &h.Failed, &h.Error)
	}, `SELECT host, MAX(address), COUNT(*), SUM(CASE WHEN state = $2 THEN 1 ELSE 0 END), SUM(CASE WHEN state = $3 THEN 1 ELSE 0 END) AS failed, MAX(error)
		FROM job_hosts WHERE job_id = $1 GROUP BY host ORDER BY failed DESC, host LIMIT $4`, job, Succeeded, Failed, limit)
	if err != nil {
		return nil, 0, err
	}
	hosts, err = get(ctx, db, func(s scanner) (n int, err error) { return n, s.Scan(&n) }, "SELECT COUNT(DISTINCT host) FROM job_hosts WHERE job_id = $1", job)
	return all, hosts, err
}
