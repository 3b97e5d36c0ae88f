package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// State is how far a job, or a blob of it, has come.
type State string

// The states. The last three are final.
const (
	Waiting   State = "waiting"
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Done reports whether a state is final.
func (s State) Done() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Job brings an image, or a file, into the cluster.
type Job struct {
	ID        int64
	Kind      string
	Cluster   int64  // it is for; 0: the standard one
	URL       string // of the manifest, or of a file, without what is secret
	File      string // JSON: what tells it from others of its URL; "": it is none
	Platforms []string
	Scope     string // JSON: which hosts; "": one seed
	Secret    []byte // sealed; nil once the job has ended
	Actor     string
	State     State
	Error     string // why it failed, or will be tried again
	Digest    string // of the manifest, or file, once it is known
	Created   time.Time
	Updated   time.Time
	Started   time.Time
	Finished  time.Time
	Deadline  time.Time
	Tries     int // that failed
	Cancel    bool
	Owner     string
	Run       int64
}

const jobColumns = `id, kind, cluster_id, url, platforms, secret, actor, state, error, digest, created, updated, started, finished, deadline, tries, cancel, owner, run, scope, file`

func scanJob(s scanner) (j Job, err error) {
	var platforms string
	var created, updated, started, finished, deadline int64
	err = s.Scan(&j.ID, &j.Kind, &j.Cluster, &j.URL, &platforms, &j.Secret, &j.Actor, &j.State, &j.Error, &j.Digest,
		&created, &updated, &started, &finished, &deadline, &j.Tries, &j.Cancel, &j.Owner, &j.Run, &j.Scope, &j.File)
	j.Platforms = strings.Fields(platforms)
	j.Created, j.Updated, j.Started = fromMillis(created), fromMillis(updated), fromMillis(started)
	j.Finished, j.Deadline = fromMillis(finished), fromMillis(deadline)
	return j, err
}

// maxWaiting is how many jobs may wait; more come from somebody who is wrong.
const maxWaiting = 10_000

// CreateJob adds a job that waits: Kind, Cluster, URL, File, Platforms, Scope, Secret, Actor and
// Deadline of j count. ErrFull says that too many wait.
func (db *DB) CreateJob(ctx context.Context, by By, j Job) (Job, error) {
	err := db.change(ctx, by, "job.create", j.URL, "kind "+j.Kind, func(t *sql.Tx) error {
		var n int
		if err := t.QueryRowContext(ctx, "SELECT COUNT(*) FROM jobs WHERE state = $1", Waiting).Scan(&n); err != nil {
			return err
		}
		if n >= maxWaiting {
			return ErrFull
		}
		var err error
		j, err = insertJob(ctx, t, by.Actor, j)
		return err
	})
	return j, err
}

// insertJob adds a job that waits.
func insertJob(ctx context.Context, q querier, actor string, j Job) (Job, error) {
	return scanJob(q.QueryRowContext(ctx, `INSERT INTO jobs
		(kind, url, platforms, secret, actor, state, error, digest, created, updated, started, finished, due, deadline, tries, cancel, owner, lease, run, cluster_id, scope, file)
		VALUES ($1, $2, $3, $4, $5, $6, '', '', $7, $7, 0, 0, $7, $8, 0, FALSE, '', 0, 0, $9, $10, $11) RETURNING `+jobColumns,
		j.Kind, j.URL, strings.Join(j.Platforms, " "), j.Secret, actor, Waiting, millis(time.Now()), millis(j.Deadline), j.Cluster, j.Scope, j.File))
}

// Job returns a job.
func (db *DB) Job(ctx context.Context, id int64) (Job, error) {
	return get(ctx, db, scanJob, "SELECT "+jobColumns+" FROM jobs WHERE id = $1", id)
}

// Jobs returns a page of all jobs, the newest first; of one state, unless that
// is "".
func (db *DB) Jobs(ctx context.Context, state State, p Page) ([]Job, error) {
	if state == "" {
		return list(ctx, db, scanJob, "SELECT "+jobColumns+" FROM jobs WHERE id < $1 ORDER BY id DESC LIMIT $2", p.before(), p.Limit)
	}
	return list(ctx, db, scanJob, "SELECT "+jobColumns+" FROM jobs WHERE id < $1 AND state = $3 ORDER BY id DESC LIMIT $2", p.before(), p.Limit, state)
}

// JobCounts returns how many jobs are in each state that is not final.
func (db *DB) JobCounts(ctx context.Context) (waiting, running int, err error) {
	err = db.read(ctx, func(q querier) error {
		return q.QueryRowContext(ctx, "SELECT COALESCE(SUM(CASE WHEN state = $1 THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN state = $2 THEN 1 ELSE 0 END), 0) FROM jobs WHERE finished = 0",
			Waiting, Running).Scan(&waiting, &running)
	})
	return waiting, running, err
}

// CancelJob ends a job that waits, and has the runner end one that runs. One
// that has ended gives ErrState.
func (db *DB) CancelJob(ctx context.Context, by By, id int64) (j Job, err error) {
	err = db.tx(ctx, func(t *sql.Tx) error {
		now := millis(time.Now())
		j, err = scanJob(t.QueryRowContext(ctx, `UPDATE jobs SET cancel = TRUE, updated = $2,
			state = CASE WHEN state = $3 THEN $4 ELSE state END,
			finished = CASE WHEN state = $3 THEN $2 ELSE finished END,
			secret = CASE WHEN state = $3 THEN NULL ELSE secret END
			WHERE id = $1 AND finished = 0 RETURNING `+jobColumns, id, now, Waiting, Cancelled))
		if known(err) == ErrNotFound { //nolint:errorlint // known returns it as it is
			if _, err := scanJob(t.QueryRowContext(ctx, "SELECT "+jobColumns+" FROM jobs WHERE id = $1", id)); err != nil {
				return err
			}
			return ErrState
		}
		if err != nil {
			return err
		}
		return note(ctx, t, by, "job.cancel", j.URL, "")
	})
	return j, err
}

// ClaimJob makes a job that is due, or whose owner has not been heard of, the
// owner's for that long. ErrNotFound says that there is nothing to do.
func (db *DB) ClaimJob(ctx context.Context, owner string, lease time.Duration) (j Job, err error) {
	now := time.Now()
	const free = "(state = $4 AND due <= $3 OR state = $5 AND lease <= $3)"
	err = db.tx(ctx, func(t *sql.Tx) (err error) {
		j, err = scanJob(t.QueryRowContext(ctx, `UPDATE jobs SET state = $5, owner = $1, lease = $2, run = run + 1, updated = $3,
			started = CASE WHEN started = 0 THEN $3 ELSE started END
			WHERE id = (SELECT id FROM jobs WHERE `+free+` ORDER BY due, id LIMIT 1`+db.engine.skip+`) AND `+free+` RETURNING `+jobColumns,
			owner, millis(now.Add(lease)), millis(now), Waiting, Running))
		return err
	})
	return j, err
}

// held is the condition that a job is still its runner's.
const held = "id = $1 AND owner = $2 AND run = $3 AND state = 'running'"

// lost turns ErrNotFound of a statement with that condition into ErrLost.
func lost(err error) error {
	if err = known(err); err == ErrNotFound { //nolint:errorlint // known returns it as it is
		return ErrLost
	}
	return err
}

// KeepJob makes a job its runner's for that long from now on, and reports
// whether it is to be cancelled.
func (db *DB) KeepJob(ctx context.Context, j Job, lease time.Duration) (cancel bool, err error) {
	err = db.write.QueryRowContext(ctx, "UPDATE jobs SET lease = $4 WHERE "+held+" RETURNING cancel", j.ID, j.Owner, j.Run, millis(time.Now().Add(lease))).Scan(&cancel)
	return cancel, lost(err)
}

// EndJob gives a job its final state; its secret is removed. Blobs that are not
// in place share the job's fate.
func (db *DB) EndJob(ctx context.Context, j Job, s State, reason string) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		now := millis(time.Now())
		err := one(t.ExecContext(ctx, "UPDATE jobs SET state = $4, error = $5, finished = $6, updated = $6, owner = '', lease = 0, secret = NULL WHERE "+held,
			j.ID, j.Owner, j.Run, s, reason, now))
		if err != nil {
			return lost(err)
		}
		for _, table := range []string{"job_blobs", "job_hosts"} {
			if _, err := t.ExecContext(ctx, "UPDATE "+table+" SET state = $2, updated = $3 WHERE job_id = $1 AND state IN ($4, $5)", j.ID, s, now, Waiting, Running); err != nil {
				return err
			}
		}
		return nil
	})
}

