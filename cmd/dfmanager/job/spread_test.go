package job_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight/sighttest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// crew is hosts that obey as they are told to.
type crew struct {
	mu     sync.Mutex
	answer func(h p2p.HostID, c p2p.Command, try int) string // how it fails; "": it does not; "silent": it says nothing
	tries  map[p2p.HostID]int
	most   int // that were commanded at the same time
}

func (*crew) Names(int64) []string { return []string{"192.0.2.1:8002"} }

func (k *crew) Order(ctx context.Context, _ int64, c p2p.Command, hosts []p2p.HostID, obeyed func(wire.Obeyed)) error {
	silent := false
	k.mu.Lock()
	k.most = max(k.most, len(hosts))
	for _, h := range hosts {
		k.tries[h]++
		failed := k.answer(h, c, k.tries[h])
		if failed == "silent" {
			silent = true
			continue
		}
		obeyed(wire.Obeyed{Host: h, Failed: failed})
	}
	k.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// commands adds a crew of five hosts and a seed to a runner.
func (k *crew) commands(sees *sighttest.Schedulers) func(*job.Config) {
	k.tries = map[p2p.HostID]int{}
	hosts := `{"ID":"seed-1","Seed":true}`
	for i := range 5 {
		hosts += fmt.Sprintf(`,{"ID":"h%d","Share":true}`, i)
	}
	sees.Set("", `{"Hosts":[`+hosts+`]}`)
	return func(c *job.Config) {
		c.Commander, c.Sight = k, sight.New(sees)
		c.Pace.Stall = 2 * time.Second
	}
}

func TestSpread(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		k := &crew{answer: func(h p2p.HostID, _ p2p.Command, try int) string {
			if h == "h3" && try <= 3 { // of the first blobs
				return "no room"
			}
			return ""
		}}
		r := e.runner(newCluster(), k.commands(sighttest.New(nil)))
		q := e.request("v1")
		q.Scope = job.Scope{Kind: job.AllPeers, Concurrent: 2}
		j := e.ends(e.create(r, q).ID, store.Succeeded)
		if k.most != 2 {
			e.t.Errorf("%d at a time", k.most)
		}
		for h, n := range k.tries { // who has done it is not told again
			if want := map[bool]int{true: 6, false: 3}[h == "h3"]; n != want {
				e.t.Errorf("%s was told %d times, want %d", h, n, want)
			}
		}
		all, n, err := e.db.HostSums(e.t.Context(), j.ID, 3)
		if err != nil || n != 6 || len(all) != 3 || all[0].Blobs != 3 || all[0].Done != 3 || all[0].Failed != 0 {
			e.t.Errorf("%+v of %d, %v", all, n, err)
		}

		k.answer = func(h p2p.HostID, _ p2p.Command, _ int) string {
			return map[p2p.HostID]string{"h1": "silent", "h2": "broken"}[h]
		}
		q.Scope = job.Scope{Kind: job.AllPeers}
		j = e.ends(e.create(r, q).ID, store.Failed)
		if !strings.Contains(j.Error, "not everywhere: 2 of 6 hosts") || !strings.Contains(j.Error, "h1: it has not answered") || !strings.Contains(j.Error, "h2: broken") {
			e.t.Errorf("%+v", j)
		}
		rows, err := e.db.JobHosts(e.t.Context(), j.ID, store.Page{Limit: 100})
		failed := 0
		for _, h := range rows {
			if h.State == store.Failed {
				failed++
			}
		}
		if err != nil || len(rows) != 18 || failed != 6 {
			e.t.Errorf("%d rows, %d failed, %v", len(rows), failed, err)
		}
	})
}

// A job says that a blob is removed when nobody has any of it.
func TestRemove(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		d := digest.FromString("a blob")
		sees := sighttest.New(nil)
		has := func(hosts ...string) {
			text := `{"Blob":{"Digest":"` + d.String() + `","Size":9},"Pieces":1,"Hosts":[{"ID":"wants","Wants":true}`
			for _, h := range hosts {
				text += `,{"ID":"` + h + `","Have":1}`
			}
			sees.Set(d, text+`]}`)
		}
		has("h1", "h2")
		k := &crew{answer: func(h p2p.HostID, c p2p.Command, try int) string {
			if !c.Remove || c.Blob.Digest != d || c.Blob.Size != 9 || h == "wants" {
				return fmt.Sprintf("commanded: %+v", c)
			}
			if h == "h2" && try == 1 {
				return "in use"
			}
			has()
			return ""
		}}
		r := e.runner(newCluster(), k.commands(sees))
		removal := job.Request{Remove: true, Blob: d}
		j := e.ends(e.create(r, removal).ID, store.Succeeded)
		if k.tries["h1"] == 0 {
			e.t.Errorf("%+v, %v", j, k.tries)
		}
		blobs, err := e.db.JobBlobs(e.t.Context(), j.ID)
		if err != nil || len(blobs) != 1 || blobs[0].State != store.Succeeded || blobs[0].Kind != "blob" {
			e.t.Errorf("%+v %v", blobs, err)
		}
		has("h2")
		k.answer = func(p2p.HostID, p2p.Command, int) string { return "a layer fills from it" }
		if j := e.ends(e.create(r, removal).ID, store.Failed); !strings.Contains(j.Error, "h2: a layer fills from it") {
			e.t.Errorf("what stays: %+v", j)
		}
		sees.Away("192.0.2.1:8002")
		if j := e.ends(e.create(r, job.Request{Remove: true, Blob: digest.FromString("y")}).ID, store.Failed); !strings.Contains(j.Error, "cannot be asked") {
			e.t.Errorf("when nobody can say who has it: %+v", j)
		}
		for _, o := range []job.Order{{Kind: "x", Image: "a"}, {Blob: d.String()}, {Kind: job.Remove, Blob: "x"}, {Kind: job.Remove, Image: "a", Blob: d.String()}, {Kind: job.Remove, Image: "a", Scope: job.Scope{Kind: job.AllPeers}}} {
			if _, err := o.Request(); err == nil {
				e.t.Errorf("%+v was taken", o)
			}
		}
		if _, err := r.CreateSchedule(e.t.Context(), by, job.Plan{Order: job.Order{Kind: job.Remove, Image: "a"}, Cron: "@daily"}); err == nil {
			e.t.Error("a removal again and again was taken")
		}
	})
}
