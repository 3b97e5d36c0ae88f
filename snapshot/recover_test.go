package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

const labelLayer = "containerd.io/snapshot/dfsnapshotter.layer"

func TestRestart(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three)
	n.mustPull("a", i, true)
	if _, err := n.inner().Prepare(n.ctx("a"), "c", i.top()); err != nil {
		t.Fatal(err)
	}
	before, err := n.inner().Mounts(n.ctx("a"), "c")
	if err != nil {
		t.Fatal(err)
	}
	n.reopen()
	after, err := n.inner().Mounts(n.ctx("a"), "c")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("mounts (-before +after):\n%s", diff)
	}
	n.mustPull("b", i, true)
	if diff := cmp.Diff(threeFiles, n.run("b", i)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for _, l := range i.layers {
		if got := n.layers.calls(l.Digest); got != 1 {
			t.Errorf("layer %s was resolved %d times", l.Digest, got)
		}
	}
	if got := n.log.count("level=ERROR"); got != 0 {
		t.Errorf("%d errors in the log:\n%s", got, &n.log.b)
	}
}

// What a crash in the middle of a Prepare leaves behind does not hinder the
// next one, and goes with the next Cleanup.
func TestLeftoverDirectories(t *testing.T) {
	n := newNode(t)
	// The metadata's next number is 1: the transaction that took it was lost.
	for _, dir := range []string{"1/fs/old", "1/work", "gone-x/fs"} {
		if err := os.MkdirAll(filepath.Join(n.root, "sn", "s", dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	n.reopen()
	mounts, err := n.sn.Prepare(t.Context(), "k", "")
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(mounts[0].Source); err != nil || len(entries) != 0 {
		t.Errorf("new snapshot holds %v, %v", entries, err)
	}
	if err := n.sn.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1"}, n.left()); diff != "" {
		t.Errorf("directories after Cleanup (-want +got):\n%s", diff)
	}
}

// A snapshot whose layer is gone is reported and left as it is; what needs it
// fails and says what to do; a pull in another namespace heals it.
func TestLayerGone(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three[:2])
	n.mustPull("a", i, true)
	for _, id := range n.layers.List() {
		if err := n.layers.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	n.reopen()
	if got := n.log.count("content of a snapshot is gone"); got != 2 {
		t.Errorf("%d snapshots reported, want 2", got)
	}
	_, err := n.inner().Prepare(n.ctx("a"), "c", i.top())
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "remove the image and pull it again") {
		t.Errorf("Prepare: %v; want failed precondition that says what to do", err)
	}
	if err := n.sn.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.mustPull("b", i, true)
	want := files("a", "1", "b", "2", "same", "2")
	for _, ns := range []string{"a", "b"} {
		if diff := cmp.Diff(want, n.run(ns, i)); diff != "" {
			t.Errorf("files in namespace %s (-want +got):\n%s", ns, diff)
		}
	}
	n.remove("a", i)
	n.remove("b", i)
	if got := n.layers.List(); len(got) != 0 {
		t.Errorf("layers left behind: %v", got)
	}
}

func TestDirectoryGone(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three[:1])
	n.mustPull("a", i, false)
	if err := os.RemoveAll(filepath.Join(n.root, "sn", "s")); err != nil {
		t.Fatal(err)
	}
	n.reopen()
	if got := n.log.count("content of a snapshot is gone"); got != 1 {
		t.Errorf("%d snapshots reported, want 1", got)
	}
	if _, err := n.inner().Prepare(n.ctx("a"), "c", i.top()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Prepare: %v; want failed precondition", err)
	}
}

// The layers of a pull that nobody finishes are kept for a while, for another
// try, also over a restart. Then they go, without containerd asking.
func TestUnfinishedPull(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three)
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			layers := newFakeLayers(t)
			layers.trees = n.layers.trees
			cfg := snapshot.Config{Root: t.TempDir(), Layers: layers, Images: n.images, Idle: time.Hour}
			sn := mustNew(t, cfg)
			_, err := sn.Prepare(t.Context(), "k", "", snapshots.WithLabels(prepareLabels(i, 0)))
			if !errdefs.IsAlreadyExists(err) {
				t.Fatal(err)
			}
			synctest.Wait() // for the layers that nobody asks for
			if restart {
				if err := sn.Close(); err != nil {
					t.Fatal(err)
				}
				sn = mustNew(t, cfg)
			}
			if err := sn.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Minute)
			if got := len(layers.List()); got != 3 {
				t.Errorf("%d layers after half an hour, want 3", got)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if got := len(layers.List()); got != 1 {
				t.Errorf("%d layers after an hour and a half, want the one that has a snapshot", got)
			}
		})
	}
}

