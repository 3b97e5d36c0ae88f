package snapshot_test

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// Pulls, containers, removals and sweeps of images that share layers, all at
// once. Whatever exists has its content, and in the end nothing is left.
func TestEverythingAtOnce(t *testing.T) {
	n := newNode(t)
	own := func(name string) tree { return tree{files: files(name, "1"), implied: true} }
	pulled := []img{
		n.image("example.org/one:1", []tree{three[0], three[1], own("one")}),
		n.image("example.org/two:1", []tree{three[1], three[0], own("one")}),
		n.image("example.org/three:1", []tree{three[0], own("one"), three[0]}),
	}
	root := t.TempDir()
	sn := mustNew(t, snapshot.Config{Root: root, Layers: n.layers, Images: n.images})
	var wg sync.WaitGroup
	var ran atomic.Int32
	for w := range 6 {
		wg.Go(func() {
			for round := range 30 {
				i := pulled[(w+round)%len(pulled)]
				ok, err := pullAndRun(t, sn, i, fmt.Sprint(w, "-", round))
				if err != nil {
					t.Errorf("worker %d, round %d: %v", w, round, err)
				}
				if ok {
					ran.Add(1)
				}
				removeChain(t, sn, i)
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d rounds came to a container", ran.Load(), 6*30)
	for _, i := range pulled { // alone now: the images that lost a race are finished
		removeChain(t, sn, i)
		if ok, err := pullAndRun(t, sn, i, "last"); !ok || err != nil {
			t.Errorf("last pull: %v, %v", ok, err)
		}
		removeChain(t, sn, i)
	}
	if got := n.layers.List(); len(got) != 0 {
		t.Errorf("layers left behind: %v", got)
	}
	if got := walk(t, sn); len(got) != 0 {
		t.Errorf("snapshots left behind: %v", got)
	}
	if entries, err := os.ReadDir(root + "/s"); err != nil || len(entries) != 0 {
		t.Errorf("directories left behind: %v, %v", entries, err)
	}
}

// removeChain removes what of an image nobody else uses.
func removeChain(t *testing.T, sn *snapshot.Snapshotter, i img) {
	for layer := len(i.chains) - 1; layer >= 0; layer-- {
		err := sn.Remove(t.Context(), i.chains[layer].String())
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			t.Error(err)
		}
	}
	if err := sn.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
}

// pullAndRun does what containerd does for a container, without its locks: it
// gives up without an error when another worker has removed a layer again.
func pullAndRun(t *testing.T, sn *snapshot.Snapshotter, i img, key string) (ran bool, err error) {
	parent := ""
	for layer, chain := range i.chains {
		_, err := sn.Prepare(t.Context(), key, parent, snapshots.WithLabels(prepareLabels(i, layer)))
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if !errdefs.IsAlreadyExists(err) {
			return false, fmt.Errorf("prepare layer %d: %w", layer, err)
		}
		parent = chain.String()
	}
	mounts, err := sn.Prepare(t.Context(), key, parent)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("prepare container: %w", err)
	}
	for _, dir := range append(splitLower(mounts[0]), option(mounts[0], "upperdir")) {
		if _, err := os.Stat(dir); err != nil {
			return false, err
		}
	}
	if _, err := sn.Mounts(t.Context(), key); err != nil {
		return false, fmt.Errorf("mounts of container: %w", err)
	}
	return true, sn.Remove(t.Context(), key)
}
