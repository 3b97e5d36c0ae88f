package store

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// JoinToken lets a machine become a node.
type JoinToken struct {
	ID      int64
	Cluster int64  // 0: the one whose scope fits
	Role    string // host, seed or scheduler
	Hash    string
	Once    bool
	Uses    int64
	Used    time.Time // last; zero: never
	Actor   string    // who made it
	Created time.Time
	Expires time.Time
}

const joinColumns = "join_tokens.id, COALESCE(join_tokens.cluster_id, 0), join_tokens.role, join_tokens.hash, join_tokens.once, join_tokens.uses, join_tokens.used, join_tokens.actor, join_tokens.created, join_tokens.expires"

func scanJoinToken(s scanner) (k JoinToken, err error) {
	var used, created, expires int64
	err = s.Scan(&k.ID, &k.Cluster, &k.Role, &k.Hash, &k.Once, &k.Uses, &used, &k.Actor, &created, &expires)
	k.Used, k.Created, k.Expires = fromMillis(used), fromMillis(created), fromMillis(expires)
	return k, err
}

// CreateJoinToken adds a join token: Cluster, Role, Hash, Once and Expires of k
// count. Those that expired a day ago are forgotten.
func (db *DB) CreateJoinToken(ctx context.Context, by By, k JoinToken) (JoinToken, error) {
	var cluster any
	if k.Cluster != 0 {
		cluster = k.Cluster
	}
	now := time.Now()
	err := db.change(ctx, by, "join_token.create", k.Role, "until "+k.Expires.UTC().Format(time.RFC3339), func(t *sql.Tx) (err error) {
		if _, err := t.ExecContext(ctx, "DELETE FROM join_tokens WHERE expires < $1", millis(now.AddDate(0, 0, -1))); err != nil {
			return err
		}
		k, err = scanJoinToken(t.QueryRowContext(ctx, `INSERT INTO join_tokens (cluster_id, role, hash, once, uses, used, actor, created, expires)
			VALUES ($1, $2, $3, $4, 0, 0, $5, $6, $7) RETURNING `+joinColumns,
			cluster, k.Role, k.Hash, k.Once, by.Actor, millis(now), millis(k.Expires)))
		return err
	})
	return k, err
}

// JoinTokens returns a page of the join tokens, in the order in which they were
// created.
func (db *DB) JoinTokens(ctx context.Context, p Page) ([]JoinToken, error) {
	return list(ctx, db, scanJoinToken, "SELECT "+joinColumns+" FROM join_tokens WHERE id > $1 ORDER BY id LIMIT $2", p.After, p.Limit)
}

// DeleteJoinToken removes a join token. Nodes that joined with it stay.
func (db *DB) DeleteJoinToken(ctx context.Context, by By, id int64) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		var role string
		if err := t.QueryRowContext(ctx, "DELETE FROM join_tokens WHERE id = $1 RETURNING role", id).Scan(&role); err != nil {
			return err
		}
		return note(ctx, t, by, "join_token.delete", role, "")
	})
}

// JoinTokenByHash returns a join token that has not expired. A one-time token
// that was used is one, too: Join knows whether it is its user who asks again.
func (db *DB) JoinTokenByHash(ctx context.Context, hash string) (JoinToken, error) {
	return get(ctx, db, scanJoinToken, "SELECT "+joinColumns+" FROM join_tokens WHERE hash = $1 AND expires > $2", hash, millis(time.Now()))
}

// Join makes a node of whoever has token k: Cluster, Name, Role, Key, Until,
// Hostname, IDC and Location of n count. Who asks again with the same name and
// key has not heard the answer, and gets it again. ErrNotFound says that the token
// is not good any more, ErrState that the node was revoked, and ErrExists that
// another one has that name.
func (db *DB) Join(ctx context.Context, by By, k JoinToken, n Node) (Node, error) {
	now := time.Now()
	err := db.tx(ctx, func(t *sql.Tx) error {
		if err := lock(ctx, t, "clusters"); err != nil {
			return err
		}
		old, err := scanNode(t.QueryRowContext(ctx, "SELECT "+nodeColumns+" FROM nodes WHERE cluster_id = $2 AND name = $3", millis(now), n.Cluster, n.Name))
		if err = known(err); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		again := old.ID != 0 && old.Token == k.ID && old.Key == n.Key
		switch {
		case !old.Revoked.IsZero():
			return ErrState
		case old.ID != 0 && !again && old.Until.After(now):
			return ErrExists
		}
		if err := useJoinToken(ctx, t, k.ID, again, now); err != nil {
			return err
		}
		n, err = scanNode(t.QueryRowContext(ctx, `INSERT INTO nodes
			(cluster_id, token_id, name, role, key, until, revoked, address, hostname, idc, location, version, manager, stream, seen, joined)
			VALUES ($2, $3, $4, $5, $6, $7, 0, '', $8, $9, $10, '', '', 0, 0, $1)
			ON CONFLICT (cluster_id, name) DO UPDATE SET token_id = $3, role = $5, key = $6, until = $7, hostname = $8, idc = $9, location = $10, joined = $1
			RETURNING `+nodeColumns, millis(now), n.Cluster, k.ID, n.Name, n.Role, n.Key, millis(n.Until), n.Hostname, n.IDC, n.Location))
		if err != nil {
			return err
		}
		return note(ctx, t, by, "node.join", n.Name, "role "+n.Role)
	})
	return n, err
}

// useJoinToken counts one more use, unless it is the same one again.
func useJoinToken(ctx context.Context, q querier, id int64, again bool, now time.Time) error {
	more := 1
	if again {
		more = 0
	}
	return one(q.ExecContext(ctx, "UPDATE join_tokens SET uses = uses + $2, used = $3 WHERE id = $1 AND expires > $3 AND (NOT once OR uses + $2 <= 1)",
		id, more, millis(now)))
}
