package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// Cluster is schedulers, seeds and hosts that belong together, with a CA of
// their own.
type Cluster struct {
	ID       int64
	Name     string
	Standard bool // of nodes that no scope names
	Scope    Scope
	Settings Settings
	CA       []byte // certificate, DER
	Key      []byte // the CA's, sealed
	Version  int64  // counts what nodes have to hear of
	Created  time.Time
	Updated  time.Time
}

// Scope says which nodes a cluster is for. A list that is empty says nothing; of
// each other one, an entry must fit.
type Scope struct {
	CIDRs     []string `json:"cidrs"`
	Hostnames []string `json:"hostnames"` // patterns, as of path.Match
	IDCs      []string `json:"idcs"`
	Locations []string `json:"locations"` // or what these begin with, "region|zone"
}

// Settings are pushed to all nodes of a cluster.
type Settings struct {
	Download       int64    `json:"download"` // bytes per second of each host; 0: as it is configured there
	Upload         int64    `json:"upload"`
	Origin         int64    `json:"origin"`
	OriginRequests int64    `json:"origin_requests"` // to one registry at a time; 0: the usual
	Blocked        []string `json:"blocked"`         // names of nodes that the others refuse
}

const clusterColumns = "clusters.id, clusters.name, clusters.standard, clusters.scope, clusters.settings, clusters.ca, clusters.ca_key, clusters.version, clusters.created, clusters.updated"

func scanCluster(s scanner) (c Cluster, err error) {
	var scope, settings string
	var created, updated int64
	err = s.Scan(&c.ID, &c.Name, &c.Standard, &scope, &settings, &c.CA, &c.Key, &c.Version, &created, &updated)
	if err != nil {
		return c, err
	}
	c.Created, c.Updated = fromMillis(created), fromMillis(updated)
	if err := json.Unmarshal([]byte(scope), &c.Scope); err != nil {
		return c, fmt.Errorf("scope of cluster %s: %w", c.Name, err)
	}
	if err := json.Unmarshal([]byte(settings), &c.Settings); err != nil {
		return c, fmt.Errorf("settings of cluster %s: %w", c.Name, err)
	}
	return c, nil
}

// text is how scopes and settings are kept.
func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a type of ours
	}
	return string(data)
}

// FirstCluster adds a standard cluster if there is no cluster yet, and reports
// whether it did.
func (db *DB) FirstCluster(ctx context.Context, c Cluster) (created bool, err error) {
	err = db.tx(ctx, func(t *sql.Tx) error {
		if err := lock(ctx, t, "clusters"); err != nil {
			return err
		}
		var n int
		if err := t.QueryRowContext(ctx, "SELECT COUNT(*) FROM clusters").Scan(&n); err != nil || n > 0 {
			return err
		}
		created, c.Standard = true, true
		if _, err := insertCluster(ctx, t, c); err != nil {
			return err
		}
		return note(ctx, t, By{Actor: "dfmanager"}, "cluster.create", c.Name, "the first one")
	})
	return created && err == nil, err
}

// CreateCluster adds a cluster: Name, Scope, Settings, CA and Key of c count.
func (db *DB) CreateCluster(ctx context.Context, by By, c Cluster) (Cluster, error) {
	c.Standard = false
	err := db.change(ctx, by, "cluster.create", c.Name, "", func(t *sql.Tx) (err error) {
		c, err = insertCluster(ctx, t, c)
		return err
	})
	return c, err
}

func insertCluster(ctx context.Context, q querier, c Cluster) (Cluster, error) {
	return scanCluster(q.QueryRowContext(ctx, `INSERT INTO clusters (name, standard, scope, settings, ca, ca_key, version, created, updated)
		VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $7) RETURNING `+clusterColumns,
		c.Name, c.Standard, text(c.Scope), text(c.Settings), c.CA, c.Key, millis(time.Now())))
}

