package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// preheat brings the job's image into the cluster. It returns nil only when
// every blob was found to be there.
func (r *Runner) preheat(ctx context.Context, j store.Job) error {
	ref, err := registry.ParseURL(j.URL)
	if err != nil {
		return fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	cred, err := r.credential(j)
	if err != nil {
		return err
	}
	repo := r.Registry.Repo(ref, cred)
	image, err := repo.Resolve(ctx, r.platforms(j.Platforms))
	if err != nil {
		return err
	}
	if image, err = ScopeOf(j.Scope).part(image); err != nil {
		return err
	}
	if err := r.list(ctx, j, image); err != nil {
		return err
	}
	hosts, err := r.targets(ctx, j)
	if err != nil {
		return err
	}
	return r.blobs(ctx, j, image, warm.Order{Registry: ref.Registry(), Repository: ref.Repository, Tokens: repo}, hosts)
}

// list notes which blobs a job is about.
func (r *Runner) list(ctx context.Context, j store.Job, image registry.Image) error {
	rows := make([]store.JobBlob, len(image.Blobs))
	for i, b := range image.Blobs {
		rows[i] = store.JobBlob{Digest: b.Digest.String(), Kind: b.Kind, Size: b.Size}
	}
	return r.Store.SetJobBlobs(ctx, j, image.Digest.String(), rows)
}

func (r *Runner) credential(j store.Job) (registry.Credential, error) {
	s, err := r.secret(j)
	return s.Credential, err
}

// secret opens what the job keeps sealed.
func (r *Runner) secret(j store.Job) (s secret, err error) {
	if j.Secret == nil {
		return s, nil
	}
	text, err := r.Key.Open(j.Secret, purpose)
	if err != nil {
		return s, fmt.Errorf("the job's credentials: %w", err)
	}
	return s, json.Unmarshal(text, &s)
}

// blobs warms all blobs, a few at a time, from where from says. What is wrong with one
// does not keep the others from being warmed.
func (r *Runner) blobs(ctx context.Context, j store.Job, image registry.Image, from warm.Order, hosts []target) error {
	failed := make([]error, len(image.Blobs))
	var g errgroup.Group
	g.SetLimit(blobsAt)
	for i, b := range image.Blobs {
		g.Go(func() error {
			o := from
			o.Blob = b.Blob
			failed[i] = r.blob(ctx, j, b, o, hosts)
			return nil
		})
	}
	_ = g.Wait() // they say it in failed
	return summary(failed)
}

// summary is the errors of some blobs as one: the first, and how many there are.
// One that cannot pass decides.
func summary(failed []error) error {
	var first error
	n := 0
	for _, err := range failed {
		if err == nil {
			continue
		}
		n++
		if first == nil || passing(first) && !passing(err) {
			first = err
		}
	}
	if n > 1 {
		return fmt.Errorf("%d of %d blobs: %w", n, len(failed), first)
	}
	return first
}

// blob warms one blob, on a seed and then on hosts, and notes how that goes.
func (r *Runner) blob(ctx context.Context, j store.Job, b registry.Blob, o warm.Order, hosts []target) error {
	row := store.JobBlob{Digest: b.Digest.String(), State: store.Running}
	var noted time.Time
	note := func(p warm.Progress) error {
		row.Got, row.Host, row.Address = p.Got, string(p.Host), p.Addr
		noted = time.Now()
		return r.Store.UpdateJobBlob(ctx, j, row)
	}
	if err := note(warm.Progress{}); err != nil {
		return err
	}
	got, err := r.Warmer.Warm(ctx, j.Cluster, o, func(p warm.Progress) {
		if time.Since(noted) < noteEvery {
			return
		}
		if err := note(p); err != nil && ctx.Err() == nil { // the next one may get through
			r.Log.Debug("progress could not be stored", "job", j.ID, "err", err)
		}
	})
	if err == nil && len(hosts) > 0 && b.Size > 0 {
		err = errors.Join(note(got), r.spread(ctx, j, p2p.Command{Blob: b.Blob, Origin: p2p.Origin{Registry: o.Registry, Repository: o.Repository}}, hosts))
	}
	switch {
	case err == nil:
		row.State, row.Error = store.Succeeded, ""
		r.metrics.bytes.Add(float64(b.Size))
		return note(got)
	case ctx.Err() != nil:
		return err
	}
	err = fmt.Errorf("%s: %w", b.Digest, err)
	row.State, row.Error = store.Failed, err.Error()
	return errors.Join(err, note(got))
}
