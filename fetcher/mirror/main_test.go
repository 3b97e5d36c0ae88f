package mirror_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/mirror"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// data returns bytes that do not repeat.
func data(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

// log collects what is logged.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// front is a mirror that runs, in front of a fetcher of its own.
type front struct {
	testing.TB
	url    string
	addr   string
	log    *log
	reg    *prometheus.Registry
	client *http.Client
}

// open opens a mirror whose upstream is a registry. hosts are files of hosts.toml
// by registry; ADDR in them stands for the mirror itself.
func open(t testing.TB, upstream string, hosts map[string]string) *front {
	t.Helper()
	return openBehind(t, nil, upstream, hosts)
}

// openBehind opens one that reaches servers which are no registries through a proxy.
func openBehind(t testing.TB, proxy func(*http.Request) (*url.URL, error), upstream string, hosts map[string]string) *front {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{TB: t, addr: ln.Addr().String(), log: &log{}, reg: prometheus.NewRegistry()}
	f.url = "http://" + f.addr
	root := t.TempDir()
	for name, text := range hosts {
		dir := filepath.Join(root, "certs.d", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(strings.ReplaceAll(text, "ADDR", f.addr)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	learned, via := &origin.Learned{}, mirror.NewVia()
	c, err := origin.New(origin.Config{
		HostsDir: filepath.Join(root, "certs.d"), Credentials: origin.Chain(log, learned), Log: log,
		Own: mirror.Own(f.addr), Via: via,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	fe, err := fetcher.New(fetcher.Config{Dir: filepath.Join(root, "df"), Sources: []fetcher.Source{fetcher.Origin(c)}, Documents: c, Log: log, Registerer: f.reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fe.Close(); err != nil {
			t.Error(err)
		}
	})
	m, err := mirror.Open(ln, mirror.Config{Fetcher: fe, Registries: c, Learned: learned, Upstream: upstream, Proxy: proxy, Name: "this-host", Via: via, Log: log, Registerer: f.reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	f.client = &http.Client{Transport: &http.Transport{DisableCompression: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(f.client.CloseIdleConnections)
	return f
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error // of the body
}

// do makes a request of the mirror. Headers are pairs.
func (f *front) do(method, path string, headers ...string) reply {
	f.Helper()
	r, err := http.NewRequestWithContext(f.Context(), method, f.url+path, nil)
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := f.client.Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, body, err}
}

// want checks that an answer is good and has the bytes.
func (f *front) want(r reply, status int, body []byte) {
	f.Helper()
	if r.err != nil || r.status != status || body != nil && !bytes.Equal(r.body, body) {
		f.Errorf("status %d, %d bytes, %v; want %d and %d bytes: %.200q", r.status, len(r.body), r.err, status, len(body), r.body)
	}
}

// refused checks that an answer is a registry's error.
func (f *front) refused(r reply, status int, code string) {
	f.Helper()
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(r.body, &doc); err != nil || r.status != status || len(doc.Errors) != 1 || doc.Errors[0].Code != code || doc.Errors[0].Message == "" {
		f.Errorf("status %d, %q, %v; want %d with code %s", r.status, r.body, r.err, status, code)
	}
}

// metric returns the value of a counter.
func (f *front) metric(name string, labels ...string) (v float64) {
	f.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	series:
		for _, m := range family.GetMetric() {
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !found {
					continue series
				}
			}
			v += m.GetCounter().GetValue()
		}
	}
	return v
}

func blobPath(repo string, d digest.Digest) string { return fmt.Sprintf("/v2/%s/blobs/%s", repo, d) }

// gets returns how often a registry was asked for a blob's bytes.
func gets(r *origintest.Registry, d digest.Digest) (n int) {
	for _, q := range r.Requests() {
		if q.Digest == d && q.Method == http.MethodGet && q.Kind == "blob" {
			n++
		}
	}
	return n
}

// get opens a blob and leaves the body to the caller.
func (f *front) get(ctx context.Context, path string) *http.Response {
	f.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+path, nil)
	if err != nil {
		f.Fatal(err)
	}
	resp, err := f.client.Do(r)
	if err != nil {
		f.Fatal(err)
	}
	return resp
}