// PutBackJob has a job wait again, until due. failed says that this try counts.
func (db *DB) PutBackJob(ctx context.Context, j Job, due time.Time, failed bool, reason string) error {
	tries := 0
	if failed {
		tries = 1
	}
	return lost(one(db.write.ExecContext(ctx, "UPDATE jobs SET state = $4, error = $5, due = $6, tries = tries + $7, updated = $8, owner = '', lease = 0 WHERE "+held,
		j.ID, j.Owner, j.Run, Waiting, reason, millis(due), tries, millis(time.Now()))))
}

// ForgetJobs removes jobs that ended before then.
func (db *DB) ForgetJobs(ctx context.Context, then time.Time) error {
	_, err := db.write.ExecContext(ctx, "DELETE FROM jobs WHERE finished > 0 AND finished < $1", millis(then))
	return known(err)
}

// JobBlob is how far a blob of a job has come.
type JobBlob struct {
	Digest, Kind  string
	Size, Got     int64
	Host, Address string // who has, or fetches it
	State         State
	Error         string
	Updated       time.Time
}

// SetJobBlobs says which blobs a job is about, and the digest of its manifest.
// Those that were known keep what is known of them; others, of another manifest that
// the tag led to, or another version of the file, are forgotten.
func (db *DB) SetJobBlobs(ctx context.Context, j Job, manifest string, blobs []JobBlob) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		if err := lost(one(t.ExecContext(ctx, "UPDATE jobs SET digest = $4 WHERE "+held, j.ID, j.Owner, j.Run, manifest))); err != nil {
			return err
		}
		marks, args := []string{"''"}, []any{j.ID}
		for i, b := range blobs {
			marks, args = append(marks, fmt.Sprintf("$%d", i+2)), append(args, b.Digest)
		}
		for _, table := range []string{"job_blobs", "job_hosts"} {
			if _, err := t.ExecContext(ctx, "DELETE FROM "+table+" WHERE job_id = $1 AND NOT digest IN ("+strings.Join(marks, ", ")+")", args...); err != nil {
				return err
			}
		}
		for _, b := range blobs {
			_, err := t.ExecContext(ctx, `INSERT INTO job_blobs (job_id, digest, kind, size, got, host, address, state, error, updated)
				VALUES ($1, $2, $3, $4, 0, '', '', $5, '', $6) ON CONFLICT (job_id, digest) DO NOTHING`,
				j.ID, b.Digest, b.Kind, b.Size, Waiting, millis(time.Now()))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// UpdateJobBlob notes how far a blob has come.
func (db *DB) UpdateJobBlob(ctx context.Context, j Job, b JobBlob) error {
	return lost(one(db.write.ExecContext(ctx, `UPDATE job_blobs SET got = $4, host = $5, address = $6, state = $7, error = $8, updated = $9
		WHERE job_id = $1 AND digest = $10 AND EXISTS (SELECT 1 FROM jobs WHERE `+held+`)`,
		j.ID, j.Owner, j.Run, b.Got, b.Host, b.Address, b.State, b.Error, millis(time.Now()), b.Digest)))
}

// JobBlobs returns the blobs of a job, the largest first.
func (db *DB) JobBlobs(ctx context.Context, job int64) ([]JobBlob, error) {
	return list(ctx, db, func(s scanner) (b JobBlob, err error) {
		var updated int64
		err = s.Scan(&b.Digest, &b.Kind, &b.Size, &b.Got, &b.Host, &b.Address, &b.State, &b.Error, &updated)
		b.Updated = fromMillis(updated)
		return b, err
	}, "SELECT digest, kind, size, got, host, address, state, error, updated FROM job_blobs WHERE job_id = $1 ORDER BY size DESC, digest", job)
}