// TestOrphanAdopted has a daemon begin with a layer that no snapshot has. It is kept for
// a pull that is tried again, and goes with the image that the pull brought.
func TestOrphanAdopted(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three[:1])
	if _, err := n.layers.Resolve(t.Context(), snapshot.Want{Desc: i.layers[0]}); err != nil {
		t.Fatal(err)
	}
	n.reopen()
	if err := n.sn.Cleanup(t.Context()); err != nil || len(n.layers.List()) != 1 {
		t.Fatalf("Cleanup: %v; left %v, want the layer", err, n.layers.List())
	}
	n.mustPull("a", i, true)
	if err := errors.Join(n.sn.Remove(t.Context(), i.top()), n.sn.Cleanup(t.Context())); err != nil || len(n.layers.List()) != 0 {
		t.Errorf("%v; left %v", err, n.layers.List())
	}
}

func mustNew(t testing.TB, cfg snapshot.Config) *snapshot.Snapshotter {
	t.Helper()
	sn, err := snapshot.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sn.Close(); err != nil {
			t.Error(err)
		}
	})
	return sn
}

// containerd dies after the snapshotter has committed a layer, before it has
// written that down itself: the next pull finds the layer, and without one the
// garbage collector removes it.
func TestContainerdForgets(t *testing.T) {
	for _, again := range []bool{true, false} {
		n := newNode(t)
		i := n.image("example.org/app:1", three)
		_, err := n.sn.Prepare(t.Context(), "a/1/lost", "", snapshots.WithLabels(prepareLabels(i, 0)))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		other := n.image("example.org/other:1", []tree{{files: files("other", "1")}})
		n.mustPull("a", other, true)
		if again {
			n.mustPull("a", i, true)
			if diff := cmp.Diff(threeFiles, n.run("a", i)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		}
		n.remove("a", other) // which makes the collector look at the snapshotter
		want := 0.0
		if again {
			want = 3
		}
		if got := n.metric("dfsnapshotter_snapshots", "remote"); got != want {
			t.Errorf("pulled again %v: %v remote snapshots, want %v", again, got, want)
		}
	}
}

// A layer that is removed just when another image finds it is found again.
func TestRemovedWhileResolved(t *testing.T) {
	n := newNode(t)
	one := n.image("example.org/one:1", three[:1])
	two := n.image("example.org/two:1", []tree{{files: files("base", "")}, three[0]})
	fade := &fading{fakeLayers: n.layers}
	sn := mustNew(t, snapshot.Config{Root: filepath.Join(n.root, "other"), Layers: fade, Images: n.images})
	prepare := func(i img, parent string, layer int) {
		t.Helper()
		_, err := sn.Prepare(t.Context(), "k", parent, snapshots.WithLabels(prepareLabels(i, layer)))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("Prepare: %v; want already exists", err)
		}
	}
	prepare(one, "", 0)
	fade.found = func() {
		if err := errors.Join(sn.Remove(t.Context(), one.top()), sn.Cleanup(t.Context())); err != nil {
			t.Error(err)
		}
	}
	prepare(two, "", 0)
	prepare(two, two.chains[0].String(), 1)
	mounts, err := sn.View(t.Context(), "v", two.top())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files("base", "", "a", "1", "same", "1"), n.files(mounts)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got := n.layers.calls(one.layers[0].Digest); got != 3 {
		t.Errorf("the layer was resolved %d times; want for one image, for the other, and again", got)
	}
}

// fading calls found once, after it has found a layer that was there.
type fading struct {
	*fakeLayers
	found func()
}

func (f *fading) Resolve(ctx context.Context, w snapshot.Want) (uint32, error) {
	f.mu.Lock()
	_, known := f.byBlob[w.Desc.Digest]
	f.mu.Unlock()
	id, err := f.fakeLayers.Resolve(ctx, w)
	if known && f.found != nil {
		found := f.found
		f.found = nil
		found()
	}
	return id, err
}

