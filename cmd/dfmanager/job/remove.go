package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// goneIn is how long schedulers may take to hear that a host has removed a blob.
const goneIn = 15 * time.Second

// remove has all hosts remove the job's image, or blob. It returns nil only when the
// schedulers know of nobody who has any of it.
func (r *Runner) remove(ctx context.Context, j store.Job) error {
	image, err := r.removed(ctx, j)
	if err != nil {
		return err
	}
	if err := r.list(ctx, j, image); err != nil {
		return err
	}
	failed := make([]error, len(image.Blobs))
	var g errgroup.Group
	g.SetLimit(blobsAt)
	for i, b := range image.Blobs {
		g.Go(func() error {
			failed[i] = r.removeRow(ctx, j, b.Blob)
			return nil
		})
	}
	_ = g.Wait() // they say it in failed
	return summary(failed)
}

// removeRow removes a blob and notes how that goes.
func (r *Runner) removeRow(ctx context.Context, j store.Job, b p2p.Blob) error {
	row := store.JobBlob{Digest: b.Digest.String(), State: store.Running}
	if err := r.Store.UpdateJobBlob(ctx, j, row); err != nil {
		return err
	}
	err := r.removeBlob(ctx, j, b)
	if ctx.Err() != nil {
		return err
	}
	if row.State = store.Succeeded; err != nil {
		row.State, row.Error = store.Failed, err.Error()
	}
	return errors.Join(err, r.Store.UpdateJobBlob(ctx, j, row))
}

// removed is what is to be removed: one blob, or what a registry says of an image.
func (r *Runner) removed(ctx context.Context, j store.Job) (i registry.Image, err error) {
	if d := digest.Digest(j.URL); p2p.ValidateDigest(d) == nil {
		return registry.Image{Digest: d, Blobs: []registry.Blob{{Blob: p2p.Blob{Digest: d}, Kind: "blob"}}}, nil
	}
	ref, err := registry.ParseURL(j.URL)
	if err != nil {
		return i, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	cred, err := r.credential(j)
	if err != nil {
		return i, err
	}
	return r.Registry.Repo(ref, cred).Resolve(ctx, r.platforms(j.Platforms))
}

// removeBlob has those remove a blob who have any of it, and looks whether they did.
func (r *Runner) removeBlob(ctx context.Context, j store.Job, b p2p.Blob) error {
	hosts, b, err := r.holders(ctx, j, b)
	if err != nil || len(hosts) == 0 {
		return err
	}
	if err := r.spread(ctx, j, p2p.Command{Blob: b, Remove: true}, hosts); err != nil {
		return err
	}
	tick := time.NewTicker(r.Pace.Poll)
	defer tick.Stop()
	for end := time.Now().Add(goneIn); len(hosts) > 0; {
		if time.Now().After(end) {
			return fmt.Errorf("%w: %s and %d more hosts have it still, or again", errHosts, hosts[0].id, len(hosts)-1)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if hosts, _, err = r.holders(ctx, j, b); err != nil {
			return err
		}
	}
	return nil
}

// holders are all hosts that have some of a blob, whose size they tell.
func (r *Runner) holders(ctx context.Context, j store.Job, b p2p.Blob) (all []target, _ p2p.Blob, err error) {
	names := r.Commander.Names(j.Cluster)
	if len(names) == 0 {
		return nil, b, fmt.Errorf("%w: the cluster has no scheduler", errHosts)
	}
	seen := map[string]bool{}
	for _, name := range names { // while a swarm moves, two have it
		s, err := r.Sight.Now(ctx, j.Cluster, name, b.Digest)
		if err != nil {
			return nil, b, fmt.Errorf("%w: %w", errHosts, err)
		}
		for _, h := range s.Hosts {
			if h.Have > 0 && !seen[h.ID] {
				seen[h.ID] = true
				all = append(all, target{h.ID, h.Addr})
				b.Size = s.Size()
			}
		}
	}
	return all, b, nil
}
