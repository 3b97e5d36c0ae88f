package store

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
	"time"
)

// Traffic is bytes of blobs.
type Traffic struct {
	Origin int64 // came from origins
	Peers  int64 // came from other hosts
	Store  int64 // were there when they were asked for
	Sent   int64 // went to other hosts
}

// Add adds o to t.
func (t *Traffic) Add(o Traffic) {
	t.Origin += o.Origin
	t.Peers += o.Peers
	t.Store += o.Store
	t.Sent += o.Sent
}

// Mover is whose traffic is counted together.
type Mover struct {
	Cluster int64
	Role    string
}

// Load is how busy a node was when it said so last.
type Load struct {
	Node    int64
	At      time.Time
	Origin  int64 // bytes per second, over the seconds before
	Peers   int64
	Sent    int64
	Kept    int64 // bytes of blobs on its disk
	Uploads int64 // bodies on their way to other hosts
	Waiting int64 // reads that wait for bytes
}

const (
	span        = int64(5 * time.Minute / time.Millisecond) // that a row of traffic is about
	keepTraffic = 35 * 24 * time.Hour
)

// AddTraffic adds to what was moved in the five minutes around now, and notes how
// busy nodes are. Of a cluster or node that is no more nothing is kept.
func (db *DB) AddTraffic(ctx context.Context, now time.Time, moved map[Mover]Traffic, loads []Load) error {
	movers := slices.SortedFunc(maps.Keys(moved), func(a, b Mover) int { return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Role, b.Role)) })
	loads = slices.SortedFunc(slices.Values(loads), func(a, b Load) int { return cmp.Compare(a.Node, b.Node) })
	return db.tx(ctx, func(t *sql.Tx) error { // rows in one order, or two managers wait for each other
		for _, m := range movers {
			n := moved[m]
			_, err := t.ExecContext(ctx, `INSERT INTO traffic (cluster_id, at, role, origin, peers, store, sent)
				SELECT id, $2, $3, $4, $5, $6, $7 FROM clusters WHERE id = $1
				ON CONFLICT (cluster_id, at, role) DO UPDATE SET origin = traffic.origin + excluded.origin, peers = traffic.peers + excluded.peers,
				store = traffic.store + excluded.store, sent = traffic.sent + excluded.sent`,
				m.Cluster, millis(now)/span*span, m.Role, n.Origin, n.Peers, n.Store, n.Sent)
			if err != nil {
				return err
			}
		}
		for _, l := range loads {
			_, err := t.ExecContext(ctx, `INSERT INTO loads (node_id, at, origin, peers, sent, kept, uploads, waiting)
				SELECT id, $2, $3, $4, $5, $6, $7, $8 FROM nodes WHERE id = $1
				ON CONFLICT (node_id) DO UPDATE SET at = excluded.at, origin = excluded.origin, peers = excluded.peers, sent = excluded.sent,
				kept = excluded.kept, uploads = excluded.uploads, waiting = excluded.waiting`,
				l.Node, millis(l.At), l.Origin, l.Peers, l.Sent, l.Kept, l.Uploads, l.Waiting)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Loads returns how busy a cluster's nodes with IDs from first to last are, by
// ID. Nodes that have said nothing are missing.
func (db *DB) Loads(ctx context.Context, cluster, first, last int64) (map[int64]Load, error) {
	all, err := list(ctx, db, func(s scanner) (l Load, err error) {
		var at int64
		err = s.Scan(&l.Node, &at, &l.Origin, &l.Peers, &l.Sent, &l.Kept, &l.Uploads, &l.Waiting)
		l.At = fromMillis(at)
		return l, err
	}, `SELECT node_id, at, loads.origin, peers, sent, kept, uploads, waiting FROM loads JOIN nodes ON nodes.id = loads.node_id
		WHERE cluster_id = $1 AND nodes.id >= $2 AND nodes.id <= $3`, cluster, first, last)
	byNode := make(map[int64]Load, len(all))
	for _, l := range all {
		byNode[l.Node] = l
	}
	return byNode, err
}

// TrafficHour is what was moved in one hour.
type TrafficHour struct {
	Start time.Time
	Hosts Traffic // of hosts, for their containers
	Seeds Traffic
}

// TrafficHours returns the last n hours of a cluster, the current one last; of all
// clusters, if cluster is 0.
func (db *DB) TrafficHours(ctx context.Context, cluster int64, now time.Time, n int) ([]TrafficHour, error) {
	all := make([]TrafficHour, n)
	first := millis(now)/hour - int64(n) + 1
	err := db.read(ctx, func(q querier) error {
		for i := range all {
			all[i] = TrafficHour{Start: fromMillis((first + int64(i)) * hour)}
		}
		return each(ctx, q, func(r *sql.Rows) error {
			var h int64
			var role string
			var t Traffic
			if err := r.Scan(&h, &role, &t.Origin, &t.Peers, &t.Store, &t.Sent); err != nil {
				return err
			}
			at := &all[min(max(h-first, 0), int64(n)-1)] // a clock of another manager may be ahead
			if role == "seed" {
				at.Seeds.Add(t)
			} else {
				at.Hosts.Add(t)
			}
			return nil
		}, `SELECT at / 3600000, role, CAST(SUM(origin) AS BIGINT), CAST(SUM(peers) AS BIGINT), CAST(SUM(store) AS BIGINT), CAST(SUM(sent) AS BIGINT) FROM traffic
			WHERE at >= $1 AND ($2 = 0 OR cluster_id = $2) GROUP BY 1, 2`, first*hour, cluster)
	})
	return all, err
}
