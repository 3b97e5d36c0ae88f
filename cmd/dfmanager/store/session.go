package store

import (
	"context"
	"database/sql"
	"time"
)

// CreateSession notes that a user has signed in; hash is of what the browser
// keeps. Sessions that have expired are removed.
func (db *DB) CreateSession(ctx context.Context, by By, user int64, hash string, expires time.Time) error {
	return db.change(ctx, by, "session.create", by.Actor, "", func(t *sql.Tx) error {
		now := millis(time.Now())
		if _, err := t.ExecContext(ctx, "DELETE FROM sessions WHERE expires <= $1", now); err != nil {
			return err
		}
		_, err := t.ExecContext(ctx, "INSERT INTO sessions (hash, user_id, created, expires) VALUES ($1, $2, $3, $4)", hash, user, now, millis(expires))
		return err
	})
}

// SessionUser returns whose session that is. One that has expired, or whose user
// may not sign in, is not found.
func (db *DB) SessionUser(ctx context.Context, hash string) (User, error) {
	return get(ctx, db, scanUser, "SELECT "+userColumns+` FROM sessions JOIN users ON users.id = sessions.user_id
		WHERE sessions.hash = $1 AND sessions.expires > $2 AND NOT users.disabled`, hash, millis(time.Now()))
}

// DeleteSession ends a session.
func (db *DB) DeleteSession(ctx context.Context, by By, hash string) error {
	return db.change(ctx, by, "session.delete", by.Actor, "", func(t *sql.Tx) error {
		return one(t.ExecContext(ctx, "DELETE FROM sessions WHERE hash = $1", hash))
	})
}

// Failures are the sign-ins that failed, of one subject and in a row.
type Failures struct {
	Count int
	Last  time.Time
}

// SignInFailures returns the failures of each subject, in that order.
func (db *DB) SignInFailures(ctx context.Context, subjects ...string) ([]Failures, error) {
	all := make([]Failures, len(subjects))
	err := db.read(ctx, func(q querier) error {
		for i, s := range subjects {
			var last int64
			err := q.QueryRowContext(ctx, "SELECT failures, last FROM sign_in_failures WHERE subject = $1", s).Scan(&all[i].Count, &last)
			if err = known(err); err != nil && err != ErrNotFound { //nolint:errorlint // known returns it as it is
				return err
			}
			all[i].Last = fromMillis(last)
		}
		return nil
	})
	return all, err
}

// SignInFailed counts a failure for each subject. What is older than forget
// does not count any more.
func (db *DB) SignInFailed(ctx context.Context, forget time.Duration, subjects ...string) error {
	now := time.Now()
	return db.tx(ctx, func(t *sql.Tx) error {
		if _, err := t.ExecContext(ctx, "DELETE FROM sign_in_failures WHERE last < $1", millis(now.Add(-forget))); err != nil {
			return err
		}
		for _, s := range subjects {
			_, err := t.ExecContext(ctx, `INSERT INTO sign_in_failures (subject, failures, last) VALUES ($1, 1, $2)
				ON CONFLICT (subject) DO UPDATE SET failures = sign_in_failures.failures + 1, last = excluded.last`, s, millis(now))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// SignedIn forgets the failures of the subjects.
func (db *DB) SignedIn(ctx context.Context, subjects ...string) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		for _, s := range subjects {
			if _, err := t.ExecContext(ctx, "DELETE FROM sign_in_failures WHERE subject = $1", s); err != nil {
				return err
			}
		}
		return nil
	})
}
