package fetcher_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

// tokens are those of a registry that accepts only the latest.
type tokens struct {
	mu     sync.Mutex // guards the rest
	latest int
	lent   string // to the seed
}

// renew makes all tokens so far worthless.
func (s *tokens) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest++
}

func (s *tokens) valid() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strconv.Itoa(s.latest)
}

func (s *tokens) refuses() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lent != strconv.Itoa(s.latest)
}

// owner has a password.
type owner struct{ *tokens }

func (o owner) Token(origin.Repo) string { return o.valid() }
func (o owner) NewToken(context.Context, origin.Repo, digest.Digest) (string, error) {
	return o.valid(), nil
}
func (owner) Learn(origin.Repo, string) {}

// borrower has none.
type borrower struct{ *tokens }

func (borrower) Token(origin.Repo) string { return "" }
func (borrower) NewToken(context.Context, origin.Repo, digest.Digest) (string, error) {
	return "", origin.ErrUnauthorized
}
func (b borrower) Learn(_ origin.Repo, token string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent = token
}

// authority issues the certificates of a cluster.
func authority(t *testing.T) func(p2p.HostID, wire.Role) wire.Files {
	t.Helper()
	dir := t.TempDir()
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	return func(id p2p.HostID, role wire.Role) wire.Files {
		t.Helper()
		f, err := ca.Issue(dir, id, role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
}

// TestTokenExpires: a seed that reads of a private repository for a host with a token
// of that host gets a new one when that has expired, and the host notices nothing.
func TestTokenExpires(t *testing.T) {
	data := content(40*mib, 33)
	var all tokens
	private := newFake(func(int, request) (f fault) {
		if all.refuses() {
			f.err = origin.ErrUnauthorized
		}
		return f
	}, data)
	open := newFake(nil, data)
	issue := authority(t) // in plain text no tokens are sent
	own := issue("scheduler", wire.RoleScheduler)
	s := startSchedulerWith(t, fmt.Sprintf("[tls]\nca = %q\ncert = %q\nkey = %q\n", own.CA, own.Cert, own.Key))
	identity := func(id p2p.HostID, role wire.Role) *wire.Identity {
		i, err := wire.LoadIdentity(issue(id, role), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	startHostWith(t, "seed", s, func(c *fetcher.Config) {
		c.Sources, c.Network.Self.Seed, c.Network.Tokens = []fetcher.Source{private}, true, borrower{&all}
		c.Network.Identity = identity("seed", wire.RoleSeed)
	})
	h := startHostWith(t, "host", s, func(c *fetcher.Config) {
		c.Sources, c.Network.Tokens = []fetcher.Source{open}, owner{&all}
		c.Network.Identity = identity("host", wire.RoleHost)
	})
	known(t, s, "seed", "host")
	b := openBlob(t, h.Fetcher, ref(data))
	for i := range int64(4) {
		want(t, b, data, i*8*mib, 300*kib, fetcher.OnDemand)
		all.renew()
	}
	if sent := open.bytesSent(); sent > 0 {
		t.Errorf("the host took %d bytes from the registry", sent)
	}
}
