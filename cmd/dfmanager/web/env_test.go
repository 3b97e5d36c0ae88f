package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight/sighttest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

const password = "correct horse"

// env is a manager with a user of each role, named as the role.
type env struct {
	t     *testing.T
	db    *store.DB
	url   string
	log   *buffer
	users map[string]store.User
	runs  *warmer
	key   *seal.Key
	seen  *sighttest.Schedulers
}

// warmer is a cluster that has at once what it is told to have.
type warmer struct {
	mu   sync.Mutex
	fail error         // nil: nothing fails
	hold chan struct{} // nothing is there before it is closed; nil: at once
}

func (c *warmer) set(fail error, hold chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail, c.hold = fail, hold
}

func (c *warmer) Warm(ctx context.Context, _ int64, o warm.Order, _ func(warm.Progress)) (warm.Progress, error) {
	c.mu.Lock()
	fail, hold := c.fail, c.hold
	c.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return warm.Progress{}, context.Cause(ctx)
		}
	}
	return warm.Progress{Host: "seed-1", Addr: "192.0.2.1:65002", Got: o.Blob.Size}, fail
}

// runner runs the jobs of e.
func (e *env) runner() *job.Runner {
	k := e.key
	client := registry.New(registry.Config{})
	e.t.Cleanup(client.Close)
	files, err := origin.New(origin.Config{})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(files.Close)
	r, err := job.Open(job.Config{
		Store: e.db, Registry: client, Files: files, Warmer: e.runs, Key: k, Owner: "test", Concurrent: 4, Timeout: time.Minute, Keep: time.Hour,
		Pace: job.Pace{Poll: 20 * time.Millisecond, Again: time.Millisecond, Lease: time.Second}, Log: slog.New(slog.NewTextHandler(e.log, nil)), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(r.Close)
	return r
}

// buffer is a log that can be read.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// hash is of password: hashing it for each test takes long.
var hash = sync.OnceValue(func() string {
	h, err := auth.NewHasher().Hash(bg, password)
	if err != nil {
		panic(err)
	}
	return h
})

func newEnv(t *testing.T, change ...func(*web.Config)) *env {
	t.Helper()
	e := &env{t: t, db: storetest.Open(t, storetest.SQLite(t)), log: &buffer{}, users: map[string]store.User{}, runs: &warmer{}, seen: sighttest.New(nil)}
	c := web.Config{
		Store: e.db, Rate: 10_000, Version: "test",
		Log: slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registerer: prometheus.NewRegistry(),
	}
	c.Accounts = account.New(account.Config{Store: e.db, Hasher: auth.NewHasher(), Session: time.Hour, Log: c.Log})
	var err error
	if e.key, err = seal.New(strings.Repeat("k", 32)); err != nil {
		t.Fatal(err)
	}
	c.Clusters, c.Sight, c.Jobs = &cluster.Clusters{Store: e.db, Key: e.key}, sight.New(e.seen), e.runner()
	for _, f := range change {
		f(&c)
	}
	s, err := web.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	e.url = ts.URL
	for _, u := range []store.User{
		{Name: "root", Role: store.Root}, {Name: "operator", Role: store.Operator}, {Name: "guest", Role: store.Guest},
		{Name: "fresh", Role: store.Root, MustChange: true}, {Name: "gone", Role: store.Root, Disabled: true},
	} {
		u.Password = hash()
		if e.users[u.Name], err = e.db.CreateUser(bg, store.By{Actor: "test"}, u); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// session signs a user in.
func (e *env) session(user string) func(*http.Request) {
	session, hash := auth.NewSession()
	if err := e.db.CreateSession(bg, store.By{Actor: user}, e.users[user].ID, hash, time.Now().Add(time.Hour)); err != nil {
		e.t.Fatal(err)
	}
	return func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "dfmanager", Value: session}) }
}

// token makes a token of a user.
func (e *env) token(user string, scopes ...string) string {
	token, hash := auth.NewToken()
	if _, err := e.db.CreateToken(bg, store.By{Actor: user}, store.Token{UserID: e.users[user].ID, Name: hash[:8], Hash: hash, Scopes: scopes}); err != nil {
		e.t.Fatal(err)
	}
	return token
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func basic(user, password string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	text   string
}

// code is what a program is told of an error.
func (r reply) code() string {
	var v struct{ Error struct{ Code string } }
	_ = json.Unmarshal([]byte(r.text), &v) // "" then
	return v.Error.Code
}

func (r reply) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.text), v); err != nil {
		t.Fatalf("%d %s: %v", r.status, r.text, err)
	}
}

// do sends a request; a body is sent as JSON.
func (e *env) do(method, path, body string, with ...func(*http.Request)) reply {
	e.t.Helper()
	req, err := http.NewRequest(method, e.url+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
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

// want fails the test if the answer is another one.
func (e *env) want(status int, r reply) reply {
	e.t.Helper()
	if r.status != status {
		e.t.Fatalf("answered %d, want %d: %s", r.status, status, r.text)
	}
	return r
}
