package console

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/field"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// findForm is which image is looked for, and where it was found.
type findForm struct {
	jobForm
	Found *found // nil: nothing is looked for yet
}

// found is where an image is.
type found struct {
	sight.Found
	Digest  digest.Digest // of the manifest
	Cluster int64
	Blobs   []foundBlob
	Size    int64
}

// foundBlob is a blob of it, and how many hosts have all of that.
type foundBlob struct {
	registry.Blob
	Copies int
}

// Shown are the first of the hosts.
func (f *found) Shown() []sight.Share { return f.Hosts[:min(len(f.Hosts), maxRows)] }

func (c *Console) findPage(v *web.Visit) error {
	form := findForm{}
	if v.URL.Query().Get("kind") == job.File {
		form.File = &fileForm{}
	}
	return c.showFind(v, http.StatusOK, form)
}

func (c *Console) showFind(v *web.Visit, status int, form findForm) (err error) {
	form.Find = true
	if form.Clusters, err = c.Store.AllClusters(v.Context()); err != nil {
		return err
	}
	return c.show(v, status, frame{Title: form.title(), Page: "find", Body: form})
}

func (f findForm) title() string {
	if f.File != nil {
		return "Find a file"
	}
	return "Find an image"
}

// What is what was looked for.
func (f findForm) What() string {
	if f.File != nil {
		return "the file"
	}
	return f.Image
}

// find asks the registry what an image is, and the schedulers who has that.
func (c *Console) find(v *web.Visit) error {
	var o job.Order
	form := findForm{}
	form.jobForm, o = typedOrder(v)
	q, err := o.Request()
	if err == nil {
		form.Found, err = c.where(v.Context(), q)
	}
	var wrong field.Errors
	switch {
	case err == nil:
		return c.showFind(v, http.StatusOK, form)
	case errors.As(err, &wrong):
		form.Fields, form.Problem = form.named(wrong), wrong["cluster_id"]
		return c.showFind(v, http.StatusBadRequest, form)
	case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrRefused), errors.Is(err, registry.ErrInvalid), errors.Is(err, registry.ErrUnavailable),
		errors.Is(err, job.ErrFile), errors.Is(err, job.ErrFileAway):
		form.Problem = err.Error()
		return c.showFind(v, http.StatusBadRequest, form)
	}
	return err
}

// where finds an image.
func (c *Console) where(ctx context.Context, q job.Request) (*found, error) {
	k, err := c.standard(ctx)
	if q.Cluster != 0 {
		k, err = c.Store.Cluster(ctx, q.Cluster)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, field.Errors{"cluster_id": "there is no such cluster"}
	}
	if err != nil {
		return nil, err
	}
	m, err := c.members(ctx, k)
	if err != nil {
		return nil, err
	}
	image, err := c.Jobs.Resolve(ctx, q)
	if err != nil {
		return nil, err
	}
	f := &found{Digest: image.Digest, Cluster: k.ID}
	blobs := make([]p2p.Blob, len(image.Blobs))
	for i, b := range image.Blobs {
		blobs[i] = b.Blob
		f.Size += b.Size
	}
	if f.Found, err = c.Sight.Find(ctx, k.ID, m.Names(), blobs); err != nil {
		return nil, err
	}
	for i, b := range image.Blobs {
		f.Blobs = append(f.Blobs, foundBlob{b, f.Copies[i]})
	}
	return f, nil
}
