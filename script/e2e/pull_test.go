package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

// TestTransferService pulls an image that has layers of all kinds with ctr, and
// runs it while it is lazy and when it is complete.
func TestTransferService(t *testing.T) {
	n := start(t, options{link: "200mbit"})
	tars := [][]byte{program(t), data(t, 1, "data/a", 20, 6<<20), data(t, 2, "data/b", 20, 6<<20), data(t, 3, "data/c", 3, 1<<20), data(t, 4, "data/d", 10, 6<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.Gzip, imagetest.EStargz, imagetest.ZstdChunked, imagetest.Zstd, imagetest.Tar), "mixed")
	// An eStargz layer holds its table and a landmark as files, in its root.
	want := goprogOutput(t, extract(t, tars...)+"/data")

	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	if s := n.states(); s["lazy"]+s["filled"] == 0 {
		t.Errorf("nothing is lazy after the pull: %v", s)
	}
	lazy := n.mounted(ours, ref)
	if line := mountLine(t, lazy); !throughFUSE(line) {
		t.Errorf("the image is not lazy: %s", line)
	}
	n.runs(ref, "lazy", want)
	n.must(n.d.Complete(n.ctx, time.Minute))
	if line := mountLine(t, n.mounted(ours, ref)); throughFUSE(line) {
		t.Errorf("a complete image is mounted through FUSE: %s", line)
	}
	n.runs(ref, "complete", want)
	content := must(n.c.Ctr(n.ctx, "-n", ns, "content", "ls", "-q"))(t)
	if got := strings.Count(content, "\n"); got > 2 {
		t.Errorf("containerd fetched more than manifest and config:\n%s", content)
	}
}

// TestSeenBefore pulls a plain gzip image again after it was removed: its index
// is there, so it is lazy.
func TestSeenBefore(t *testing.T) {
	n := start(t, options{link: "200mbit"})
	tars := [][]byte{program(t), data(t, 1, "data", 20, 12<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.Gzip), "plain")
	want := goprogOutput(t, extract(t, tars...)+"/data")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	n.runs(ref, "first", want)
	n.must(n.d.Complete(n.ctx, time.Minute))
	n.must(n.c.Collect(n.ctx, ns, ref))
	n.must(n.d.Reset(n.ctx, "index"))
	before := must(n.reg.Received())(t)
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	if s := n.states(); s["lazy"] == 0 {
		t.Errorf("nothing is lazy although the index is there: %v", s)
	}
	if got := must(n.reg.Received())(t) - before; got > 6<<20 {
		t.Errorf("the pull took %d bytes", got)
	}
	n.runs(ref, "second", want)
}

// TestRemoval finds nothing left of an image that was removed.
func TestRemoval(t *testing.T) {
	n := start(t, options{})
	before := strings.Count(string(must(os.ReadFile("/proc/self/mountinfo"))(t)), n.Dir)
	tars := [][]byte{program(t), data(t, 1, "data/a", 20, 6<<20), data(t, 2, "data/b", 20, 6<<20)}
	want := goprogOutput(t, extract(t, tars...)+"/data")
	for i, form := range []imagetest.Form{imagetest.EStargz, imagetest.Gzip} {
		ref := n.push(image(t, "/data", tars, form), "gone"+fmt.Sprint(i))
		n.must(n.c.Pull(n.ctx, ns, ours, ref))
		n.runs(ref, "c"+fmt.Sprint(i), want)
		if i > 0 {
			n.must(n.d.Complete(n.ctx, time.Minute))
		}
		n.must(n.c.Collect(n.ctx, ns, ref))
		n.must(n.empty())
		if after := strings.Count(string(must(os.ReadFile("/proc/self/mountinfo"))(t)), n.Dir); after != before {
			t.Errorf("%d mounts, %d before", after, before)
		}
	}
}

// empty waits until neither containerd nor the daemon has a layer.
func (n *node) empty() error {
	snapshots, err := n.c.Ctr(n.ctx, "-n", ns, "snapshots", "--snapshotter", ours, "ls")
	if err != nil {
		return err
	}
	if strings.Count(snapshots, "\n") > 1 {
		return fmt.Errorf("snapshots are left:\n%s", snapshots)
	}
	for _, dir := range []string{"l", "s", "layers"} {
		entries, err := os.ReadDir(n.SnapshotterRoot() + "/" + dir)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for _, e := range entries {
			if e.IsDir() {
				return fmt.Errorf("%s/ still holds %s", dir, e.Name())
			}
		}
	}
	return nil
}

// TestNamespaces pulls one image in two namespaces and fetches it once.
func TestNamespaces(t *testing.T) {
	n := start(t, options{})
	tars := [][]byte{program(t), data(t, 1, "data", 20, 6<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.Gzip), "shared")
	want := goprogOutput(t, extract(t, tars...)+"/data")
	n.must(n.c.Pull(n.ctx, "one", ours, ref))
	n.must(n.d.Complete(n.ctx, time.Minute))
	layers := len(must(n.d.Layers(n.ctx))(t))
	before := len(must(n.reg.Requests())(t))
	n.must(n.c.Pull(n.ctx, "two", ours, ref))
	for _, q := range must(n.reg.Requests())(t)[before:] {
		if q.Bytes > 1<<20 {
			t.Errorf("the second namespace made the registry send %d bytes of %s", q.Bytes, q.Path)
		}
	}
	if got := len(must(n.d.Layers(n.ctx))(t)); got != layers {
		t.Errorf("%d layers, %d before", got, layers)
	}
	n.must(n.c.Collect(n.ctx, "one", ref))
	for _, id := range []string{"a", "b"} {
		if out, err := n.c.Run(n.ctx, "two", ours, ref, id); err != nil || strings.TrimSpace(out) != want {
			t.Errorf("container in the namespace that still has the image: %q, %v", out, err)
		}
	}
}

// TestManyLayers runs an image of 127 layers, some of them lazy.
func TestManyLayers(t *testing.T) {
	n := start(t, options{})
	tars := [][]byte{program(t)}
	for i := 1; i < 127; i++ {
		size := 20 << 10
		if i%40 == 0 {
			size = 5 << 20
		}
		tars = append(tars, data(t, uint64(i), fmt.Sprintf("data/%03d", i), 2, size))
	}
	ref := n.push(image(t, "/data", tars, imagetest.Gzip, imagetest.EStargz), "many")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	want := goprogOutput(t, extract(t, tars...)+"/data")
	n.runs(ref, "lazy", want)
	n.must(n.d.Complete(n.ctx, time.Minute))
	n.runs(ref, "complete", want)
}

// TestRepeatedLayer runs an image that has the same layer three times: overlayfs
// refuses to see a folder twice.
func TestRepeatedLayer(t *testing.T) {
	n := start(t, options{})
	a, b := data(t, 1, "data", 10, 6<<20), data(t, 2, "data", 5, 6<<20)
	tars := [][]byte{program(t), a, b, a, data(t, 3, "data/more", 2, 1<<20), a}
	ref := n.push(image(t, "/data", tars, imagetest.EStargz), "repeated")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	want := goprogOutput(t, extract(t, tars...)+"/data")
	n.runs(ref, "lazy", want)
	n.must(n.d.Complete(n.ctx, time.Minute))
	n.runs(ref, "complete", want)
}
