package e2e

import (
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// TestInstall has `dfsnapshotter install` configure a containerd, and pulls and
// runs an image lazily with that.
func TestInstall(t *testing.T) {
	n := start(t, options{})
	n.must(n.c.Stop())
	n.c = must(n.Containerd(n.ctx, lab.ContainerdConfig{Install: true, Pause: "none/pause"}))(t)
	tars := [][]byte{program(t), data(t, 7, "data", 4, 8<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.EStargz), "installed")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	n.runs(ref, "installed", goprogOutput(t, extract(t, tars...)+"/data"))
	layers := must(n.d.Layers(n.ctx))(t)
	if len(layers) == 0 {
		t.Error("no layer is dfsnapshotter's: containerd pulled the image itself")
	}
	if err := n.d.Complete(n.ctx, time.Minute); err != nil {
		t.Error(err)
	}
}
