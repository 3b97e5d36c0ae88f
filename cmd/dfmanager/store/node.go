package store

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Node is a scheduler, seed or host that has joined a cluster.
type Node struct {
	ID       int64
	Cluster  int64
	Token    int64 // it joined with
	Name     string
	Role     string // host, seed or scheduler
	Key      string // hash of the public key of its newest certificate
	Until    time.Time
	Revoked  time.Time // zero: it is not
	Address  string    // others dial
	Hostname string
	IDC      string
	Location string
	Version  string
	Alive    bool      // a manager that lives has its stream
	Seen     time.Time // when it came or went last
	Joined   time.Time
}

// State is what is to be shown of it.
func (n Node) State() string {
	switch {
	case !n.Revoked.IsZero():
		return "revoked"
	case n.Alive:
		return "alive"
	}
	return "dead"
}

// The time is the first argument of every statement with these columns.
const nodeColumns = `nodes.id, nodes.cluster_id, nodes.token_id, nodes.name, nodes.role, nodes.key, nodes.until, nodes.revoked, nodes.address, nodes.hostname, nodes.idc,
	nodes.location, nodes.version, ` + nodeAlive + `, nodes.seen, nodes.joined`

const nodeAlive = "EXISTS (SELECT 1 FROM managers WHERE managers.name = nodes.manager AND managers.lease > $1)"

func scanNode(s scanner) (n Node, err error) {
	var until, revoked, seen, joined int64
	err = s.Scan(&n.ID, &n.Cluster, &n.Token, &n.Name, &n.Role, &n.Key, &until, &revoked, &n.Address, &n.Hostname, &n.IDC,
		&n.Location, &n.Version, &n.Alive, &seen, &joined)
	n.Until, n.Revoked, n.Seen, n.Joined = fromMillis(until), fromMillis(revoked), fromMillis(seen), fromMillis(joined)
	return n, err
}

