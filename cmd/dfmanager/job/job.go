// Package job runs preheat jobs: it resolves an image, has each of its blobs
// warmed, and notes how far that has come. Several managers may run the jobs of
// one database.
package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/file"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// The kinds of jobs.
const (
	Image  = "image"  // is brought to a cluster
	File   = "file"   // of a web server, likewise
	Remove = "remove" // an image, or a blob, is taken off all hosts of it
)

// Warmer brings a blob into a cluster, as warm.Pool does; into the standard one, if
// cluster is 0.
type Warmer interface {
	Warm(ctx context.Context, cluster int64, o warm.Order, report func(warm.Progress)) (warm.Progress, error)
}

// Config says what a Runner needs.
type Config struct {
	Store      *store.DB
	Registry   *registry.Client
	Files      *origin.Client // asks web servers
	Warmer     Warmer
	Commander  Commander // of hosts
	Sight      *sight.Sight
	Key        *seal.Key
	Owner      string        // of the jobs that this runner holds; nobody else's name
	Concurrent int           // jobs at a time
	Timeout    time.Duration // of a job, from when it is created
	Platforms  []string      // of an image index, unless a job says which; none: all
	Keep       time.Duration // how long jobs that have ended are remembered
	Pace       Pace          // zero values: the usual
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Pace is how often and how long things are done.
type Pace struct {
	Lease time.Duration // how long a job stays this runner's when nothing is heard of it
	Poll  time.Duration // how often jobs of others are looked for
	Again time.Duration // until a job that failed is tried again, the first time
	Stall time.Duration // how long hosts that get nothing are waited for
}

const (
	maxTries   = 4
	maxAgain   = time.Minute
	blobsAt    = 8               // blobs of a job at a time
	noteEvery  = 2 * time.Second // how often progress is stored
	endFor     = 30 * time.Second
	forgetWait = time.Hour
	purpose    = "job"
)

// Runner runs jobs until it is closed.
type Runner struct {
	Config
	metrics *metrics
	wake    chan struct{} // holds a token when there may be a job
	slots   chan struct{}
	ctx     context.Context
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup
}

var (
	errClosed    = errors.New("the manager is stopping")
	errCancelled = errors.New("cancelled")
	errTimeout   = errors.New("it took too long")
)

// Open begins to run jobs.
func Open(c Config) (*Runner, error) {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{{&c.Pace.Lease, 15 * time.Second}, {&c.Pace.Poll, time.Second}, {&c.Pace.Again, 2 * time.Second}, {&c.Pace.Stall, time.Minute}} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	r := &Runner{Config: c, wake: make(chan struct{}, 1), slots: make(chan struct{}, c.Concurrent)}
	var err error
	if r.metrics, err = newMetrics(c.Registerer, r); err != nil {
		return nil, err
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.wg.Go(r.forget)
	r.wg.Go(r.loop)
	r.wg.Go(r.fire)
	return r, nil
}

// Close gives back the jobs that are running, for others or for later.
func (r *Runner) Close() {
	r.cancel(errClosed)
	r.wg.Wait()
}

// Request is an image, or a file, to be preheated.
type Request struct {
	Ref        registry.Ref
	Credential registry.Credential
	Platforms  []string // of an index; none: the default ones
	Cluster    int64    // 0: the standard one
	Scope      Scope
	Remove     bool
	Blob       digest.Digest // to be removed, in place of an image
	File       *file.Spec    // in place of an image
}

// job is what is stored of a request, but for what takes a key.
func (q Request) job(timeout time.Duration) store.Job {
	j := store.Job{Kind: Image, Cluster: q.Cluster, URL: q.Ref.URL(), Platforms: q.Platforms, Scope: q.Scope.text(), Deadline: time.Now().Add(q.Scope.timeout(timeout))}
	if q.Remove {
		j.Kind = Remove
	}
	switch {
	case q.Blob != "":
		j.URL = q.Blob.String()
	case q.File != nil:
		j.Kind, j.URL, j.File = File, q.address(), fileText(*q.File)
	}
	return j
}

// secret is what a job keeps sealed until it ends.
type secret struct {
	registry.Credential
	File *file.Spec `json:",omitempty"`
}

func (q Request) secret() secret { return secret{q.Credential, q.File} }

// Create adds a job. It asks no registry. That there is no such cluster are
// field.Errors.
func (r *Runner) Create(ctx context.Context, by store.By, q Request) (store.Job, error) {
	if err := r.check(ctx, q); err != nil {
		return store.Job{}, err
	}
	j := q.job(r.Timeout)
	var err error
	if j.Secret, err = r.seal(q.secret()); err != nil {
		return j, err
	}
	j, err = r.Store.CreateJob(ctx, by, j)
	if err == nil {
		r.look()
	}
	return j, err
}

// check reports that there is no such cluster, as field.Errors.
func (r *Runner) check(ctx context.Context, q Request) error {
	if q.Cluster == 0 {
		return nil
	}
	_, err := r.Store.Cluster(ctx, q.Cluster)
	if errors.Is(err, store.ErrNotFound) {
		err = field.Errors{"cluster_id": "there is no such cluster"}
	}
	return err
}

// seal returns what is kept of a secret; nil if there is none.
func (r *Runner) seal(s secret) ([]byte, error) {
	if s == (secret{}) {
		return nil, nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return r.Key.Seal(text, purpose), nil
}

// look has jobs looked for now.
func (r *Runner) look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// loop claims jobs as long as there is room for one more.
func (r *Runner) loop() {
	away := false // the database was, when it was asked last
	for {
		select {
		case r.slots <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		j, err := r.Store.ClaimJob(r.ctx, r.Owner, r.Pace.Lease)
		if err == nil {
			away = false
			r.wg.Go(func() {
				defer func() { <-r.slots }()
				r.run(j)
			})
			continue
		}
		<-r.slots
		if is := !errors.Is(err, store.ErrNotFound) && r.ctx.Err() == nil; is != away {
			away = is
			if away {
				r.Log.Warn("jobs cannot be looked for", "err", err)
			}
		}
		if !r.pause() {
			return
		}
	}
}

// pause waits until there may be a job, and returns false when the runner is
// closed.
func (r *Runner) pause() bool {
	t := time.NewTimer(r.Pace.Poll)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.wake:
	case <-r.ctx.Done():
		return false
	}
	return true
}

// run has a job end, or wait for another try.
func (r *Runner) run(j store.Job) {
	began := time.Now()
	log := r.Log.With("job", j.ID, "image", j.URL)
	log.Info("job begins", "run", j.Run, "tries", j.Tries)
	ctx, cancel := context.WithCancelCause(r.ctx)
	ctx, stop := context.WithDeadlineCause(ctx, j.Deadline, errTimeout)
	defer stop()
	var keeper sync.WaitGroup
	keeper.Go(func() { r.keep(ctx, cancel, j) })
	work := r.preheat
	switch j.Kind {
	case Remove:
		work = r.remove
	case File:
		work = r.file
	}
	err := work(ctx, j)
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	cancel(nil)
	keeper.Wait()
	result := r.settle(j, err)
	r.metrics.ended.WithLabelValues(result).Inc()
	log.Info("job ends", "result", result, "took", time.Since(began), "err", err)
}

// keep tells the database that the job is being worked on, until ctx ends, and
// ends that when the job is somebody else's or was cancelled.
func (r *Runner) keep(ctx context.Context, cancel context.CancelCauseFunc, j store.Job) {
	t := time.NewTicker(r.Pace.Lease / 3)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		stop, err := r.Store.KeepJob(ctx, j, r.Pace.Lease)
		switch {
		case errors.Is(err, store.ErrLost):
			cancel(err)
		case err == nil && stop:
			cancel(errCancelled)
		}
	}
}

// settle stores how a try has ended, and returns that as a word.
func (r *Runner) settle(j store.Job, err error) string {
	state, reason := store.Succeeded, ""
	switch {
	case err == nil:
	case errors.Is(err, store.ErrLost):
		return "lost" // who has it settles it
	case errors.Is(err, errClosed):
		return r.store(j, "returned", func(ctx context.Context) error { return r.Store.PutBackJob(ctx, j, time.Now(), false, j.Error) })
	case errors.Is(err, errCancelled):
		state = store.Cancelled
	case !errors.Is(err, errTimeout) && passing(err) && j.Tries+1 < maxTries:
		due := time.Now().Add(min(maxAgain, r.Pace.Again<<j.Tries))
		return r.store(j, "again", func(ctx context.Context) error { return r.Store.PutBackJob(ctx, j, due, true, err.Error()) })
	default:
		state, reason = store.Failed, err.Error()
		if errors.Is(err, errTimeout) && j.Error != "" {
			reason += "; the try before: " + j.Error
		}
	}
	return r.store(j, string(state), func(ctx context.Context) error { return r.Store.EndJob(ctx, j, state, reason) })
}

// store does what it is given as long as the database is away. If that lasts too
// long, somebody will do the job again.
func (r *Runner) store(j store.Job, result string, f func(context.Context) error) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), endFor)
	defer cancel()
	for {
		err := f(ctx)
		switch {
		case err == nil:
			return result
		case errors.Is(err, store.ErrLost):
			return "lost"
		case !errors.Is(err, store.ErrUnavailable) || r.ctx.Err() != nil:
			r.Log.Error("how a job ended could not be stored", "job", j.ID, "result", result, "err", err)
			return "error"
		}
		select {
		case <-time.After(r.Pace.Poll / 4):
		case <-ctx.Done():
		case <-r.ctx.Done():
		}
	}
}

// passing reports whether trying again may help.
func passing(err error) bool {
	for _, never := range []error{registry.ErrNotFound, registry.ErrRefused, registry.ErrInvalid, warm.ErrRefused, warm.ErrPlain, warm.ErrNoCluster, seal.ErrOpen, ErrFile} {
		if errors.Is(err, never) {
			return false
		}
	}
	for _, maybe := range []error{registry.ErrUnavailable, ErrFileAway, warm.ErrNoScheduler, warm.ErrNoSeed, warm.ErrStalled, store.ErrUnavailable, errHosts} {
		if errors.Is(err, maybe) {
			return true
		}
	}
	return false
}

// forget removes old jobs now and then.
func (r *Runner) forget() {
	t := time.NewTicker(forgetWait)
	defer t.Stop()
	for {
		if err := r.Store.ForgetJobs(r.ctx, time.Now().Add(-r.Keep)); err != nil && r.ctx.Err() == nil {
			r.Log.Warn("old jobs could not be removed", "err", err)
		}
		select {
		case <-t.C:
		case <-r.ctx.Done():
			return
		}
	}
}
