package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/managed"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/bucket"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// leastLimit is the least that is taken for a limit and not for a slip.
const leastLimit = 16 << 10

// maxPlace is what the protocol has room for.
const maxPlace = 128

func (p PeerConfig) validate(bad func(key, format string, args ...any)) {
	for _, s := range p.Schedulers {
		if !daemon.IsDialable(s) {
			bad("peer.schedulers", "%q is not host:port, such as scheduler-0:8002", s)
		}
	}
	if !daemon.IsHostPort(p.Listen) {
		bad("peer.listen", "%q is not host:port", p.Listen)
	}
	if p.Advertise != "" && !daemon.IsDialable(p.Advertise) {
		bad("peer.advertise", "%q is not host:port as others can dial it; leave it empty for the address that the scheduler sees", p.Advertise)
	}
	if p.Seed && len(p.Schedulers) == 0 && p.Manager == "" {
		bad("peer.seed", "a seed does what schedulers say: set peer.schedulers, or peer.manager")
	}
	if p.Manager != "" && !daemon.IsDialable(p.Manager) {
		bad("peer.manager", "%q is not host:port, such as manager:65003", p.Manager)
	}
	if p.Manager != "" && len(p.Schedulers) > 0 {
		bad("peer.schedulers", "the manager says which schedulers there are: take one of the two out")
	}
	if p.Seed && !p.Share {
		bad("peer.share", "false is not for seeds, which are there to give")
	}
	for key, s := range map[string]string{"peer.idc": p.IDC, "peer.location": p.Location} {
		if len(s) > maxPlace || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			bad(key, "%q is not plain ASCII of at most %d bytes", s, maxPlace)
		}
	}
}

func (l LimitsConfig) validate(bad func(key, format string, args ...any)) {
	for _, v := range []struct{ key, value string }{{"limits.download", l.Download}, {"limits.upload", l.Upload}, {"limits.origin", l.Origin}} {
		switch n, err := parseLimit(v.value); {
		case err != nil:
			bad(v.key, "%v per second, nor 0 for no limit", err)
		case n > 0 && n < leastLimit:
			bad(v.key, "%q per second is too little to be of use: at least 16KiB, or 0 for no limit", v.value)
		}
	}
}

func parseLimit(s string) (int64, error) {
	if s == "0" {
		return 0, nil
	}
	return parseSize(s)
}

// adjustable makes limits that a manager may lower, and what does so.
func (l LimitsConfig) adjustable() (limits, func(manage.Limits), error) {
	var all [3]bucket.Bucket
	var own [3]int64
	for i, value := range []string{l.Download, l.Upload, l.Origin} {
		var err error
		if own[i], err = parseLimit(value); err != nil {
			return limits{}, nil, err
		}
		all[i].SetRate(own[i])
	}
	return limits{&all[0], &all[1], &all[2]}, func(m manage.Limits) {
		for i, told := range []int64{m.Download, m.Upload, m.Origin} {
			all[i].SetRate(lower(own[i], told))
		}
	}, nil
}

// lower is the lower one of two limits, of which 0 is none.
func lower(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// limits are the buckets of this host's traffic; nil: no limit.
type limits struct{ download, upload, origin peer.Limiter }

// buckets makes the limits of a valid configuration.
func (l LimitsConfig) buckets() (limits, error) {
	var b limits
	for _, v := range []struct {
		to    *peer.Limiter
		value string
	}{{&b.download, l.Download}, {&b.upload, l.Upload}, {&b.origin, l.Origin}} {
		n, err := parseLimit(v.value)
		if err != nil {
			return limits{}, err
		}
		if n > 0 {
			*v.to = bucket.New(n)
		}
	}
	return b, nil
}

// member is this host as part of a cluster.
type member struct {
	identity *wire.Identity // nil: plain text
	managed  *managed.Node  // nil: there is no manager
	pieces   net.Listener   // for the piece server, which takes it over; nil: this host does not share
	host     p2p.Host       // as it is announced
}

// join makes what this host needs to be part of its cluster. It connects to
// nobody yet. The result is nil if there are neither schedulers nor a manager.
func (c Config) join(log *slog.Logger) (*member, error) {
	if !c.clustered() {
		return nil, nil
	}
	m := &member{host: p2p.Host{Addr: c.Peer.Advertise, Seed: c.Peer.Seed, Share: c.Peer.Share, IDC: c.Peer.IDC, Location: c.Peer.Location}}
	var err error
	if c.Peer.Manager != "" {
		if m.managed, err = c.managed(log); err != nil {
			return nil, err
		}
		m.identity = m.managed.Identity()
	} else if m.identity, err = c.identity(log); err != nil {
		return nil, err
	}
	if m.host.ID, err = hostID(m.identity, c.Root); err != nil {
		return nil, err
	}
	listens := c.Peer.Listen
	if c.Peer.Share {
		if m.pieces, err = c.TLS.Listen("peer.listen", c.Peer.Listen, m.identity, log); err != nil {
			return nil, err
		}
		listens = m.pieces.Addr().String()
	}
	if m.host.Addr == "" {
		m.host.Addr = advertised(listens)
	}
	return m, nil
}

// managed is this host as a node of its manager's cluster.
func (c Config) managed(log *slog.Logger) (*managed.Node, error) {
	id, err := daemon.HostID(c.Root)
	if err != nil {
		return nil, err
	}
	name := wire.Name{ID: id, Role: wire.RoleHost}
	if c.Peer.Seed {
		name.Role = wire.RoleSeed
	}
	n, err := managed.Open(managed.Config{
		Manager: c.Peer.Manager, TokenFile: c.Peer.JoinToken, Dir: filepath.Join(c.Root, "manager"), Name: name, Log: log,
		Hello: manage.Hello{Version: version, Place: manage.Place{IDC: c.Peer.IDC, Location: c.Peer.Location}},
	})
	if err != nil {
		return nil, fmt.Errorf("peer.manager: %w", err)
	}
	return n, nil
}

// close gives up a member whose pieces nobody has taken over.
func (m *member) close() error {
	if m.pieces == nil {
		return nil
	}
	return m.pieces.Close()
}

// identity reads this host's certificate; nil if there is none.
func (c Config) identity(log *slog.Logger) (*wire.Identity, error) {
	role, how := wire.RoleHost, "; or is it to be a seed (peer.seed = true)?"
	if c.Peer.Seed {
		role, how = wire.RoleSeed, "; or is it not to be a seed (peer.seed = false)?"
	}
	id, err := c.TLS.Identity(role, log)
	if errors.Is(err, wire.ErrCertificate) {
		err = fmt.Errorf("%w%s", err, how)
	}
	return id, err
}

// advertised is the address to announce for one that is listened on. An open
// host is filled in by the scheduler.
func advertised(listens string) string {
	host, port, err := net.SplitHostPort(listens)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return ":" + port
	}
	return listens
}

// hostID is the name in the certificate, or else one that is made and kept in root.
func hostID(id *wire.Identity, root string) (p2p.HostID, error) {
	if id != nil {
		return id.Name().ID, nil
	}
	return daemon.HostID(root)
}

// probe reads CAs, and the certificates that a manager has not to give.
func probe(c Config, log *slog.Logger) error {
	if _, err := daemon.Roots("registry.files_ca", c.Registry.FilesCA); err != nil {
		return err
	}
	if c.Peer.Manager != "" {
		return nil
	}
	_, err := c.identity(log)
	return err
}
