package node_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/node"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/managed"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

var (
	by    = store.By{Actor: "tester"}
	quiet = slog.New(slog.DiscardHandler)
)

// env is managers of one database, with a standard cluster.
type env struct {
	t   testing.TB
	url string
	db  *store.DB
	key *seal.Key
}

func each(t *testing.T, test func(e *env)) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		e := &env{t: t, url: url, db: storetest.Open(t, url)}
		var err error
		if e.key, err = seal.New(strings.Repeat("k", 32)); err != nil {
			t.Fatal(err)
		}
		e.cluster(cluster.Standard, store.Scope{})
		test(e)
	})
}

// cluster adds a cluster; the first one is the standard one.
func (e *env) cluster(name string, scope store.Scope) store.Cluster {
	e.t.Helper()
	c, err := cluster.New(name, e.key)
	if err != nil {
		e.t.Fatal(err)
	}
	c.Scope = scope
	first, err := e.db.FirstCluster(e.t.Context(), c)
	if err == nil && !first {
		_, err = e.db.CreateCluster(e.t.Context(), by, c)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	if c, err = e.db.ClusterByName(e.t.Context(), name); err != nil {
		e.t.Fatal(err)
	}
	return c
}

// manager is one that runs until it is stopped, at the latest when the test ends.
type manager struct {
	*node.Server
	addr string
	stop func()
}

func (e *env) manager(name, addr string) *manager {
	e.t.Helper()
	ln := listen(e.t, addr)
	m := &manager{addr: ln.Addr().String()}
	var err error
	m.Server, err = node.Open(e.t.Context(), ln, node.Config{Store: e.db, Key: e.key, Name: name, Log: quiet, Registerer: prometheus.NewRegistry()})
	if err != nil {
		e.t.Fatal(err)
	}
	stopped := false
	m.stop = func() {
		if !stopped {
			stopped = true
			if err := m.Close(); err != nil {
				e.t.Error(err)
			}
		}
	}
	e.t.Cleanup(m.stop)
	return m
}

// listen listens where somebody may just have stopped to.
func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	var err error
	for range 100 {
		var ln net.Listener
		if ln, err = net.Listen("tcp", addr); err == nil {
			return ln
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal(err)
	return nil
}

// token makes a join token and returns its file.
func (e *env) token(k store.JoinToken) string {
	e.t.Helper()
	if k.Expires.IsZero() {
		k.Expires = time.Now().Add(time.Hour)
	}
	_, text, err := cluster.NewToken(e.t.Context(), e.db, by, k)
	if err != nil {
		e.t.Fatal(err)
	}
	file := filepath.Join(e.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return file
}

// member is a node that runs, and what it was told.
type member struct {
	*managed.Node
	dir  string
	told chan manage.Orders
}

// join starts a node. Where it keeps things is dir; "": a new folder.
func (e *env) join(addr, token, dir string, name wire.Name, place manage.Place) *member {
	e.t.Helper()
	return e.joinBusy(addr, token, dir, name, place, nil)
}

// joinBusy starts a node that says how busy it is.
func (e *env) joinBusy(addr, token, dir string, name wire.Name, place manage.Place, load func() manage.Load) *member {
	e.t.Helper()
	if dir == "" {
		dir = e.t.TempDir()
	}
	m := &member{dir: dir, told: make(chan manage.Orders, 100)}
	var err error
	m.Node, err = managed.Open(managed.Config{
		Manager: addr, TokenFile: token, Dir: dir, Name: name, Log: quiet, Hello: manage.Hello{Version: "test", Place: place}, Pace: time.Millisecond,
	})
	if err != nil {
		e.t.Fatal(err)
	}
	m.Start("192.0.2.7:8002", func(o manage.Orders) { m.told <- o }, load)
	e.t.Cleanup(m.Close)
	return m
}

// until waits for orders that are as they should be.
func (m *member) until(t testing.TB, what string, is func(manage.Orders) bool) {
	t.Helper()
	var last manage.Orders
	late := time.After(time.Minute)
	for {
		select {
		case last = <-m.told:
			if is(last) {
				return
			}
		case <-late:
			t.Fatalf("%s: the node was told %+v last", what, last)
		}
	}
}

// state waits until a node has that state.
func (e *env) state(c store.Cluster, name, want string) store.Node {
	e.t.Helper()
	var n store.Node
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
		var err error
		if n, err = e.db.NodeByName(e.t.Context(), c.ID, name); err == nil && n.State() == want {
			return n
		}
	}
	e.t.Fatalf("%s is %s, not %s: %+v", name, n.State(), want, n)
	return n
}

var (
	scheduler = wire.Name{ID: "s-1", Role: wire.RoleScheduler}
	host      = wire.Name{ID: "h-1", Role: wire.RoleHost}
	any       = func(manage.Orders) bool { return true }
)

func TestNodesHearWhatHolds(t *testing.T) {
	each(t, func(e *env) {
		c, err := e.db.ClusterByName(e.t.Context(), cluster.Standard)
		if err != nil {
			e.t.Fatal(err)
		}
		m := e.manager("m-1", "127.0.0.1:0")
		h := e.join(m.addr, e.token(store.JoinToken{Role: "host"}), "", host, manage.Place{})
		h.until(e.t, "at first", func(o manage.Orders) bool { return len(o.Schedulers) == 0 })
		s := e.join(m.addr, e.token(store.JoinToken{Role: "scheduler", Once: true}), "", scheduler, manage.Place{})
		h.until(e.t, "with a scheduler", func(o manage.Orders) bool { return len(o.Schedulers) == 1 && o.Schedulers[0] == "192.0.2.7:8002" })
		s.until(e.t, "the scheduler", any)
		if name := h.Identity().Name(); name != host || h.Identity().Until().Before(time.Now().Add(cluster.CertificateLife-time.Hour)) {
			e.t.Errorf("%+v until %v", name, h.Identity().Until())
		}
		settings := store.Settings{Upload: 1 << 20, OriginRequests: 3, Blocked: []string{"bad"}}
		if _, err := e.db.ChangeCluster(e.t.Context(), by, c.ID, store.ClusterChange{Settings: &settings}); err != nil {
			e.t.Fatal(err)
		}
		h.until(e.t, "settings", func(o manage.Orders) bool {
			return o.Limits == manage.Limits{Upload: 1 << 20, OriginRequests: 3} && len(o.Blocked) == 1 && len(o.Schedulers) == 1
		})
		if !h.Identity().Blocked("bad") || h.Identity().Blocked("good") {
			e.t.Error("whom it refuses")
		}
		n := e.state(c, "h-1", "alive")
		if n.Version != "test" || n.Address != "192.0.2.7:8002" {
			e.t.Errorf("%+v", n)
		}
		h.Close()
		e.state(c, "h-1", "dead")
	})
}

func TestRevokedNodeIsRefused(t *testing.T) {
	each(t, func(e *env) {
		c, err := e.db.ClusterByName(e.t.Context(), cluster.Standard)
		if err != nil {
			e.t.Fatal(err)
		}
		m := e.manager("m-1", "127.0.0.1:0")
		h := e.join(m.addr, e.token(store.JoinToken{Role: "host"}), "", host, manage.Place{})
		s := e.join(m.addr, e.token(store.JoinToken{Role: "scheduler"}), "", scheduler, manage.Place{})
		h.until(e.t, "the host", any)
		s.until(e.t, "the scheduler", any)
		files := manage.Files(h.dir)
		before, err := os.ReadFile(files.Cert)
		if err != nil {
			e.t.Fatal(err)
		}
		if err := manage.Renew(e.t.Context(), m.addr, files); err != nil {
			e.t.Errorf("renewing: %v", err)
		}
		if after, err := os.ReadFile(files.Cert); err != nil || string(after) == string(before) {
			e.t.Errorf("it has the same certificate: %v", err)
		}
		n := e.state(c, "h-1", "alive")
		if _, err := e.db.RevokeNode(e.t.Context(), by, n.ID); err != nil {
			e.t.Fatal(err)
		}
		s.until(e.t, "blocked", func(o manage.Orders) bool { return len(o.Blocked) == 1 && o.Blocked[0] == p2p.HostID("h-1") })
		if err := manage.Renew(e.t.Context(), m.addr, files); !errors.Is(err, manage.ErrRefused) || !strings.Contains(err.Error(), "revoked") {
			e.t.Errorf("renewing when revoked: %v", err)
		}
		if err := manage.Link(e.t.Context(), m.addr, files, manage.Hello{}, func(manage.Orders) {}, nil); !errors.Is(err, manage.ErrRefused) {
			e.t.Errorf("a stream when revoked: %v", err)
		}
	})
}

func TestJoinIsRefused(t *testing.T) {
	each(t, func(e *env) {
		m := e.manager("m-1", "127.0.0.1:0")
		join := func(token string, name wire.Name) error {
			text, err := os.ReadFile(token)
			if err != nil {
				e.t.Fatal(err)
			}
			k, err := manage.ParseToken(string(text))
			if err != nil {
				e.t.Fatal(err)
			}
			return manage.Join(e.t.Context(), m.addr, k, name, manage.Place{}, manage.Files(e.t.TempDir()))
		}
		once := e.token(store.JoinToken{Role: "host", Once: true})
		if err := join(once, host); err != nil {
			e.t.Fatal(err)
		}
		many := e.token(store.JoinToken{Role: "host"})
		other := manage.NewToken([]byte("another CA"))
		foreign := filepath.Join(e.t.TempDir(), "token")
		unknown := manage.NewToken(nil)
		c, err := e.db.ClusterByName(e.t.Context(), cluster.Standard)
		if err != nil {
			e.t.Fatal(err)
		}
		unknown.CA = manage.CAOf(c.CA)
		made := filepath.Join(e.t.TempDir(), "token")
		if err := errors.Join(os.WriteFile(foreign, []byte(other.Text()), 0o600), os.WriteFile(made, []byte(unknown.Text()), 0o600)); err != nil {
			e.t.Fatal(err)
		}
		for _, a := range []struct {
			token string
			name  wire.Name
			want  string
		}{
			{once, wire.Name{ID: "h-2", Role: wire.RoleHost}, "was for one node"},
			{many, host, "has a node with the name h-1"},
			{many, wire.Name{ID: "h-2", Role: wire.RoleScheduler}, "is for a host"},
			{many, wire.Name{ID: "h 2", Role: wire.RoleHost}, "name"},
			{many, wire.Name{ID: "h-2", Role: wire.RoleManager}, "not host, seed or scheduler"},
			{e.token(store.JoinToken{Role: "host", Expires: time.Now().Add(-time.Second)}), host, "has expired"},
			{made, host, "is not known"},
			{foreign, host, "another manager"},
		} {
			if err := join(a.token, a.name); err == nil || !strings.Contains(err.Error(), a.want) {
				e.t.Errorf("%v: %v, want %q", a.name, err, a.want)
			}
		}
	})
}

func TestNodesGetIntoTheBestCluster(t *testing.T) {
	each(t, func(e *env) {
		m := e.manager("m-1", "127.0.0.1:0")
		fra := e.cluster("fra", store.Scope{IDCs: []string{"fra1"}})
		m.Changed()
		token := e.token(store.JoinToken{Role: "host"})
		in := e.join(m.addr, token, "", host, manage.Place{IDC: "fra1"})
		out := e.join(m.addr, token, "", wire.Name{ID: "h-2", Role: wire.RoleHost}, manage.Place{IDC: "ber1"})
		in.until(e.t, "there", any)
		out.until(e.t, "elsewhere", any)
		e.state(fra, "h-1", "alive")
		if all, err := e.db.Nodes(e.t.Context(), fra.ID, "", store.Page{Limit: 9}); err != nil || len(all) != 1 {
			e.t.Errorf("%+v, %v", all, err)
		}
		// Tenants are apart: neither takes the other's certificate.
		a, err := wire.LoadIdentity(manage.Files(in.dir), quiet)
		if err != nil {
			e.t.Fatal(err)
		}
		proof, err := a.Prove([]byte("x"))
		if err != nil {
			e.t.Fatal(err)
		}
		if _, err := out.Identity().Prover([]byte("x"), proof); !errors.Is(err, wire.ErrCertificate) {
			e.t.Errorf("it is believed: %v", err)
		}
	})
}

// A node goes on without its manager, and knows after a restart what it was told.
func TestManagerIsRestarted(t *testing.T) {
	each(t, func(e *env) {
		c, err := e.db.ClusterByName(e.t.Context(), cluster.Standard)
		if err != nil {
			e.t.Fatal(err)
		}
		m := e.manager("m-1", "127.0.0.1:0")
		s := e.join(m.addr, e.token(store.JoinToken{Role: "scheduler"}), "", scheduler, manage.Place{})
		h := e.join(m.addr, e.token(store.JoinToken{Role: "host", Once: true}), "", host, manage.Place{})
		h.until(e.t, "at first", func(o manage.Orders) bool { return len(o.Schedulers) == 1 })
		m.stop()
		e.state(c, "h-1", "dead")
		h.Close()
		alone, err := managed.Open(managed.Config{Manager: m.addr, Dir: h.dir, Name: host, Log: quiet})
		if err != nil {
			e.t.Fatal(err)
		}
		if o := alone.Orders(); len(o.Schedulers) != 1 || alone.Identity().Until().IsZero() {
			e.t.Errorf("without its manager it knows %+v", o)
		}
		back := e.join(m.addr, "/no/token", h.dir, host, manage.Place{})
		e.manager("m-2", m.addr)
		back.until(e.t, "when it is back", func(o manage.Orders) bool { return len(o.Schedulers) == 1 })
		e.state(c, "h-1", "alive")
		e.state(c, "s-1", "alive")
		s.until(e.t, "the scheduler", any)
	})
}

// A manager that the others took for dead says again which nodes it has.
func TestForgottenManager(t *testing.T) {
	each(t, func(e *env) {
		c, err := e.db.ClusterByName(e.t.Context(), cluster.Standard)
		if err != nil {
			e.t.Fatal(err)
		}
		m := e.manager("m-1", "127.0.0.1:0")
		h := e.join(m.addr, e.token(store.JoinToken{Role: "host"}), "", host, manage.Place{})
		h.until(e.t, "at first", any)
		e.state(c, "h-1", "alive")
		if err := errors.Join(e.db.ForgetManager(e.t.Context(), "m-1"), e.db.Sweep(e.t.Context())); err != nil {
			e.t.Fatal(err)
		}
		e.state(c, "h-1", "alive")
		if m.Nodes() != 1 {
			e.t.Errorf("it has %d nodes", m.Nodes())
		}
	})
}

// Two managers of one database: what one is told, nodes of the other hear; and
// nodes of one that ends turn to the other.
func TestTwoManagers(t *testing.T) {
	t.Parallel()
	e := &env{t: t, url: storetest.Postgres(t).Database(t)}
	e.db = storetest.Open(t, e.url)
	var err error
	if e.key, err = seal.New(strings.Repeat("k", 32)); err != nil {
		t.Fatal(err)
	}
	c := e.cluster(cluster.Standard, store.Scope{})
	one, two := e.manager("m-1", "127.0.0.1:0"), e.manager("m-2", "127.0.0.1:0")
	h := e.join(one.addr, e.token(store.JoinToken{Role: "host"}), "", host, manage.Place{})
	h.until(t, "at first", any)
	s := e.join(two.addr, e.token(store.JoinToken{Role: "scheduler"}), "", scheduler, manage.Place{})
	h.until(t, "a scheduler of the other manager", func(o manage.Orders) bool { return len(o.Schedulers) == 1 })
	s.until(t, "the scheduler", any)
	addr := one.addr
	one.stop()
	e.state(c, "h-1", "dead")
	ln := listen(t, addr) // what balances between them
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := forward(ctx, ln, two.addr)
	h.until(t, "of the other manager", func(o manage.Orders) bool { return len(o.Schedulers) == 1 })
	e.state(c, "h-1", "alive")
	h.Close()
	cancel()
	<-done
}
