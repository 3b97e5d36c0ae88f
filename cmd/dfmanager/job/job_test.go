package job_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

var by = store.By{Actor: "tester"}

// cluster is one that has what it is told to have at once.
type cluster struct {
	mu    sync.Mutex
	fail  func(o warm.Order, try int) error // nil: nothing fails
	hold  chan struct{}                     // nothing is there before it is closed; nil: at once
	tries map[digest.Digest]int
	in    map[int64]bool // clusters
	begun chan struct{}  // gets a token when something is asked for
}

func newCluster() *cluster {
	return &cluster{tries: map[digest.Digest]int{}, in: map[int64]bool{}, begun: make(chan struct{}, 1000)}
}

func (c *cluster) Warm(ctx context.Context, in int64, o warm.Order, report func(warm.Progress)) (warm.Progress, error) {
	c.mu.Lock()
	c.tries[o.Blob.Digest]++
	c.in[in] = true
	try, fail, hold := c.tries[o.Blob.Digest], c.fail, c.hold
	c.mu.Unlock()
	c.begun <- struct{}{}
	p := warm.Progress{Host: "seed-1", Addr: "192.0.2.1:65002", Got: o.Blob.Size / 2}
	report(p)
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return p, context.Cause(ctx)
		}
	}
	if fail != nil {
		if err := fail(o, try); err != nil {
			return p, err
		}
	}
	p.Got = o.Blob.Size
	return p, nil
}

type env struct {
	t  *testing.T
	db *store.DB
	r  *origintest.Registry
	n  atomic.Int64
}

var key = sync.OnceValue(func() *seal.Key {
	k, err := seal.New(strings.Repeat("k", 32))
	if err != nil {
		panic(err)
	}
	return k
})

// runner opens a runner on the cluster until the test ends.
func (e *env) runner(w job.Warmer, change ...func(*job.Config)) *job.Runner {
	e.t.Helper()
	client := registry.New(registry.Config{})
	e.t.Cleanup(client.Close)
	c := job.Config{
		Store: e.db, Registry: client, Warmer: w, Key: key(), Owner: fmt.Sprint("runner ", e.n.Add(1)), Concurrent: 4,
		Timeout: time.Minute, Keep: time.Hour, Pace: job.Pace{Lease: 3 * time.Second, Poll: 20 * time.Millisecond, Again: 10 * time.Millisecond},
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}
	for _, f := range change {
		f(&c)
	}
	r, err := job.Open(c)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(r.Close)
	return r
}

func each(t *testing.T, o origintest.Options, test func(e *env)) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		test(&env{t: t, db: storetest.Open(t, url), r: origintest.New(t, o)})
	})
}

// image adds an image with a layer of its own.
func (e *env) image(tag string) {
	blob := func(s string) map[string]any {
		return map[string]any{"digest": digest.FromString(s), "size": len(s), "mediaType": "x"}
	}
	const kind = "application/vnd.oci.image.manifest.v1+json"
	data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": kind, "config": blob("config"), "layers": []any{blob("shared layer"), blob("layer of " + tag)}})
	if err != nil {
		e.t.Fatal(err)
	}
	e.r.Tag("p/app", tag, e.r.AddManifest("p/app", kind, data))
}

func (e *env) request(tag string) job.Request {
	ref, err := registry.ParseURL(e.r.URL() + "/v2/p/app/manifests/" + tag)
	if err != nil {
		e.t.Fatal(err)
	}
	return job.Request{Ref: ref}
}

func (e *env) create(r *job.Runner, q job.Request) store.Job {
	e.t.Helper()
	j, err := r.Create(e.t.Context(), by, q)
	if err != nil {
		e.t.Fatal(err)
	}
	return j
}

// ends waits for a job to end and returns it.
func (e *env) ends(id int64, want store.State) store.Job {
	e.t.Helper()
	var j store.Job
	for range 2000 {
		var err error
		if j, err = e.db.Job(e.t.Context(), id); err != nil {
			e.t.Fatal(err)
		}
		if j.State.Done() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if j.State != want || j.Secret != nil || j.State.Done() && j.Finished.IsZero() {
		e.t.Errorf("job %d is %s (%s), not %s", id, j.State, j.Error, want)
	}
	return j
}

func TestImageIsPreheated(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		j := e.ends(e.create(e.runner(newCluster()), e.request("v1")).ID, store.Succeeded)
		blobs, err := e.db.JobBlobs(e.t.Context(), j.ID)
		if err != nil || len(blobs) != 3 || j.Digest == "" || j.Error != "" {
			e.t.Errorf("%+v, %+v, %v", j, blobs, err)
		}
		for _, b := range blobs {
			if b.State != store.Succeeded || b.Got != b.Size || b.Host != "seed-1" {
				e.t.Errorf("%+v", b)
			}
		}
	})
}

