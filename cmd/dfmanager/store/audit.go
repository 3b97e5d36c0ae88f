package store

import (
	"context"
	"database/sql"
	"time"
)

// By says who makes a change, for the audit log. Nothing is changed by a user
// without an entry, which is written in the same transaction.
type By struct {
	Actor  string // user's name
	Remote string // address
}

// Entry is one of the audit log.
type Entry struct {
	ID                     int64
	At                     time.Time
	By                     By
	Action, Object, Detail string
}

// Audit adds an entry for what changes nothing here, such as a failed sign-in.
func (db *DB) Audit(ctx context.Context, by By, action, object, detail string) error {
	return known(note(ctx, db.write, by, action, object, detail))
}

func note(ctx context.Context, q querier, by By, action, object, detail string) error {
	_, err := q.ExecContext(ctx, "INSERT INTO audit (at, actor, remote, action, object, detail) VALUES ($1, $2, $3, $4, $5, $6)",
		millis(time.Now()), by.Actor, by.Remote, action, object, detail)
	return err
}

// change is a transaction with its entry in the audit log.
func (db *DB) change(ctx context.Context, by By, action, object, detail string, fn func(*sql.Tx) error) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		if err := fn(t); err != nil {
			return err
		}
		return note(ctx, t, by, action, object, detail)
	})
}

// Entries returns a page of the audit log, newest first.
func (db *DB) Entries(ctx context.Context, p Page) ([]Entry, error) {
	return list(ctx, db, func(s scanner) (e Entry, err error) {
		var at int64
		err = s.Scan(&e.ID, &at, &e.By.Actor, &e.By.Remote, &e.Action, &e.Object, &e.Detail)
		e.At = fromMillis(at)
		return e, err
	}, "SELECT id, at, actor, remote, action, object, detail FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2", p.before(), p.Limit)
}
