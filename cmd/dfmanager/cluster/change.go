package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Clusters is what operators change. Values that are wrong are field.Errors.
type Clusters struct {
	Store   *store.DB
	Key     *seal.Key // of the CAs' keys
	Changed func()    // has nodes hear at once of what has changed; nil: they hear soon
}

func (c *Clusters) changed() {
	if c.Changed != nil {
		c.Changed()
	}
}

// Order is a cluster to be made.
type Order struct {
	Name     string         `json:"name"`
	Scope    store.Scope    `json:"scope,omitempty"`
	Settings store.Settings `json:"settings,omitempty"`
}

// Patch is what of a cluster is to become something else; nil: it stays.
type Patch struct {
	Name     *string         `json:"name"`
	Scope    *store.Scope    `json:"scope"`
	Settings *store.Settings `json:"settings"`
	Standard bool            `json:"default,omitempty"`
}

func (p Patch) check() error {
	wrong := field.Errors{}
	if p.Name != nil {
		wrong.Check("name", CheckName(*p.Name))
	}
	if p.Scope != nil {
		wrong.Check("scope", CheckScope(*p.Scope))
	}
	if p.Settings != nil {
		wrong.Check("settings", CheckSettings(*p.Settings))
	}
	return wrong.Err()
}

// Create makes a cluster with a CA of its own.
func (c *Clusters) Create(ctx context.Context, by store.By, o Order) (store.Cluster, error) {
	if err := (Patch{Name: &o.Name, Scope: &o.Scope, Settings: &o.Settings}).check(); err != nil {
		return store.Cluster{}, err
	}
	k, err := New(o.Name, c.Key)
	if err != nil {
		return store.Cluster{}, err
	}
	k.Scope, k.Settings = o.Scope, o.Settings
	defer c.changed()
	return c.Store.CreateCluster(ctx, by, k)
}

// Change changes a cluster, of which its nodes hear.
func (c *Clusters) Change(ctx context.Context, by store.By, id int64, p Patch) (store.Cluster, error) {
	if err := p.check(); err != nil {
		return store.Cluster{}, err
	}
	defer c.changed()
	return c.Store.ChangeCluster(ctx, by, id, store.ClusterChange(p))
}

// Revoke has the others of the cluster refuse a node.
func (c *Clusters) Revoke(ctx context.Context, by store.By, node int64) (store.Node, error) {
	defer c.changed()
	return c.Store.RevokeNode(ctx, by, node)
}

// TokenOrder is a join token to be made.
type TokenOrder struct {
	Cluster int64  `json:"cluster_id,omitempty"` // 0: the one that fits
	Role    string `json:"role"`
	Once    bool   `json:"once,omitempty"`
	Minutes int64  `json:"expires_in_minutes"`
}

// CreateToken makes a join token; the text is shown by nothing else.
func (c *Clusters) CreateToken(ctx context.Context, by store.By, o TokenOrder) (store.JoinToken, string, error) {
	wrong := field.Errors{}
	wrong.Check("role", CheckRole(o.Role))
	if o.Minutes < 1 || o.Minutes > int64(Life/time.Minute) {
		wrong["expires_in_minutes"] = "must be from 1 to 525600, which is a year"
	}
	if err := wrong.Err(); err != nil {
		return store.JoinToken{}, "", err
	}
	k, text, err := NewToken(ctx, c.Store, by, store.JoinToken{
		Cluster: o.Cluster, Role: o.Role, Once: o.Once, Expires: time.Now().Add(time.Duration(o.Minutes) * time.Minute),
	})
	if errors.Is(err, store.ErrNotFound) {
		err = field.Errors{"cluster_id": "there is no such cluster"}
	}
	return k, text, err
}
