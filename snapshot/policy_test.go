package snapshot_test

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// TestModes: an image's mode is that of its repository, layers hear of it, and
// the pull of one that is to be filled ends when it is.
func TestModes(t *testing.T) {
	n := newNode(t)
	n.mode = func(r origin.Repo) snapshot.Mode { return snapshot.Mode(r.Path) }
	n.reopen()
	for _, mode := range snapshot.Modes {
		i := n.image("example.org/"+string(mode)+":1", []tree{
			{files: files("of", string(mode))},
			{files: files("lazy", string(mode)), lazy: true},
		})
		done := make(chan error, 1)
		n.layers.set(func() { n.layers.waits = make(chan struct{}, 1) })
		go func() { done <- n.pull("a", i, true) }()
		if mode == snapshot.Fill {
			select {
			case err := <-done:
				t.Fatalf("the pull ended before the layer was complete: %v", err)
			case <-n.layers.waits:
			}
			n.layers.complete(i.layers[1].Digest)
		}
		if err := <-done; err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		for _, l := range i.layers {
			if got := n.layers.modes[l.Digest]; got != mode {
				t.Errorf("%s: a layer was resolved as %q", mode, got)
			}
		}
		if got := n.metric("dfsnapshotter_images_total", string(mode)); got != 1 {
			t.Errorf("%s: %v images counted", mode, got)
		}
	}
}

// TestFillFails: a layer that cannot be filled fails the pull, which can be made
// again; containerd is not left to it, since it is mounted already.
func TestFillFails(t *testing.T) {
	n := newNode(t)
	n.mode = func(origin.Repo) snapshot.Mode { return snapshot.Fill }
	n.reopen()
	i := n.image("example.org/app:1", three)
	n.layers.set(func() { n.layers.incomplete = &origin.UnavailableError{Err: errors.New("connection refused")} })
	if err := n.pull("a", i, true); !errdefs.IsUnavailable(err) {
		t.Errorf("pull: %v", err)
	}
	if got := n.fetchedLayers(i); got != nil {
		t.Errorf("containerd fetched layers %v", got)
	}
	n.layers.set(func() { n.layers.incomplete = nil })
	for _, l := range i.layers {
		n.layers.set(func() { n.layers.born = append(n.layers.born, l.Digest) })
		n.layers.complete(l.Digest)
	}
	n.mustPull("a", i, true)
	if diff := cmp.Diff(threeFiles, n.run("a", i)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}
