// Package cluster knows what makes a cluster: its CA and the certificates that
// gives, who may join, and which cluster is the best one for a node.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"net/netip"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// Standard is the name of the cluster that there is at first.
const Standard = "default"

// New makes a cluster with a CA of its own, to be stored.
func New(name string, key *seal.Key) (store.Cluster, error) {
	ca, secret, err := newCA(name)
	if err != nil {
		return store.Cluster{}, fmt.Errorf("CA of cluster %s: %w", name, err)
	}
	return store.Cluster{Name: name, CA: ca, Key: key.Seal(secret, purpose(ca))}, nil
}

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckName reports what is wrong with a cluster's name.
func CheckName(s string) error {
	if !name.MatchString(s) {
		return errors.New("must be 1 to 63 lower-case letters, digits or . _ -, and begin with a letter or digit")
	}
	return nil
}

const maxEntries, maxEntry = 1000, 200

// CheckScope reports what is wrong with a scope.
func CheckScope(s store.Scope) error {
	for what, list := range map[string][]string{"cidrs": s.CIDRs, "hostnames": s.Hostnames, "idcs": s.IDCs, "locations": s.Locations} {
		if err := checkList(list); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	for _, c := range s.CIDRs {
		if _, err := netip.ParsePrefix(c); err != nil {
			return fmt.Errorf("cidrs: %q is not a CIDR such as 10.0.0.0/8", c)
		}
	}
	for _, h := range s.Hostnames {
		if _, err := path.Match(h, ""); err != nil {
			return fmt.Errorf("hostnames: %q is not a pattern such as node-*", h)
		}
	}
	return nil
}

func checkList(list []string) error {
	if len(list) > maxEntries {
		return fmt.Errorf("there may be %d at most", maxEntries)
	}
	for _, s := range list {
		if s == "" || len(s) > maxEntry {
			return fmt.Errorf("%.40q has not 1 to %d characters", s, maxEntry)
		}
	}
	return nil
}

// leastLimit is the least that is taken for a limit and not for a slip.
const leastLimit = 16 << 10

// CheckSettings reports what is wrong with settings.
func CheckSettings(s store.Settings) error {
	for what, n := range map[string]int64{"download": s.Download, "upload": s.Upload, "origin": s.Origin} {
		if n != 0 && n < leastLimit {
			return fmt.Errorf("%s: must be 0, which is no limit, or %d bytes per second at least", what, leastLimit)
		}
	}
	if s.OriginRequests < 0 || s.OriginRequests > 1000 {
		return errors.New("origin_requests: must be from 0, which is the usual number, to 1000")
	}
	if len(s.Blocked) > maxEntries {
		return fmt.Errorf("blocked: there may be %d at most", maxEntries)
	}
	for _, b := range s.Blocked {
		if err := p2p.HostID(b).Validate(); err != nil {
			return fmt.Errorf("blocked: %.40q is not a node's name", b)
		}
	}
	return nil
}

// Roles are what nodes may be.
var Roles = []wire.Role{wire.RoleHost, wire.RoleSeed, wire.RoleScheduler}

// CheckRole reports what no node can be.
func CheckRole(role string) error {
	for _, r := range Roles {
		if string(r) == role {
			return nil
		}
	}
	return fmt.Errorf("%.40q is not one of %v", role, Roles)
}

// Life is the longest that a join token may be good for.
const Life = 365 * 24 * time.Hour

// NewToken makes a join token and stores it; the text is what nodes are given.
// Cluster, Role, Once and Expires of k count. Without a cluster nodes get into the
// one that fits, and the token names the CA of the standard one, by which they
// know the manager.
func NewToken(ctx context.Context, db *store.DB, by store.By, k store.JoinToken) (_ store.JoinToken, text string, err error) {
	var c store.Cluster
	if k.Cluster != 0 {
		c, err = db.Cluster(ctx, k.Cluster)
	} else {
		c, err = standard(ctx, db)
	}
	if err != nil {
		return k, "", err
	}
	t := manage.NewToken(c.CA)
	k.Hash = t.Hash()
	k, err = db.CreateJoinToken(ctx, by, k)
	return k, t.Text(), err
}

func standard(ctx context.Context, db *store.DB) (store.Cluster, error) {
	all, err := db.AllClusters(ctx)
	if err != nil {
		return store.Cluster{}, err
	}
	return Best(all, Place{})
}

// Place is where a node is, as far as that decides about its cluster.
type Place struct {
	Addr          netip.Addr
	Hostname      string
	IDC, Location string
}

// Best returns the cluster for a node: of those whose whole scope fits, the one
// that says most, then the one with the longest CIDR; else the standard one.
func Best(all []store.Cluster, p Place) (best store.Cluster, err error) {
	top := score{}
	for _, c := range all {
		s, fits := fit(c.Scope, p)
		switch {
		case fits && s.kinds > 0 && s.above(top):
			best, top = c, s
		case c.Standard && top.kinds == 0:
			best = c
		}
	}
	if best.ID == 0 {
		return best, fmt.Errorf("no cluster fits: %w", store.ErrNotFound)
	}
	return best, nil
}

// score is how well a scope fits.
type score struct{ kinds, bits, place int }

func (s score) above(o score) bool {
	switch {
	case s.kinds != o.kinds:
		return s.kinds > o.kinds
	case s.bits != o.bits:
		return s.bits > o.bits
	}
	return s.place > o.place
}

// fit scores a scope that fits.
func fit(s store.Scope, p Place) (n score, fits bool) {
	kind := func(list []string, matches func(string) bool) bool {
		if len(list) == 0 {
			return true
		}
		found := false
		for _, entry := range list {
			found = matches(entry) || found // all of them, for the longest
		}
		if found {
			n.kinds++
		}
		return found
	}
	fits = kind(s.CIDRs, func(c string) bool {
		prefix, err := netip.ParsePrefix(c)
		if err != nil || !prefix.Contains(p.Addr) {
			return false
		}
		n.bits = max(n.bits, prefix.Bits())
		return true
	}) && kind(s.Hostnames, func(h string) bool {
		ok, err := path.Match(h, p.Hostname)
		return ok && err == nil
	}) && kind(s.IDCs, func(i string) bool { return i == p.IDC }) && kind(s.Locations, func(l string) bool {
		if p.Location != l && !strings.HasPrefix(p.Location, l+"|") {
			return false
		}
		n.place = max(n.place, len(l))
		return true
	})
	return n, fits
}
