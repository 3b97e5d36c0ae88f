package snapshot_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestPulled finds the layers of an image by its name.
func TestPulled(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := n.sn.Pulled(ctx, "example.org/one:1"); !errdefs.IsNotFound(err) {
		t.Errorf("an image that nobody has pulled: %v", err)
	}
	one := n.image("example.org/one:1", three)
	two := n.image("example.org/two:1", append(three[:2:2], tree{files: files("e", "5")}))
	n.mustPull("a", one, true)
	n.mustPull("a", two, true)
	for _, i := range []img{one, two} {
		p, err := n.sn.Pulled(ctx, i.ref)
		if err != nil || !p.Whole || len(p.Layers) != len(i.layers) {
			t.Fatalf("%s: %+v, %v", i.ref, p, err)
		}
		for j, id := range p.Layers {
			if got := n.layers.layers[id].blob; got != i.layers[j].Digest {
				t.Errorf("%s: layer %d is %s", i.ref, j, got)
			}
		}
	}
	n.layers.set(func() { n.layers.faults[one.layers[2].Digest] = errors.New("wrong digest") })
	n.remove("a", one)
	n.remove("a", two)
	if err := n.pull("a", one, true); err == nil {
		t.Fatal("a pull without an uppermost layer")
	}
	if p, err := n.sn.Pulled(ctx, one.ref); err != nil || p.Whole || len(p.Layers) != 2 {
		t.Errorf("half an image: %+v, %v", p, err)
	}
}
