package store

import (
	"context"
	"database/sql"
	"strings"
	"time"
)

// Token is a personal access token. Its user's role bounds what it may do, and
// its scopes bound that further.
type Token struct {
	ID      int64
	UserID  int64
	Name    string
	Hash    string
	Scopes  []string
	Created time.Time
	Expires time.Time // zero: never
	Used    time.Time // last, to within a minute; zero: never
}

const tokenColumns = "tokens.id, tokens.user_id, tokens.name, tokens.hash, tokens.scopes, tokens.created, tokens.expires, tokens.used"

func scanToken(s scanner) (k Token, err error) {
	var scopes string
	var created, expires, used int64
	err = s.Scan(&k.ID, &k.UserID, &k.Name, &k.Hash, &scopes, &created, &expires, &used)
	k.Scopes = strings.Fields(scopes)
	k.Created, k.Expires, k.Used = fromMillis(created), fromMillis(expires), fromMillis(used)
	return k, err
}

// CreateToken adds a token of a user.
func (db *DB) CreateToken(ctx context.Context, by By, k Token) (Token, error) {
	detail := "scopes " + strings.Join(k.Scopes, " ")
	err := db.change(ctx, by, "token.create", k.Name, detail, func(t *sql.Tx) (err error) {
		k, err = scanToken(t.QueryRowContext(ctx, `INSERT INTO tokens (user_id, name, hash, scopes, created, expires, used)
			VALUES ($1, $2, $3, $4, $5, $6, 0) RETURNING `+tokenColumns,
			k.UserID, k.Name, k.Hash, strings.Join(k.Scopes, " "), millis(time.Now()), millis(k.Expires)))
		return err
	})
	return k, err
}

// Tokens returns a page of a user's tokens, in the order in which they were
// created.
func (db *DB) Tokens(ctx context.Context, user int64, p Page) ([]Token, error) {
	return list(ctx, db, scanToken, "SELECT "+tokenColumns+" FROM tokens WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT $3", user, p.After, p.Limit)
}

// DeleteToken removes a user's token, which is good for nothing from then on.
func (db *DB) DeleteToken(ctx context.Context, by By, user, id int64) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		var name string
		if err := t.QueryRowContext(ctx, "DELETE FROM tokens WHERE id = $1 AND user_id = $2 RETURNING name", id, user).Scan(&name); err != nil {
			return err
		}
		return note(ctx, t, by, "token.delete", name, "")
	})
}

// TokenUser returns the token with a hash and whose it is. One that has
// expired, or whose user may not sign in, is not found.
func (db *DB) TokenUser(ctx context.Context, hash string) (k Token, u User, err error) {
	now := millis(time.Now())
	k, err = get(ctx, db, scanToken, "SELECT "+tokenColumns+" FROM tokens WHERE hash = $1 AND (expires = 0 OR expires > $2)", hash, now)
	if err != nil {
		return k, u, err
	}
	if u, err = db.User(ctx, k.UserID); err == nil && u.Disabled {
		err = ErrNotFound
	}
	return k, u, err
}

// usedEvery is how exact Token.Used is: not every request is worth a write.
const usedEvery = time.Minute

// UseToken notes that a token was used now.
func (db *DB) UseToken(ctx context.Context, id int64) error {
	now := time.Now()
	_, err := db.write.ExecContext(ctx, "UPDATE tokens SET used = $2 WHERE id = $1 AND used < $3", id, millis(now), millis(now.Add(-usedEvery)))
	return known(err)
}
