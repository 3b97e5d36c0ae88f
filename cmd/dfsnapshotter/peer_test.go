package main

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/wiretest"
)

// clustered is the configuration of a host that has a scheduler.
func clustered(t *testing.T) Config {
	c := DefaultConfig()
	c.Root, c.Peer.Listen, c.Peer.Schedulers = t.TempDir(), "127.0.0.1:0", []string{"127.0.0.1:1"}
	return c
}

func join(t *testing.T, c Config, log *slog.Logger) *member {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	m, err := c.join(log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestJoinPlain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config)
		addr   string // announced; PORT stands for the one that is listened on
		logs   string
	}{
		"this machine only":  {func(c *Config) { c.Peer.Listen = ":0" }, "127.0.0.1:PORT", "only this machine is let in"},
		"loopback by choice": {func(*Config) {}, "127.0.0.1:PORT", ""},
		"open":               {func(c *Config) { c.Peer.Listen, c.TLS.Insecure = ":0", true }, ":PORT", "whoever reaches this address"},
		"another address":    {func(c *Config) { c.Peer.Listen, c.Peer.Advertise, c.TLS.Insecure = ":0", "node.example:7", true }, "node.example:7", "whoever"},
		"takes only":         {func(c *Config) { c.Peer.Listen, c.Peer.Share = ":65002", false }, ":65002", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := clustered(t)
			c.change(&cfg)
			var text bytes.Buffer
			m := join(t, cfg, slog.New(slog.NewTextHandler(&text, nil)))
			want := c.addr
			if m.pieces != nil {
				_, port, _ := net.SplitHostPort(m.pieces.Addr().String())
				want = strings.ReplaceAll(want, "PORT", port)
			} else if cfg.Peer.Share {
				t.Error("nothing listens")
			}
			if m.host.Addr != want {
				t.Errorf("it announces %q, not %q", m.host.Addr, want)
			}
			if got := text.String(); !strings.Contains(got, c.logs) || (c.logs == "") != (got == "") {
				t.Errorf("the log does not say %q: %s", c.logs, got)
			}
			if m.identity != nil {
				t.Error("it has a certificate")
			}
		})
	}
}

func TestJoinNobody(t *testing.T) {
	t.Parallel()
	c := clustered(t)
	c.Peer.Schedulers = nil
	if m, err := c.join(slog.New(slog.DiscardHandler)); m != nil || err != nil {
		t.Errorf("without schedulers: %+v, %v", m, err)
	}
}

// TestHostID keeps the name of a host without a certificate.
func TestHostID(t *testing.T) {
	t.Parallel()
	c, log := clustered(t), slog.New(slog.DiscardHandler)
	id := join(t, c, log).host.ID
	if !regexp.MustCompile("^[!-~]+-[0-9a-f]{16}$").MatchString(string(id)) {
		t.Errorf("it is called %q", id)
	}
	if again := join(t, c, log).host.ID; again != id {
		t.Errorf("then it is called %q, not %q", again, id)
	}
	if other := join(t, clustered(t), log).host.ID; other == id {
		t.Error("two are called the same")
	}
	if err := os.WriteFile(filepath.Join(c.Root, "host-id"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := join(t, c, log).host.ID
	if err := made.Validate(); err != nil || made == id {
		t.Errorf("after damage it is called %q, %v", made, err)
	}
}

// TestRoles holds peer.seed and the certificate to each other.
func TestRoles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := wiretest.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		role wire.Role
		seed bool
		fail string // "": it is accepted
	}{
		{wire.RoleHost, false, ""},
		{wire.RoleSeed, true, ""},
		{wire.RoleHost, true, "is it not to be a seed (peer.seed = false)"},
		{wire.RoleSeed, false, "is it to be a seed (peer.seed = true)"},
		{wire.RoleScheduler, false, "needs one with OU=host"},
	} {
		name := p2p.HostID("a-" + string(c.role))
		f, err := ca.Issue(dir, name, c.role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		cfg := clustered(t)
		cfg.Peer.Seed, cfg.TLS = c.seed, daemon.TLS{CA: f.CA, Cert: f.Cert, Key: f.Key}
		log := slog.New(slog.DiscardHandler)
		if c.fail == "" {
			m := join(t, cfg, log)
			want := p2p.Host{ID: name, Addr: m.pieces.Addr().String(), Seed: c.seed, Share: true}
			if diff := cmp.Diff(want, m.host); diff != "" || m.identity == nil {
				t.Error(m.identity, diff)
			}
			continue
		}
		for what, err := range map[string]error{"join": joinError(cfg, log), "probe": probe(cfg, log)} {
			if err == nil || !strings.Contains(err.Error(), c.fail) || !strings.Contains(err.Error(), f.Cert) {
				t.Errorf("%s of a %s, seed = %v: %v", what, c.role, c.seed, err)
			}
		}
	}
}

func joinError(c Config, log *slog.Logger) error {
	_, err := c.join(log)
	return err
}

func TestJoinErrors(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken, gone, noroot := clustered(t), clustered(t), clustered(t)
	taken.Peer.Listen = busy.Addr().String()
	gone.TLS = daemon.TLS{CA: "/gone.pem", Cert: "/gone.pem", Key: "/gone.pem"}
	noroot.Root = filepath.Join(noroot.Root, "nowhere")
	for want, c := range map[string]Config{"peer.listen:": taken, "tls: ": gone, "host ID: ": noroot} {
		if err := joinError(c, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v does not begin with %q", err, want)
		}
	}
}

func TestBuckets(t *testing.T) {
	t.Parallel()
	l, err := LimitsConfig{Download: "0", Upload: "20MiB", Origin: "0B"}.buckets()
	if err != nil || l.download != nil || l.upload == nil || l.origin != nil {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestAdjustableLimits(t *testing.T) {
	t.Parallel()
	l, set, err := LimitsConfig{Download: "0", Upload: "20MiB", Origin: "1MiB"}.adjustable()
	if err != nil || l.download == nil || l.upload == nil || l.origin == nil {
		t.Fatalf("%+v, %v", l, err)
	}
	set(manage.Limits{Download: 1 << 20})
	for _, c := range [][3]int64{{0, 0, 0}, {5, 0, 5}, {0, 7, 7}, {5, 7, 5}, {7, 5, 5}} {
		if got := lower(c[0], c[1]); got != c[2] {
			t.Errorf("of %d and %d the lower one is %d", c[0], c[1], got)
		}
	}
}

// A host with a manager is one at once, and connects to nobody before it has
// joined.
func TestJoinManaged(t *testing.T) {
	t.Parallel()
	for _, seed := range []bool{false, true} {
		c := clustered(t)
		c.Peer.Schedulers, c.Peer.Manager, c.Peer.JoinToken, c.Peer.Seed = nil, "127.0.0.1:1", "/no/token", seed
		m := join(t, c, slog.New(slog.DiscardHandler))
		if m.managed == nil || m.identity.Name().ID != m.host.ID || !m.identity.Until().IsZero() || (m.identity.Name().Role == wire.RoleSeed) != seed {
			t.Errorf("%+v", m)
		}
	}
}