// Of an image whose layers are chosen these are brought, and its config.
func TestLayersAreChosen(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		r := e.runner(newCluster())
		chosen := func(layers ...string) job.Request {
			q := e.request("v1")
			for _, l := range layers {
				q.Scope.Layers = append(q.Scope.Layers, digest.FromString(l).String())
			}
			return q
		}
		j := e.ends(e.create(r, chosen("layer of v1")).ID, store.Succeeded)
		blobs, err := e.db.JobBlobs(e.t.Context(), j.ID)
		var got []string
		for _, b := range blobs {
			got = append(got, b.Kind+" "+b.Digest)
		}
		want := []string{"layer " + digest.FromString("layer of v1").String(), "config " + digest.FromString("config").String()}
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			e.t.Errorf("it brought %v, %v; want %v", got, err, want)
		}
		for _, not := range []string{"no layer", "config"} {
			if j := e.ends(e.create(r, chosen("shared layer", not)).ID, store.Failed); j.Tries != 0 || !strings.Contains(j.Error, "the image has no layer "+digest.FromString(not).String()) {
				e.t.Errorf("%s: %d tries, %s", not, j.Tries, j.Error)
			}
		}
		if all, err := e.db.Images(e.t.Context(), store.Page{Limit: 9}); err != nil || len(all) != 0 {
			e.t.Errorf("a part of an image is shown as %+v, %v", all, err)
		}
	})
}

func TestWhatFailsForGood(t *testing.T) {
	each(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"jane": "secret"}}, func(e *env) {
		e.image("v1")
		c := newCluster()
		c.fail = func(warm.Order, int) error { return fmt.Errorf("%w: because", warm.ErrRefused) }
		r := e.runner(c)
		jane := registry.Credential{User: "jane", Password: "secret"}
		for name, tt := range map[string]struct {
			tag  string
			cred registry.Credential
			say  string
		}{
			"unknown image":   {"none", jane, "no such image"},
			"nobody":          {"v1", registry.Credential{}, "refuses the credentials"},
			"expired token":   {"v1", registry.Credential{Authorization: "Bearer old"}, "refuses the credentials"},
			"seed is refused": {"v1", jane, "3 of 3 blobs"},
		} {
			q := e.request(tt.tag)
			q.Credential = tt.cred
			if j := e.ends(e.create(r, q).ID, store.Failed); !strings.Contains(j.Error, tt.say) || j.Tries != 0 || strings.Contains(j.Error, "secret") {
				e.t.Errorf("%s: %d tries, %s", name, j.Tries, j.Error)
			}
		}
	})
}

func TestWhatPassesIsTriedAgain(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("sometimes")
		e.image("never")
		c := newCluster()
		c.fail = func(o warm.Order, try int) error {
			if o.Blob.Digest == digest.FromString("layer of never") || o.Blob.Digest == digest.FromString("layer of sometimes") && try < 3 {
				return warm.ErrNoSeed
			}
			return nil
		}
		r := e.runner(c)
		if j := e.ends(e.create(r, e.request("sometimes")).ID, store.Succeeded); j.Tries != 2 || j.Error != "" {
			e.t.Errorf("%+v", j)
		}
		if j := e.ends(e.create(r, e.request("never")).ID, store.Failed); !strings.Contains(j.Error, "no seed") {
			e.t.Errorf("%+v", j)
		}
	})
}

func TestSecretsAreSealed(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		c := newCluster()
		c.hold = make(chan struct{})
		q := e.request("v1")
		q.Credential = registry.Credential{User: "jane", Password: "very-secret"}
		r := e.runner(c)
		id := e.create(r, q).ID
		<-c.begun
		if j, err := e.db.Job(e.t.Context(), id); err != nil || len(j.Secret) == 0 || strings.Contains(string(j.Secret), "secret") {
			e.t.Errorf("%q, %v", j.Secret, err)
		}
		close(c.hold)
		e.ends(id, store.Succeeded) // and the secret is gone
	})
}

func TestAnotherKey(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		other, err := seal.New(strings.Repeat("o", 32))
		if err != nil {
			e.t.Fatal(err)
		}
		q := e.request("v1")
		q.Credential = registry.Credential{User: "jane", Password: "secret"}
		id := e.create(e.runner(newCluster(), func(c *job.Config) { c.Concurrent, c.Key = 0, other }), q).ID
		e.runner(newCluster())
		if j := e.ends(id, store.Failed); !strings.Contains(j.Error, "same one") {
			e.t.Errorf("%s", j.Error)
		}
	})
}

func TestCancelWhileItRuns(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		c := newCluster()
		c.hold = make(chan struct{})
		id := e.create(e.runner(c), e.request("v1")).ID
		<-c.begun
		if _, err := e.db.CancelJob(e.t.Context(), by, id); err != nil {
			e.t.Fatal(err)
		}
		e.ends(id, store.Cancelled)
		blobs, err := e.db.JobBlobs(e.t.Context(), id)
		if err != nil || blobs[0].State != store.Cancelled {
			e.t.Errorf("%+v, %v", blobs, err)
		}
	})
}