// Node returns a node.
func (db *DB) Node(ctx context.Context, id int64) (Node, error) {
	return get(ctx, db, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE id = $2", millis(time.Now()), id)
}

// NodeByName returns a node of a cluster.
func (db *DB) NodeByName(ctx context.Context, cluster int64, name string) (Node, error) {
	return get(ctx, db, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE cluster_id = $2 AND name = $3", millis(time.Now()), cluster, name)
}

// Nodes returns a page of a cluster's nodes, in the order in which they first
// joined; of one role, unless that is "".
func (db *DB) Nodes(ctx context.Context, cluster int64, role string, p Page) ([]Node, error) {
	return list(ctx, db, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE cluster_id = $2 AND id > $3 AND ($4 = '' OR role = $4) ORDER BY id LIMIT $5",
		millis(time.Now()), cluster, p.After, role, p.Limit)
}

// Schedulers returns the addresses of a cluster's schedulers that live, or did
// so since then, sorted.
func (db *DB) Schedulers(ctx context.Context, cluster int64, since time.Time) ([]string, error) {
	return list(ctx, db, func(s scanner) (addr string, err error) { return addr, s.Scan(&addr) },
		"SELECT DISTINCT address FROM nodes WHERE cluster_id = $2 AND role = 'scheduler' AND address <> '' AND revoked = 0 AND (seen > $3 OR "+nodeAlive+") ORDER BY address",
		millis(time.Now()), cluster, millis(since))
}

// Revoked returns the names of a cluster's nodes that were revoked and still
// have a certificate that is good.
func (db *DB) Revoked(ctx context.Context, cluster int64) ([]string, error) {
	return list(ctx, db, func(s scanner) (name string, err error) { return name, s.Scan(&name) },
		"SELECT name FROM nodes WHERE cluster_id = $1 AND revoked > 0 AND until > $2 ORDER BY name", cluster, millis(time.Now()))
}

// Census is how many nodes of a cluster and role there are.
type Census struct {
	Cluster             int64
	Role                string
	All, Alive, Revoked int64
}

// Census counts the nodes of all clusters.
func (db *DB) Census(ctx context.Context) ([]Census, error) {
	return list(ctx, db, func(s scanner) (c Census, err error) {
		return c, s.Scan(&c.Cluster, &c.Role, &c.All, &c.Alive, &c.Revoked)
	}, `SELECT cluster_id, role, COUNT(*), SUM(CASE WHEN `+nodeAlive+` THEN 1 ELSE 0 END), SUM(CASE WHEN revoked > 0 THEN 1 ELSE 0 END)
		FROM nodes GROUP BY cluster_id, role ORDER BY cluster_id, role`, millis(time.Now()))
}

// RenewNode notes a new certificate of a node that is not revoked; ErrNotFound:
// it is, or there is no such node.
func (db *DB) RenewNode(ctx context.Context, cluster int64, name, role, key string, until time.Time) error {
	return known(one(db.write.ExecContext(ctx, "UPDATE nodes SET key = $4, until = $5 WHERE cluster_id = $1 AND name = $2 AND role = $3 AND revoked = 0",
		cluster, name, role, key, millis(until))))
}

// RevokeNode has the others of the cluster refuse a node, which can renew its
// certificate no more. It stays in the list until that has expired.
func (db *DB) RevokeNode(ctx context.Context, by By, id int64) (n Node, err error) {
	err = db.tx(ctx, func(t *sql.Tx) error {
		now := millis(time.Now())
		n, err = scanNode(t.QueryRowContext(ctx, "UPDATE nodes SET revoked = CASE WHEN revoked = 0 THEN $1 ELSE revoked END WHERE id = $2 RETURNING "+nodeColumns, now, id))
		if err != nil {
			return err
		}
		if err := touchCluster(ctx, t, n.Cluster); err != nil {
			return err
		}
		return note(ctx, t, by, "node.revoke", n.Name, "role "+n.Role)
	})
	return n, err
}

// touchCluster has a cluster's nodes hear of what is new.
func touchCluster(ctx context.Context, q querier, id int64) error {
	_, err := q.ExecContext(ctx, "UPDATE clusters SET version = version + 1 WHERE id = $1", id)
	return err
}

// Versions returns the version of each cluster.
func (db *DB) Versions(ctx context.Context) (map[int64]int64, error) {
	type pair struct{ id, version int64 }
	all, err := list(ctx, db, func(s scanner) (p pair, err error) { return p, s.Scan(&p.id, &p.version) }, "SELECT id, version FROM clusters")
	versions := map[int64]int64{}
	for _, p := range all {
		versions[p.id] = p.version
	}
	return versions, err
}

// Presence is a node that came or went.
type Presence struct {
	Node    Node  // ID; of one that came also Cluster, Role, Address, Hostname, IDC, Location and Version
	Stream  int64 // tells the streams of one manager apart
	Present bool
}

// SetPresence notes which nodes came to a manager, and left it, in that order.
// One that has come to another manager since is not touched by its leaving.
func (db *DB) SetPresence(ctx context.Context, manager string, all []Presence) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		now := millis(time.Now())
		for _, p := range all {
			n := p.Node
			if !p.Present {
				if _, err := t.ExecContext(ctx, "UPDATE nodes SET manager = '', seen = $4 WHERE id = $1 AND manager = $2 AND stream = $3", n.ID, manager, p.Stream, now); err != nil {
					return err
				}
				continue
			}
			_, err := t.ExecContext(ctx, `UPDATE nodes SET manager = $2, stream = $3, seen = $4, address = $5, hostname = $6, idc = $7, location = $8, version = $9 WHERE id = $1`,
				n.ID, manager, p.Stream, now, n.Address, n.Hostname, n.IDC, n.Location, n.Version)
			if err == nil && n.Role == "scheduler" {
				err = touchCluster(ctx, t, n.Cluster)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// KeepManager says that a manager is alive for that long from now on, and reports
// whether it was known: of one that was not for a while, the others may have
// forgotten which nodes it has.
func (db *DB) KeepManager(ctx context.Context, name string, lease time.Duration) (was bool, err error) {
	until := millis(time.Now().Add(lease))
	err = known(one(db.write.ExecContext(ctx, "UPDATE managers SET lease = $2 WHERE name = $1", name, until)))
	if !errors.Is(err, ErrNotFound) {
		return err == nil, err
	}
	_, err = db.write.ExecContext(ctx, "INSERT INTO managers (name, lease) VALUES ($1, $2)", name, until)
	return false, known(err)
}

// ForgetManager says that a manager has ended: its nodes have gone with it.
func (db *DB) ForgetManager(ctx context.Context, name string) error {
	_, err := db.write.ExecContext(ctx, "DELETE FROM managers WHERE name = $1", name)
	return known(err)
}

// Sweep forgets nodes that are dead and whose certificate has expired, managers
// that are not heard of any more, and the streams that those had, and old traffic.
func (db *DB) Sweep(ctx context.Context) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		now := time.Now()
		if _, err := t.ExecContext(ctx, "DELETE FROM managers WHERE lease < $1", millis(now.Add(-time.Minute))); err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, "UPDATE nodes SET manager = '', seen = $1 WHERE manager <> '' AND NOT EXISTS (SELECT 1 FROM managers WHERE managers.name = nodes.manager)", millis(now)); err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, "DELETE FROM nodes WHERE until < $1 AND manager = ''", millis(now)); err != nil {
			return err
		}
		_, err := t.ExecContext(ctx, "DELETE FROM traffic WHERE at < $1", millis(now.Add(-keepTraffic)))
		return err
	})
}
