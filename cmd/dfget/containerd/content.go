package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image returns what an image's name stands for; ok is false if there is none.
func (c *Client) Image(ctx context.Context, name string) (d ocispec.Descriptor, ok bool, err error) {
	resp, err := imagesapi.NewImagesClient(c.conn).Get(c.in(ctx), &imagesapi.GetImageRequest{Name: name})
	if err = answered(err); errdefs.IsNotFound(err) {
		return d, false, nil
	}
	if err != nil {
		return d, false, fmt.Errorf("image %s in containerd: %w", name, err)
	}
	t := resp.GetImage().GetTarget()
	return ocispec.Descriptor{MediaType: t.GetMediaType(), Digest: digest.Digest(t.GetDigest()), Size: t.GetSize()}, true, nil
}

// AddImage gives content a name.
func (c *Client) AddImage(ctx context.Context, name string, d ocispec.Descriptor) error {
	_, err := imagesapi.NewImagesClient(c.conn).Create(c.in(ctx), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{
		Name: name, Target: &types.Descriptor{MediaType: d.MediaType, Digest: string(d.Digest), Size: d.Size},
	}})
	if err = answered(err); err != nil {
		return fmt.Errorf("image %s in containerd: %w", name, err)
	}
	return nil
}

// leaseFor is how long content is kept that nothing refers to yet, if nobody ends that.
const leaseFor = 24 * time.Hour

// Lease keeps what is written with the context that it returns, until release.
func (c *Client) Lease(ctx context.Context) (leased context.Context, release func() error, err error) {
	client := leasesapi.NewLeasesClient(c.conn)
	id := fmt.Sprintf("dfget-%d", time.Now().UnixNano())
	_, err = client.Create(c.in(ctx), &leasesapi.CreateRequest{ID: id, Labels: map[string]string{
		"containerd.io/gc.expire": time.Now().Add(leaseFor).Format(time.RFC3339),
	}})
	if err = answered(err); err != nil {
		return nil, nil, fmt.Errorf("lease of containerd: %w", err)
	}
	release = func() error {
		_, err := client.Delete(c.in(context.WithoutCancel(ctx)), &leasesapi.DeleteRequest{ID: id})
		return answered(err)
	}
	return leases.WithLease(ctx, id), release, nil
}

func (c *Client) store() content.Store { return proxy.NewContentStore(c.conn) }

// Has reports whether a blob is in the content store, as a whole.
func (c *Client) Has(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := c.store().Info(c.in(ctx), d)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("content %s of containerd: %w", d, err)
	}
	return true, nil
}

// Read reads a small blob of the content store.
func (c *Client) Read(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	data, err := content.ReadBlob(c.in(ctx), c.store(), d)
	if err != nil {
		return nil, fmt.Errorf("content %s of containerd: %w", d.Digest, err)
	}
	return data, nil
}

// Label adds labels to a blob.
func (c *Client) Label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	var fields []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fields = append(fields, "labels."+k)
	}
	if len(fields) == 0 {
		return nil
	}
	if _, err := c.store().Update(c.in(ctx), content.Info{Digest: d, Labels: labels}, fields...); err != nil {
		return fmt.Errorf("label content %s of containerd: %w", d, err)
	}
	return nil
}

// Writer takes a blob.
type Writer struct {
	w    content.Writer
	ctx  context.Context
	desc ocispec.Descriptor
}

// Writer begins to write a blob, from its beginning; nil: it is there.
func (c *Client) Writer(ctx context.Context, d ocispec.Descriptor) (*Writer, error) {
	ctx = c.in(ctx)
	w, err := content.OpenWriter(ctx, c.store(), content.WithRef("dfget-"+string(d.Digest)), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return nil, nil
	}
	if err == nil {
		if err = w.Truncate(0); err != nil { // what an earlier call wrote is in the agent's cache
			err = errors.Join(err, w.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("write content %s of containerd: %w", d.Digest, err)
	}
	return &Writer{w, ctx, d}, nil
}

func (w *Writer) Write(p []byte) (int, error) { return w.w.Write(p) }

// Anew throws away what was written.
func (w *Writer) Anew() error { return w.w.Truncate(0) }

// Commit makes it content, if it matches its digest.
func (w *Writer) Commit(labels map[string]string) error {
	err := w.w.Commit(w.ctx, w.desc.Size, w.desc.Digest, content.WithLabels(labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("content %s of containerd: %w", w.desc.Digest, err)
	}
	return nil
}

// Close gives up what was not committed.
func (w *Writer) Close() error { return w.w.Close() }
