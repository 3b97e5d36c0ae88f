package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// ordered is a job as the REST API shows it.
type ordered struct {
	ID    int64
	State string
	Error string
}

// order has a job made and waits for its end.
func (c *client) order(text string) ordered {
	c.t.Helper()
	var j ordered
	status, body := c.do(http.MethodPost, "/api/v1/jobs", json.RawMessage(text))
	if err := json.Unmarshal(body, &j); status != http.StatusCreated || err != nil {
		c.t.Fatalf("%s: %d %s", text, status, body)
	}
	for range 1200 {
		_, body = c.do(http.MethodGet, fmt.Sprint("/api/v1/jobs/", j.ID), nil)
		if err := json.Unmarshal(body, &j); err != nil {
			c.t.Fatal(err)
		}
		if j.State != "waiting" && j.State != "running" {
			return j
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("it does not end: %+v", j)
	return j
}

// eventually waits until something is true.
func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for range 600 {
		if is() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("it does not become true")
}

// kept counts what a host has on its disk of a blob.
func kept(t *testing.T, p *clustertest.Process, d digest.Digest) (n int) {
	t.Helper()
	err := filepath.WalkDir(p.Root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == d.Encoded() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// hosts are the names of a job's hosts, each with how many blobs it is done with.
func (c *client) hosts(job int64) map[string]int {
	c.t.Helper()
	var l struct {
		Items []struct{ Host, State string }
	}
	_, body := c.do(http.MethodGet, fmt.Sprintf("/api/v1/jobs/%d/hosts?limit=200", job), nil)
	if err := json.Unmarshal(body, &l); err != nil {
		c.t.Fatal(err)
	}
	done := map[string]int{}
	for _, h := range l.Items {
		if h.State == "succeeded" {
			done[h.Host]++
		}
	}
	return done
}

// digest is what the job has found its image, or file, to be.
func (c *client) digest(job int64) digest.Digest {
	c.t.Helper()
	var j struct{ Digest digest.Digest }
	_, body := c.do(http.MethodGet, fmt.Sprint("/api/v1/jobs/", job), nil)
	if err := json.Unmarshal(body, &j); err != nil {
		c.t.Fatal(err)
	}
	return j.Digest
}

// An image is brought to the hosts that are meant, leaves the registry once, and is
// gone from all of them when it has been removed.
func TestScopes(t *testing.T) {
	t.Parallel()
	members := clustertest.New(t, true)
	r := origintest.New(t, origintest.Options{})
	s := members.Scheduler()
	a, b := members.Seed(r.Host(), s.Addr), members.Seed(r.Host(), s.Addr)
	one, two := members.Host(r.Host(), s.Addr), members.Host(r.Host(), s.Addr)
	f := members.Files("manager", wire.RoleManager)
	cfg := testConfig(storetest.SQLite(t))
	cfg.Cluster.Schedulers, cfg.Web.Rate = []string{s.Addr}, 10_000
	cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key = f.CA, f.Cert, f.Key
	m, _ := start(t, cfg, rootPassword)
	c := newClient(t, "http://"+m.ln.Addr().String())
	c.first()
	url, layers := image(t, r, "p/app", "v1")
	eventually(t, func() bool {
		return len(m.sight.Gather(t.Context(), 0, []string{s.Addr}).Hosts) == 5 // the manager is one
	})
	for scope, want := range map[string][]p2p.HostID{
		`"scope":"hosts","hosts":["` + string(one.Name) + `"]`: {one.Name},
		`"scope":"all_seed_peers","concurrent_hosts":1`:        {a.Name, b.Name},
		`"scope":"all_peers","timeout_seconds":60`:             {a.Name, b.Name, one.Name, two.Name},
		`"scope":"all_peers","percentage":50`:                  nil, // two of them
	} {
		j := c.order(fmt.Sprintf(`{"url":%q,%s}`, url, scope))
		got := c.hosts(j.ID)
		if j.State != "succeeded" || want == nil && len(got) != 2 || want != nil && len(got) != len(want) {
			t.Errorf("%s: %+v at %v", scope, j, got)
		}
		for _, h := range want {
			if got[string(h)] != 3 {
				t.Errorf("%s: %s is done with %d blobs of 3", scope, h, got[string(h)])
			}
		}
	}
	if sent := r.Sent(layers[1]); sent != int64(200_000*len("v1p/app")) {
		t.Errorf("for four hosts the registry sent %d bytes of a layer of %d", sent, 200_000*len("v1p/app"))
	}
	if j := c.order(fmt.Sprintf(`{"url":%q,"scope":"hosts","hosts":["nobody"],"timeout_seconds":5}`, url)); j.State != "failed" || !strings.Contains(j.Error, "nobody: it is not connected") {
		t.Errorf("a host that is not there: %+v", j)
	}

	copies := func(d digest.Digest) int {
		b, _, err := m.sight.Blob(t.Context(), 0, []string{s.Addr}, d)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, h := range b.Hosts {
			if h.Have == b.Pieces {
				n++
			}
		}
		return n
	}
	eventually(t, func() bool { return copies(layers[0]) == 4 && copies(layers[1]) == 4 })
	if j := c.order(fmt.Sprintf(`{"kind":"remove","blob":%q}`, layers[0])); j.State != "succeeded" || len(c.hosts(j.ID)) != 4 {
		t.Errorf("removing a blob: %+v at %v", j, c.hosts(j.ID))
	}
	eventually(t, func() bool { return copies(layers[0]) == 0 })
	if n := copies(layers[1]); n != 4 {
		t.Errorf("another blob is on %d hosts", n)
	}
	if j := c.order(fmt.Sprintf(`{"kind":"remove","url":%q}`, url)); j.State != "succeeded" {
		t.Errorf("removing an image: %+v", j)
	}
	eventually(t, func() bool { return copies(layers[1]) == 0 })
	for _, p := range []*clustertest.Process{a, b, one, two} {
		if got := kept(t, p, layers[0]) + kept(t, p, layers[1]); got != 0 {
			t.Errorf("%s still keeps %d files of the layers", p.Name, got)
		}
	}
	if j := c.order(fmt.Sprintf(`{"kind":"remove","blob":%q}`, layers[0])); j.State != "succeeded" {
		t.Errorf("removing what nobody has: %+v", j)
	}
}
