package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/clustertest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// begin has a job made and does not wait for it.
func (c *client) begin(text string) (j ordered) {
	c.t.Helper()
	status, body := c.do(http.MethodPost, "/api/v1/jobs", json.RawMessage(text))
	if err := json.Unmarshal(body, &j); status != http.StatusCreated || err != nil {
		c.t.Fatalf("%s: %d %s", text, status, body)
	}
	return j
}

// cancel cancels a job and waits until it has ended.
func (c *client) cancel(id int64) {
	c.t.Helper()
	if status, body := c.do(http.MethodPost, fmt.Sprintf("/api/v1/jobs/%d/cancel", id), nil); status != http.StatusOK {
		c.t.Fatalf("cancel: %d %s", status, body)
	}
	var j ordered
	eventually(c.t, func() bool {
		_, body := c.do(http.MethodGet, fmt.Sprint("/api/v1/jobs/", id), nil)
		return json.Unmarshal(body, &j) == nil && j.State == "cancelled"
	})
}

// limit says how fast each node of the default cluster may upload, and waits until the
// nodes were told.
func (c *client) limit(upload int64, nodes ...*clustertest.Process) {
	c.t.Helper()
	if status, body := c.do(http.MethodPatch, "/api/v1/clusters/1", map[string]any{"settings": map[string]any{"upload": upload}}); status != http.StatusOK {
		c.t.Fatalf("%d %s", status, body)
	}
	for _, n := range nodes {
		heard(c.t, n, func(o manage.Orders) bool { return o.Limits.Upload == upload && len(o.Schedulers) == 1 })
	}
}

// Who cancels a preheat stops the seed that fetches for it, and the hosts that take
// from the seed: nothing more moves, and nothing is wanted any more. The same
// image can be preheated afterwards.
func TestCancelPreheat(t *testing.T) {
	t.Parallel()
	r := origintest.New(t, origintest.Options{})
	cfg := testConfig(storetest.SQLite(t))
	cfg.Web.Rate = 10_000
	m, _ := start(t, cfg, rootPassword)
	c := newClient(t, "http://"+m.ln.Addr().String())
	c.first()
	cluster := clustertest.Managed(t, m.grpcAddr, tokens(t, cfg, ""))
	s, seed := cluster.Scheduler(), cluster.Seed(r.Host())
	one, two := cluster.Host(r.Host()), cluster.Host(r.Host())
	c.nodes("scheduler alive, seed alive, host alive, host alive, ")
	c.limit(1<<20, seed, one, two)
	eventually(t, func() bool { return len(m.sight.Gather(t.Context(), 0, []string{s.Addr}).Hosts) == 4 }) // the manager is one
	repo := "p/" + strings.Repeat("x", 60)
	url, layers := image(t, r, repo, "v1")
	layer, size := layers[1], int64(200_000*len("v1"+repo))
	now := func(d digest.Digest) sight.Blob {
		t.Helper()
		b, err := m.sight.Now(t.Context(), 0, s.Addr, d)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rests := func(what string, moved func() int64) {
		t.Helper()
		eventually(t, func() bool { return now(layer).Wanting == 0 })
		last := moved()
		eventually(t, func() bool { // what is on its way may arrive
			before := last
			time.Sleep(time.Second)
			last = moved()
			return before == last
		})
		time.Sleep(2 * time.Second)
		if n := moved(); n != last {
			t.Errorf("%s: cancelled, and still %d bytes more moved", what, n-last)
		}
	}

	r.Fail(layer, origintest.Fault{Delay: 100 * time.Millisecond})
	fetched := func() int64 { return r.Sent(layer) }
	j := c.begin(fmt.Sprintf(`{"url":%q}`, url))
	eventually(t, func() bool { return fetched() > 256<<10 })
	c.cancel(j.ID)
	rests("the seed", fetched)
	if n := fetched(); n >= size {
		t.Errorf("the seed fetched %d of %d bytes: all, although the job was cancelled", n, size)
	}
	r.Heal()
	if j := c.order(fmt.Sprintf(`{"url":%q}`, url)); j.State != "succeeded" {
		t.Fatalf("after it was cancelled: %+v", j)
	}

	have := func() (n int64) { // pieces of both hosts
		for _, h := range now(layer).Hosts {
			if !h.Seed {
				n += int64(h.Have)
			}
		}
		return n
	}
	j = c.begin(fmt.Sprintf(`{"url":%q,"scope":"all_peers"}`, url))
	eventually(t, func() bool { return have() > 2 })
	c.cancel(j.ID)
	rests("the hosts", have)
	if n, all := have(), int64(2*now(layer).Pieces); n >= all {
		t.Errorf("the hosts got %d of %d pieces: all, although the job was cancelled", n, all)
	}
	c.limit(0, seed, one, two)
	if j := c.order(fmt.Sprintf(`{"url":%q,"scope":"all_peers"}`, url)); j.State != "succeeded" || len(c.hosts(j.ID)) != 3 {
		t.Errorf("after it was cancelled: %+v at %v", j, c.hosts(j.ID))
	}
}
