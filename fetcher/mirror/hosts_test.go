package mirror_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

// TestHosts reaches registries as hosts.toml says, which names this mirror for
// others.
func TestHosts(t *testing.T) {
	t.Parallel()
	want := data(1, mib)
	t.Run("own entry", func(t *testing.T) {
		t.Parallel()
		reg := origintest.New(t, origintest.Options{})
		m := manifestOf(reg, "a", want)
		d := reg.AddBlob("a", want)
		f := open(t, "", map[string]string{"registry.test": fmt.Sprintf("server = %q\n[host.\"http://ADDR\"]\n", reg.URL())})
		f.want(f.do("GET", "/v2/a/manifests/"+m.String()+"?ns=registry.test"), 200, nil)
		f.want(f.do("GET", blobPath("a", d)+"?ns=registry.test"), 200, want)
		if n := f.metric("dfsnapshotter_mirror_requests_total"); n != 2 {
			t.Errorf("the mirror got %.0f requests of 2", n)
		}
	})
	t.Run("a mirror behind", func(t *testing.T) {
		t.Parallel()
		near, reg := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
		m := manifestOf(reg, "a", want)
		d := manifestBlob(reg, want)
		near.AddBlob("a", want)
		f := open(t, "", map[string]string{"registry.test": fmt.Sprintf("server = %q\n[host.\"http://ADDR\"]\n[host.%q]\n", reg.URL(), near.URL())})
		f.want(f.do("GET", "/v2/a/manifests/"+m.String()+"?ns=registry.test"), 200, nil) // near has none
		f.want(f.do("GET", blobPath("a", d)+"?ns=registry.test"), 200, want)
		if gets(near, d) == 0 || gets(reg, d) != 0 {
			t.Error("the blob did not come from the mirror behind")
		}
		if u := near.Requests()[0].URL; !strings.Contains(u, "ns=registry.test") {
			t.Errorf("the mirror behind was asked for %s", u)
		}
	})
	t.Run("a chain of mirrors", func(t *testing.T) {
		t.Parallel()
		reg := origintest.New(t, origintest.Options{})
		m, d := manifestOf(reg, "a", want), manifestBlob(reg, want)
		far := open(t, "", map[string]string{"registry.test": fmt.Sprintf("server = %q\n", reg.URL())})
		f := open(t, "", map[string]string{"registry.test": fmt.Sprintf("server = %q\n[host.%q]\n", reg.URL(), far.url)})
		f.want(f.do("GET", "/v2/a/manifests/"+m.String()+"?ns=registry.test"), 200, nil)
		f.want(f.do("GET", blobPath("a", d)+"?ns=registry.test"), 200, want)
		if far.metric("dfsnapshotter_mirror_requests_total", "kind", "blob") == 0 {
			t.Error("the blob did not come through the other mirror")
		}
	})
	t.Run("TLS and HTTP/2", func(t *testing.T) {
		t.Parallel()
		reg := origintest.New(t, origintest.Options{TLS: true, Redirect: true})
		m, d := manifestOf(reg, "a", want), manifestBlob(reg, want)
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, reg.CA(), 0o600); err != nil {
			t.Fatal(err)
		}
		f := open(t, "", map[string]string{"registry.test": fmt.Sprintf("server = %q\nca = %q\n", reg.URL(), ca)})
		f.want(f.do("GET", "/v2/a/manifests/"+m.String()+"?ns=registry.test"), 200, nil)
		f.want(f.do("GET", blobPath("a", d)+"?ns=registry.test"), 200, want)
		for _, q := range reg.Requests() {
			if q.Proto != "HTTP/2.0" {
				t.Errorf("%s %s by %s", q.Method, q.URL, q.Proto)
			}
		}
	})
	t.Run("several registries", func(t *testing.T) {
		t.Parallel()
		one, two := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
		other := data(2, mib)
		d, e := one.AddBlob("a", want), two.AddBlob("a", other)
		f := open(t, one.URL(), map[string]string{"two.test": fmt.Sprintf("server = %q\n", two.URL())})
		f.want(f.do("GET", blobPath("a", d)), 200, want)
		f.want(f.do("GET", blobPath("a", e)+"?ns=two.test"), 200, other)
		f.want(f.do("GET", blobPath("a", e), "X-Dragonfly-Registry", "https://two.test"), 200, other)
		f.refused(f.do("GET", blobPath("a", e)), http.StatusNotFound, "UNKNOWN")
	})
}

// manifestBlob puts a blob where the manifests of the tests are.
func manifestBlob(reg *origintest.Registry, b []byte) digest.Digest { return reg.AddBlob("a", b) }

// TestLoop has the mirror be its own upstream: by name, and by one that it cannot
// know.
func TestLoop(t *testing.T) {
	t.Parallel()
	reg := origintest.New(t, origintest.Options{})
	want := data(1, mib)
	d := reg.AddBlob("a", want)
	alias := map[string]string{
		"alias.test": "server = \"http://ADDR/\"\n",
		// Its own name for the loopback is unknown to hosts.toml's reader.
		"loop.test": "server = \"http://127.0.0.2:PORT\"\n[host.\"http://127.0.0.2:PORT\"]\n",
	}
	f := open(t, reg.URL(), alias)
	if r := f.do("GET", blobPath("a", d)+"?ns=alias.test"); r.status != http.StatusBadGateway || !strings.Contains(string(r.body), "own mirror") {
		t.Errorf("status %d: %s", r.status, r.body)
	}
	f.refused(f.do("GET", blobPath("a", d), "Via", viaOf(f)), http.StatusLoopDetected, "UNSUPPORTED")
	f.want(f.do("GET", blobPath("a", d), "Via", "1.1 dfsnapshotter-000000000000"), 200, want)
}

// viaOf returns what a mirror calls itself, as registries get to see it.
func viaOf(f *front) string {
	f.Helper()
	reg := origintest.New(f.TB, origintest.Options{})
	f.do("GET", "/v2/a/tags/list?ns="+reg.Host())
	for _, q := range reg.Requests() {
		return q.Header.Get("Via")
	}
	f.Fatal("the registry was not asked")
	return ""
}
