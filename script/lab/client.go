package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Client uses a containerd from within this process, as kubelet does. Where many hosts
// start containers at once on one machine, as many ctr take a good part of it.
type Client struct {
	api   *client.Client
	hosts string
	fifos string
}

// Client connects to containerd, in a namespace of it, for as long as this process runs.
func (c *Containerd) Client(namespace string) (*Client, error) {
	api, err := client.New(c.Socket, client.WithDefaultNamespace(namespace))
	if err != nil {
		return nil, err
	}
	return &Client{api: api, hosts: c.at.lab.HostsDir(), fifos: c.at.Path("fifos")}, nil
}

// Pull pulls an image for a snapshotter, as ctr does: through the transfer service.
func (c *Client) Pull(ctx context.Context, snapshotter, ref string) error {
	from, err := registry.NewOCIRegistry(ctx, ref, registry.WithHostDir(c.hosts))
	if err != nil {
		return err
	}
	return c.api.Transfer(ctx, from, image.NewStore(ref, image.WithUnpack(ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, snapshotter)))
}

// A Container runs what an image says.
type Container struct {
	printing
	made client.Container
	task client.Task
}

// Start makes a container of an image that was pulled, and returns when it has printed a
// first line or has ended. If neither happens within limit it is removed, and the error is
// ErrSilent.
func (c *Client) Start(ctx context.Context, snapshotter, ref, id string, limit time.Duration) (*Container, error) {
	of, err := c.api.GetImage(ctx, ref)
	if err != nil {
		return nil, err
	}
	made, err := c.api.NewContainer(ctx, id, client.WithImage(of), client.WithSnapshotter(snapshotter), client.WithNewSnapshot(id, of),
		client.WithNewSpec(oci.WithImageConfig(of), oci.WithHostNamespace("network"), oci.WithHostHostsFile, oci.WithHostResolvconf))
	if err != nil {
		return nil, err
	}
	t := &Container{printing: newPrinting(), made: made}
	if err := t.begin(ctx, c.fifos); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrFailed, err), t.remove(ctx))
	}
	if err := t.await(limit, t.killer(ctx)); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Container) begin(ctx context.Context, fifos string) (err error) {
	r, w := io.Pipe()
	defer func() {
		if err != nil {
			r.Close() // who writes to it ends
		}
	}()
	t.task, err = t.made.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, w, w), cio.WithFIFODir(fifos)))
	if err != nil {
		return err
	}
	status, err := t.task.Wait(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	if err := t.task.Start(ctx); err != nil {
		return err
	}
	go t.watch(context.WithoutCancel(ctx), status, r, w)
	return nil
}

// watch reads what the container prints, until it ends; then it removes it.
func (t *Container) watch(ctx context.Context, status <-chan client.ExitStatus, r *io.PipeReader, w *io.PipeWriter) {
	defer close(t.ended)
	go func() {
		t.task.IO().Wait()
		w.Close()
	}()
	t.listen(r)
	code, _, err := (<-status).Result()
	if err == nil && code != 0 {
		err = fmt.Errorf("code %d", code)
	}
	if err != nil {
		t.err = fmt.Errorf("%w: %w: %s", ErrFailed, err, t.last)
	}
	t.err = errors.Join(t.err, t.remove(ctx))
}

func (t *Container) remove(ctx context.Context) (err error) {
	if t.task != nil {
		if _, err = t.task.Delete(ctx, client.WithProcessKill); errdefs.IsNotFound(err) {
			err = nil
		}
	}
	return errors.Join(err, t.made.Delete(ctx, client.WithSnapshotCleanup))
}

// Stop waits for the container's end, at most for grace, and then kills it. The error is
// that of one that failed before.
func (t *Container) Stop(ctx context.Context, grace time.Duration) error {
	return t.stop(grace, t.killer(ctx))
}

func (t *Container) killer(ctx context.Context) func() error {
	return func() error { return t.task.Kill(ctx, syscall.SIGKILL) }
}
