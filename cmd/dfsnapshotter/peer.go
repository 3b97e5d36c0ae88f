package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/bucket"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
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
	if p.Seed && len(p.Schedulers) == 0 {
		bad("peer.seed", "a seed does what schedulers say: set peer.schedulers")
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
	pieces   net.Listener   // for the piece server, which takes it over; nil: this host does not share
	host     p2p.Host       // as it is announced
}

// join makes what this host needs to be part of its cluster. It connects to
// nobody yet. The result is nil if there are no schedulers.
func (c Config) join(log *slog.Logger) (*member, error) {
	if len(c.Peer.Schedulers) == 0 {
		return nil, nil
	}
	m := &member{host: p2p.Host{Addr: c.Peer.Advertise, Seed: c.Peer.Seed, Share: c.Peer.Share, IDC: c.Peer.IDC, Location: c.Peer.Location}}
	var err error
	if m.identity, err = c.identity(log); err != nil {
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

// hostID is the name in the certificate, or else the host's with a random part
// that tells two of one name apart and is kept in root.
func hostID(id *wire.Identity, root string) (p2p.HostID, error) {
	if id != nil {
		return id.Name().ID, nil
	}
	part, err := randomPart(filepath.Join(root, "host-id"))
	if err != nil {
		return "", fmt.Errorf("host ID: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		name = "host"
	}
	name = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, name)
	return p2p.HostID(name[:min(len(name), 64)] + "-" + part), nil
}

// randomPart returns what is in the file, or makes it.
func randomPart(path string) (string, error) {
	text, err := os.ReadFile(path)
	if part := strings.TrimSpace(string(text)); err == nil && len(part) == 16 && p2p.HostID(part).Validate() == nil {
		return part, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	part := hex.EncodeToString(b[:])
	next := path + ".new"
	if err := os.WriteFile(next, []byte(part+"\n"), 0o600); err != nil {
		return "", err
	}
	return part, os.Rename(next, path)
}

// probe reads the certificates.
func probe(c Config, log *slog.Logger) error {
	_, err := c.identity(log)
	return err
}