// A chain that is removed just when a container is made above it is not there, and
// if it is pulled again at once the container gets what is there now.
func TestRemovedWhileCreated(t *testing.T) {
	for _, at := range []string{"layer", "paths", "done"} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/again=%v", at, again), func(t *testing.T) {
				n := newNode(t)
				i := n.image("example.org/one:1", three[:1])
				passing := &passing{fakeLayers: n.layers}
				sn := mustNew(t, snapshot.Config{Root: filepath.Join(n.root, "other"), Layers: passing, Images: n.images})
				pull := func() {
					_, err := sn.Prepare(t.Context(), "k", "", snapshots.WithLabels(prepareLabels(i, 0)))
					if !errdefs.IsAlreadyExists(err) {
						t.Errorf("Prepare: %v; want already exists", err)
					}
				}
				pull()
				passing.hook(at, func() {
					if err := errors.Join(sn.Remove(t.Context(), i.top()), sn.Cleanup(t.Context())); err != nil {
						t.Error(err)
					}
					if again {
						pull()
					}
				})
				mounts, err := sn.Prepare(t.Context(), "c", i.top())
				if !again {
					if !errdefs.IsNotFound(err) {
						t.Errorf("Prepare: %v; want not found", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(three[0].files, n.files(mounts)); diff != "" {
					t.Errorf("files (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// passing calls a function once, before it answers Layer or Paths, or when it has
// answered Paths (done).
type passing struct {
	*fakeLayers
	at string
	fn func()
}

func (p *passing) hook(at string, fn func()) { p.at, p.fn = at, fn }

func (p *passing) pass(at string) {
	if fn := p.fn; fn != nil && p.at == at {
		p.fn = nil
		fn()
	}
}

func (p *passing) Layer(id uint32) (snapshot.Layer, bool) {
	p.pass("layer")
	return p.fakeLayers.Layer(id)
}

func (p *passing) Paths(ctx context.Context, ids []uint32, form snapshot.Form, chain bool) ([]string, error) {
	p.pass("paths")
	defer p.pass("done")
	return p.fakeLayers.Paths(ctx, ids, form, chain)
}

// A layer that cannot be removed now is removed by a later Cleanup.
func TestRemoveIsTriedAgain(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three[:1])
	n.mustPull("a", i, true)
	if err := n.sn.Remove(t.Context(), i.top()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.sn.Cleanup(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Cleanup: %v; want the fault", err)
	}
	if err := n.sn.Cleanup(t.Context()); err != nil || len(n.layers.List()) != 0 {
		t.Errorf("Cleanup: %v; left %v", err, n.layers.List())
	}
}

// No client can change which layer a snapshot has.
func TestLayerLabelIsOurs(t *testing.T) {
	n := newNode(t)
	i := n.image("example.org/app:1", three[:1])
	n.mustPull("a", i, true)
	info, err := n.sn.Stat(t.Context(), i.top())
	if err != nil {
		t.Fatal(err)
	}
	layer := info.Labels[labelLayer]
	if layer == "" {
		t.Fatalf("no layer in the labels %v", info.Labels)
	}
	lie := map[string]string{labelLayer: "77", "containerd.io/snapshot/x": "y"}
	for _, paths := range [][]string{nil, {"labels"}, {"labels." + labelLayer}, {"labels.containerd.io/snapshot/x"}} {
		for _, labels := range []map[string]string{nil, lie} {
			got, err := n.sn.Update(t.Context(), snapshots.Info{Name: i.top(), Labels: labels}, paths...)
			if err != nil || got.Labels[labelLayer] != layer {
				t.Errorf("update of %v with %v: layer %q, %v", paths, labels, got.Labels[labelLayer], err)
			}
		}
	}
	opt := snapshots.WithLabels(lie)
	if _, err := n.sn.Prepare(t.Context(), "k", "", opt); err != nil {
		t.Fatal(err)
	}
	if err := n.sn.Commit(t.Context(), "c", "k", opt); err != nil {
		t.Fatal(err)
	}
	if _, err := n.sn.Update(t.Context(), snapshots.Info{Name: "c", Labels: lie}); err != nil {
		t.Fatal(err)
	}
	if info, err := n.sn.Stat(t.Context(), "c"); err != nil || info.Labels[labelLayer] != "" || info.Labels["containerd.io/snapshot/x"] != "y" {
		t.Errorf("labels of an ordinary snapshot: %v, %v", info.Labels, err)
	}
	n.reopen()
	if diff := cmp.Diff(files("a", "1", "same", "1"), n.run("a", i)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestSecondProcessOnSameRoot(t *testing.T) {
	n := newNode(t)
	_, err := snapshot.New(snapshot.Config{Root: filepath.Join(n.root, "sn"), Layers: n.layers, Images: n.images})
	if err == nil || !strings.Contains(err.Error(), "metadata") {
		t.Errorf("New on a root in use: %v", err)
	}
}