// Cluster returns a cluster.
func (db *DB) Cluster(ctx context.Context, id int64) (Cluster, error) {
	return get(ctx, db, scanCluster, "SELECT "+clusterColumns+" FROM clusters WHERE id = $1", id)
}

// ClusterByName returns a cluster.
func (db *DB) ClusterByName(ctx context.Context, name string) (Cluster, error) {
	return get(ctx, db, scanCluster, "SELECT "+clusterColumns+" FROM clusters WHERE name = $1", name)
}

// Clusters returns a page of all clusters, in the order in which they were
// created.
func (db *DB) Clusters(ctx context.Context, p Page) ([]Cluster, error) {
	return list(ctx, db, scanCluster, "SELECT "+clusterColumns+" FROM clusters WHERE id > $1 ORDER BY id LIMIT $2", p.After, p.Limit)
}

// AllClusters returns all clusters.
func (db *DB) AllClusters(ctx context.Context) ([]Cluster, error) {
	return list(ctx, db, scanCluster, "SELECT "+clusterColumns+" FROM clusters ORDER BY id")
}

// ClusterChange is what of a cluster is to become something else; nil: nothing.
type ClusterChange struct {
	Name     *string
	Scope    *Scope
	Settings *Settings
	Standard bool // it becomes the one of nodes that no scope names
}

// what says what changes, for the audit log.
func (c ClusterChange) what() string {
	s := ""
	if c.Name != nil {
		s += " name=" + *c.Name
	}
	if c.Scope != nil {
		s += " scope=" + text(c.Scope)
	}
	if c.Settings != nil {
		s += " settings=" + text(c.Settings)
	}
	if c.Standard {
		s += " standard"
	}
	return s
}

// ChangeCluster changes a cluster, of which its nodes hear.
func (db *DB) ChangeCluster(ctx context.Context, by By, id int64, c ClusterChange) (k Cluster, err error) {
	err = db.tx(ctx, func(t *sql.Tx) error {
		if err := lock(ctx, t, "clusters"); err != nil {
			return err
		}
		if k, err = scanCluster(t.QueryRowContext(ctx, "SELECT "+clusterColumns+" FROM clusters WHERE id = $1", id)); err != nil {
			return err
		}
		set(&k.Name, c.Name)
		set(&k.Scope, c.Scope)
		set(&k.Settings, c.Settings)
		if c.Standard {
			k.Standard = true
			if _, err := t.ExecContext(ctx, "UPDATE clusters SET standard = FALSE WHERE id <> $1", id); err != nil {
				return err
			}
		}
		k, err = scanCluster(t.QueryRowContext(ctx, `UPDATE clusters SET name = $2, scope = $3, settings = $4, standard = $5, version = version + 1, updated = $6
			WHERE id = $1 RETURNING `+clusterColumns, id, k.Name, text(k.Scope), text(k.Settings), k.Standard, millis(time.Now())))
		if err != nil {
			return err
		}
		return note(ctx, t, by, "cluster.change", k.Name, c.what())
	})
	return k, err
}

// DeleteCluster removes a cluster with its join tokens. The standard one, and one
// that has nodes, give ErrState.
func (db *DB) DeleteCluster(ctx context.Context, by By, id int64) error {
	return db.tx(ctx, func(t *sql.Tx) error {
		if err := lock(ctx, t, "clusters"); err != nil {
			return err
		}
		k, err := scanCluster(t.QueryRowContext(ctx, "SELECT "+clusterColumns+" FROM clusters WHERE id = $1", id))
		if err != nil {
			return err
		}
		var n int
		if err := t.QueryRowContext(ctx, "SELECT COUNT(*) FROM nodes WHERE cluster_id = $1", id).Scan(&n); err != nil {
			return err
		}
		if k.Standard || n > 0 {
			return ErrState
		}
		if _, err := t.ExecContext(ctx, "DELETE FROM clusters WHERE id = $1", id); err != nil {
			return err
		}
		return note(ctx, t, by, "cluster.delete", k.Name, "")
	})
}
