package store

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Role is what a user may do.
type Role string

// The roles.
const (
	Guest    Role = "guest"    // look
	Operator Role = "operator" // and preheat, and change clusters
	Root     Role = "root"     // everything
)

// User is somebody who may sign in.
type User struct {
	ID         int64
	Name       string // lower case
	Role       Role
	Password   string // hash; "": signs in elsewhere only
	Subject    string // issuer and subject of an OpenID Connect provider; "": signs in here
	MustChange bool   // the password, before anything else
	Disabled   bool
	Created    time.Time
	Updated    time.Time
}

const userColumns = "users.id, users.name, users.role, users.password, COALESCE(users.subject, ''), users.must_change, users.disabled, users.created, users.updated"

func scanUser(s scanner) (u User, err error) {
	var created, updated int64
	err = s.Scan(&u.ID, &u.Name, &u.Role, &u.Password, &u.Subject, &u.MustChange, &u.Disabled, &created, &updated)
	u.Created, u.Updated = fromMillis(created), fromMillis(updated)
	return u, err
}

// FirstUser creates a user if there is none yet, and reports whether it did.
func (db *DB) FirstUser(ctx context.Context, u User) (created bool, err error) {
	err = db.tx(ctx, func(t *sql.Tx) error {
		if err := lock(ctx, t, "users"); err != nil {
			return err
		}
		var n int
		if err := t.QueryRowContext(ctx, "SELECT COUNT(*) FROM users").Scan(&n); err != nil || n > 0 {
			return err
		}
		created = true
		if _, err := insertUser(ctx, t, u); err != nil {
			return err
		}
		return note(ctx, t, By{Actor: "dfmanager"}, "user.create", u.Name, "role "+string(u.Role)+", the first user")
	})
	return created && err == nil, err
}

// CreateUser adds a user.
func (db *DB) CreateUser(ctx context.Context, by By, u User) (User, error) {
	err := db.change(ctx, by, "user.create", u.Name, "role "+string(u.Role), func(t *sql.Tx) (err error) {
		u, err = insertUser(ctx, t, u)
		return err
	})
	return u, err
}

func insertUser(ctx context.Context, q querier, u User) (User, error) {
	now := millis(time.Now())
	return scanUser(q.QueryRowContext(ctx, `INSERT INTO users (name, role, password, must_change, disabled, created, updated, subject)
		VALUES ($1, $2, $3, $4, $5, $6, $6, NULLIF($7, '')) RETURNING `+userColumns, u.Name, string(u.Role), u.Password, u.MustChange, u.Disabled, now, u.Subject))
}

// User returns a user.
func (db *DB) User(ctx context.Context, id int64) (User, error) {
	return get(ctx, db, scanUser, "SELECT "+userColumns+" FROM users WHERE id = $1", id)
}

// UserByName returns a user.
func (db *DB) UserByName(ctx context.Context, name string) (User, error) {
	return get(ctx, db, scanUser, "SELECT "+userColumns+" FROM users WHERE name = $1", name)
}

// Users returns a page of all users, in the order in which they were created.
func (db *DB) Users(ctx context.Context, p Page) ([]User, error) {
	return list(ctx, db, scanUser, "SELECT "+userColumns+" FROM users WHERE id > $1 ORDER BY id LIMIT $2", p.After, p.Limit)
}

// SubjectUser returns the user with u's Subject, whose role is u's from now on; the
// first time it is created, with u's name. ErrExists says that the name is
// another user's.
func (db *DB) SubjectUser(ctx context.Context, by By, u User) (known User, err error) {
	err = db.tx(ctx, func(t *sql.Tx) error {
		if err := lock(ctx, t, "users"); err != nil {
			return err
		}
		known, err = scanUser(t.QueryRowContext(ctx, "SELECT "+userColumns+" FROM users WHERE subject = $1", u.Subject))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			if known, err = insertUser(ctx, t, u); err != nil {
				return err
			}
			return note(ctx, t, by, "user.create", u.Name, "role "+string(u.Role)+", signs in as "+u.Subject)
		case err != nil || known.Disabled || known.Role == u.Role:
			return err
		}
		known, err = scanUser(t.QueryRowContext(ctx, "UPDATE users SET role = $2, updated = $3 WHERE id = $1 RETURNING "+userColumns, known.ID, string(u.Role), millis(time.Now())))
		if err != nil {
			return err
		}
		if err := someRoot(ctx, t); err != nil {
			return err
		}
		return note(ctx, t, by, "user.change", known.Name, "role "+string(u.Role)+", as the provider says")
	})
	return known, err
}

// UserChange is what of a user is to become something else; nil: nothing.
type UserChange struct {
	Role       *Role
	Disabled   *bool
	Password   *string // hash
	MustChange *bool
	Keep       string // hash of the session that goes on although the password changes
}

// what says what changes, for the audit log.
func (c UserChange) what() string {
	s := ""
	add := func(t string) {
		if s != "" {
			s += ", "
		}
		s += t
	}
	if c.Role != nil {
		add("role " + string(*c.Role))
	}
	if c.Disabled != nil {
		add(map[bool]string{true: "disabled", false: "enabled"}[*c.Disabled])
	}
	if c.Password != nil {
		add("password")
	}
	return s
}

// ChangeUser changes a user. Sessions end where the password changes or the
// user is disabled.
func (db *DB) ChangeUser(ctx context.Context, by By, id int64, c UserChange) (u User, err error) {
	err = db.tx(ctx, func(t *sql.Tx) error {
		if err := lock(ctx, t, "users"); err != nil {
			return err
		}
		if u, err = scanUser(t.QueryRowContext(ctx, "SELECT "+userColumns+" FROM users WHERE id = $1", id)); err != nil {
			return err
		}
		set(&u.Role, c.Role)
		set(&u.Disabled, c.Disabled)
		set(&u.Password, c.Password)
		set(&u.MustChange, c.MustChange)
		u, err = scanUser(t.QueryRowContext(ctx, `UPDATE users SET role = $2, disabled = $3, password = $4, must_change = $5, updated = $6
			WHERE id = $1 RETURNING `+userColumns, id, string(u.Role), u.Disabled, u.Password, u.MustChange, millis(time.Now())))
		if err != nil {
			return err
		}
		if c.Password != nil || u.Disabled {
			if _, err := t.ExecContext(ctx, "DELETE FROM sessions WHERE user_id = $1 AND hash <> $2", id, c.Keep); err != nil {
				return err
			}
		}
		if err := someRoot(ctx, t); err != nil {
			return err
		}
		return note(ctx, t, by, "user.change", u.Name, c.what())
	})
	return u, err
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// DeleteUser removes a user with sessions and tokens.
func (db *DB) DeleteUser(ctx context.Context, by By, id int64) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		if err := lock(ctx, t, "users"); err != nil {
			return err
		}
		var name string
		if err := t.QueryRowContext(ctx, "DELETE FROM users WHERE id = $1 RETURNING name", id).Scan(&name); err != nil {
			return err
		}
		if err := someRoot(ctx, t); err != nil {
			return err
		}
		return note(ctx, t, by, "user.delete", name, "")
	})
}

// someRoot reports ErrLastRoot if nobody is left who may do everything.
func someRoot(ctx context.Context, q querier) error {
	var n int
	err := q.QueryRowContext(ctx, "SELECT COUNT(*) FROM users WHERE role = $1 AND NOT disabled", string(Root)).Scan(&n)
	if err == nil && n == 0 {
		err = ErrLastRoot
	}
	return err
}
