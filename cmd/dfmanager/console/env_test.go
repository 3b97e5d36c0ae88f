package console_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/console"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight/sighttest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

const (
	password  = "correct horse"
	scheduler = "192.0.2.7:8002" // of the first cluster
)

var hash = sync.OnceValue(func() string {
	h, err := auth.NewHasher().Hash(context.Background(), password)
	if err != nil {
		panic(err)
	}
	return h
})

// nothing warms no blob.
type nothing struct{}

func (nothing) Warm(ctx context.Context, _ int64, _ warm.Order, _ func(warm.Progress)) (warm.Progress, error) {
	<-ctx.Done()
	return warm.Progress{}, context.Cause(ctx)
}

// env is a manager with a user of each role, named as the role, and a browser
// without scripts.
type env struct {
	t       *testing.T
	db      *store.DB
	url     string
	pages   *console.Console
	users   map[string]store.User
	seen    *sighttest.Schedulers
	handler *web.Server
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{t: t, db: storetest.Open(t, storetest.SQLite(t)), users: map[string]store.User{}, seen: sighttest.New(map[digest.Digest]string{"": "{}"})}
	log := slog.New(slog.DiscardHandler)
	accounts := account.New(account.Config{Store: e.db, Hasher: auth.NewHasher(), Session: time.Hour, Log: log})
	clusters := &cluster.Clusters{Store: e.db, Key: key(t)}
	seen := sight.New(e.seen)
	e.pages = console.New(console.Config{
		Store: e.db, Accounts: accounts, Jobs: e.runner(), Clusters: clusters, Schedulers: func() []warm.Scheduler { return []warm.Scheduler{{Name: scheduler, Up: true}} },
		Sight: seen, NodesPort: "65003", Tick: 10 * time.Millisecond, Version: "test", Log: log,
	})
	first, err := cluster.New(cluster.Standard, clusters.Key)
	if err == nil {
		_, err = e.db.FirstCluster(t.Context(), first)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.handler, err = web.New(web.Config{
		Store: e.db, Accounts: accounts, Jobs: e.runner(), Clusters: clusters, Sight: seen, Pages: e.pages, Rate: 10_000, Log: log, Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = e.handler.HTTP()
	ts.Start()
	t.Cleanup(ts.Close)
	e.url = ts.URL
	for _, u := range []store.User{
		{Name: "root", Role: store.Root}, {Name: "operator", Role: store.Operator}, {Name: "guest", Role: store.Guest}, {Name: "fresh", Role: store.Root, MustChange: true},
	} {
		u.Password = hash()
		if e.users[u.Name], err = e.db.CreateUser(t.Context(), store.By{Actor: "test"}, u); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func key(t *testing.T) *seal.Key {
	t.Helper()
	k, err := seal.New(strings.Repeat("k", 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// runner takes jobs and does none of them: their state is what a test makes it.
func (e *env) runner() *job.Runner {
	client := registry.New(registry.Config{})
	e.t.Cleanup(client.Close)
	r, err := job.Open(job.Config{
		Store: e.db, Registry: client, Warmer: nothing{}, Key: key(e.t), Owner: "test", Concurrent: 1, Timeout: time.Minute, Keep: time.Hour,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		e.t.Fatal(err)
	}
	r.Close() // it runs none
	return r
}

// session signs a user in.
func (e *env) session(user string) func(*http.Request) {
	session, hash := auth.NewSession()
	if err := e.db.CreateSession(e.t.Context(), store.By{Actor: user}, e.users[user].ID, hash, time.Now().Add(time.Hour)); err != nil {
		e.t.Fatal(err)
	}
	return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "dfmanager", Value: session}) }
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

type reply struct {
	status int
	header http.Header
	text   string
}

// to is where the browser is sent.
func (r reply) to() string { return r.header.Get("Location") }

// do sends a request as a browser does; a form makes it a POST.
func (e *env) do(path string, form url.Values, with ...func(*http.Request)) reply {
	e.t.Helper()
	req, err := http.NewRequest(http.MethodGet, e.url+path, nil)
	if form != nil {
		req, err = http.NewRequest(http.MethodPost, e.url+path, strings.NewReader(form.Encode()))
	}
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,application/xhtml+xml")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, f := range with {
		f(req)
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

// job makes a job that a runner has.
func (e *env) job(image string) store.Job {
	e.t.Helper()
	ctx := e.t.Context()
	_, err := e.db.CreateJob(ctx, store.By{Actor: "test"}, store.Job{Kind: job.Image, URL: "https://registry.example/v2/" + image + "/manifests/v1", Deadline: time.Now().Add(time.Hour)})
	if err != nil {
		e.t.Fatal(err)
	}
	j, err := e.db.ClaimJob(ctx, "test", time.Hour)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := e.db.SetJobBlobs(ctx, j, "sha256:m", []store.JobBlob{{Digest: "sha256:layer", Kind: "layer", Size: 1 << 20}}); err != nil {
		e.t.Fatal(err)
	}
	return j
}