func TestTimeout(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		c := newCluster()
		c.hold = make(chan struct{})
		r := e.runner(c, func(c *job.Config) { c.Timeout = 300 * time.Millisecond })
		if j := e.ends(e.create(r, e.request("v1")).ID, store.Failed); !strings.Contains(j.Error, "too long") {
			e.t.Errorf("%s", j.Error)
		}
	})
}

func TestOthersGoOn(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		c := newCluster()
		c.hold = make(chan struct{})
		stopped := e.runner(c)
		id := e.create(stopped, e.request("v1")).ID
		<-c.begun
		stopped.Close()
		if j, err := e.db.Job(e.t.Context(), id); err != nil || j.State != store.Waiting || j.Tries != 0 {
			e.t.Errorf("after a stop: %+v, %v", j, err)
		}
		dead, err := e.db.ClaimJob(e.t.Context(), "dead", 100*time.Millisecond)
		if err != nil || dead.ID != id {
			e.t.Fatal(dead, err)
		}
		e.runner(newCluster())
		if j := e.ends(id, store.Succeeded); j.Run != dead.Run+1 {
			e.t.Errorf("%d runs", j.Run)
		}
	})
}

func TestLostJobIsLeftAlone(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		c := newCluster()
		c.hold = make(chan struct{})
		r := e.runner(c, func(c *job.Config) { c.Pace.Lease = 300 * time.Millisecond })
		id := e.create(r, e.request("v1")).ID
		<-c.begun
		j, err := e.db.Job(e.t.Context(), id)
		if err != nil {
			e.t.Fatal(err)
		}
		if err := e.db.EndJob(e.t.Context(), j, store.Failed, "somebody else says so"); err != nil {
			e.t.Fatal(err)
		}
		r.Close() // waits until the runner has noticed
		if j := e.ends(id, store.Failed); j.Error != "somebody else says so" {
			e.t.Errorf("%+v", j)
		}
	})
}

// A job is done in the cluster that it is for, or not at all.
func TestInACluster(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		c := newCluster()
		r := e.runner(c)
		k, err := e.db.CreateCluster(e.t.Context(), by, store.Cluster{Name: "fra", CA: []byte{1}, Key: []byte{2}})
		if err != nil {
			e.t.Fatal(err)
		}
		q := e.request("v1")
		q.Cluster = k.ID
		j := e.create(r, q)
		if j = e.ends(j.ID, store.Succeeded); j.Cluster != k.ID {
			e.t.Errorf("%+v", j)
		}
		c.mu.Lock()
		if len(c.in) != 1 || !c.in[k.ID] {
			e.t.Errorf("blobs were warmed in clusters %v", c.in)
		}
		c.mu.Unlock()
		q.Cluster = k.ID + 1
		var wrong field.Errors
		if _, err := r.Create(e.t.Context(), by, q); !errors.As(err, &wrong) || wrong["cluster_id"] == "" {
			e.t.Errorf("a cluster that is not there: %v", err)
		}
	})
}

// A schedule that came due while no manager ran makes one job, with its credentials.
func TestSchedule(t *testing.T) {
	each(t, origintest.Options{Auth: origintest.Bearer, Users: map[string]string{"jane": "secret"}}, func(e *env) {
		e.image("v1")
		q := e.request("v1")
		first := e.runner(newCluster())
		k, err := first.CreateSchedule(e.t.Context(), by, job.Plan{Order: job.Order{URL: q.Ref.URL(), User: "jane", Password: "secret"}, Cron: "0 0 1 1 *"})
		if err != nil || k.Due.Before(time.Now()) || k.Due.YearDay() != 1 {
			e.t.Fatalf("%+v, %v", k, err)
		}
		first.Close()
		if _, err := e.db.CreateSchedule(e.t.Context(), by, store.Schedule{Cron: k.Cron, Kind: k.Kind, URL: k.URL, Secret: k.Secret, Due: time.Now().Add(-72 * time.Hour)}); err != nil {
			e.t.Fatal(err)
		}
		c := newCluster()
		e.runner(c)
		select {
		case <-c.begun:
		case <-time.After(time.Minute):
			e.t.Fatal("it makes no job")
		}
		e.ends(1, store.Succeeded)
		all, err := e.db.Schedules(e.t.Context(), store.Page{Limit: 9})
		if err != nil || len(all) != 2 || all[0].Job != 0 || all[1].Job != 1 || !all[1].Due.Equal(k.Due) {
			e.t.Errorf("%+v, %v", all, err)
		}
	})
}

// Two managers share many jobs, and each ends once.
func TestManyJobs(t *testing.T) {
	each(t, origintest.Options{}, func(e *env) {
		e.image("v1")
		alive := func(c *job.Config) { c.Pace.Lease = time.Minute } // however slow the machine is
		one, _ := e.runner(newCluster(), alive), e.runner(newCluster(), alive)
		var ids []int64
		for range 30 {
			ids = append(ids, e.create(one, e.request("v1")).ID)
		}
		for _, id := range ids {
			if j := e.ends(id, store.Succeeded); j.Run != 1 {
				e.t.Errorf("job %d ran %d times", id, j.Run)
			}
		}
	})
}
