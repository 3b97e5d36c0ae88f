package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// preheater is a cloud with a manager.
type preheater struct {
	*cloud
	manager *lab.Manager
}

// do has the manager do a job for the image.
func (p preheater) do(t *testing.T, form imagetest.Form, kind string) lab.Job {
	t.Helper()
	host, name, _ := strings.Cut(p.refs[form], "/")
	repo, tag, _ := strings.Cut(name, ":")
	return must(p.manager.Do(p.ctx, map[string]any{"kind": kind, "url": fmt.Sprintf("http://%s/v2/%s/manifests/%s", host, repo, tag), "timeout_seconds": 90}))(t)
}

// slowest is how long the last container of a wave took.
func (w *wave) slowest() time.Duration { return slices.Max(append(w.took, 0)) }

// TestP2PPreheat preheats an image on a cluster that has never heard of it: when all
// hosts start it, no byte of a layer leaves the registry, and it takes as long as any
// image that the cluster knows.
func TestP2PPreheat(t *testing.T) {
	s := scaled()
	c := openCloud(t, lab.ClusterConfig{Nodes: s.nodes, Seeds: 1}, imagetest.Gzip, imagetest.EStargz)
	at := must(c.Host("manager", lab.Link{}))(t)
	p := preheater{c, must(at.Manager(c.ctx, fmt.Sprintf("[cluster]\nschedulers = [%q]\n[tls]\ninsecure = true\n", c.Scheduler.Addr)))(t)}
	for _, form := range []imagetest.Form{imagetest.Gzip, imagetest.EStargz} {
		t.Run(string(form), func(t *testing.T) {
			c.fresh(t, 1)
			if j := p.do(t, form, "image"); j.State != "succeeded" {
				t.Fatalf("%+v", j)
			}
			if form == imagetest.Gzip {
				c.indexed(t, 1, c.Nodes)
			}
			before := c.layerBytes(t)
			first := c.start(t, form, c.Nodes...)
			first.wait(t)
			if n := c.layerBytes(t) - before; n > 0 {
				t.Errorf("the registry sent %d bytes of layers", n)
			}
			if n := c.metric(t, "dfsnapshotter_layers_resolved_total", `"cluster"`, c.Nodes...); form == imagetest.Gzip && n == 0 {
				t.Error("no layer was mounted by the seed's index")
			}
			for _, n := range c.Nodes { // as if it had never been there
				if err := n.Containerd.Collect(c.ctx, ns, c.refs[form]); err != nil {
					t.Fatal(err)
				}
				if err := n.Daemon.Reset(c.ctx); err != nil {
					t.Fatal(err)
				}
			}
			again := c.start(t, form, c.Nodes...)
			again.wait(t)
			if n := c.layerBytes(t) - before; n > 0 {
				t.Errorf("the registry sent %d bytes of layers until all had started again", n)
			}
			if took, seen := first.slowest(), again.slowest(); took > 2*seen+2*time.Second {
				t.Errorf("the first start took %v, one of an image that was seen %v", took, seen)
			}
			p.remove(t, form)
		})
	}
}

// remove has all hosts remove the image while its layers are mounted: containers go on
// to read the right bytes, those that are complete and those that are not.
func (p preheater) remove(t *testing.T, form imagetest.Form) {
	t.Helper()
	run := func(what string) {
		t.Helper()
		w := p.launch(t, form, p.Nodes, func(ctx context.Context, n *lab.Node, id string) (string, error) {
			return n.Containerd.Run(ctx, ns, ours, p.refs[form], id)
		})
		w.wait(t)
		if len(w.errs) > 0 {
			t.Fatal(what)
		}
	}
	p.complete(t, p.Nodes...)
	if j := p.do(t, form, "remove"); j.State != "succeeded" {
		t.Errorf("beside complete layers: %+v", j)
	}
	run("complete layers, after the blobs were removed")
	p.fresh(t, 1)
	if j := p.do(t, form, "image"); j.State != "succeeded" {
		t.Fatalf("%+v", j)
	}
	w := p.start(t, form, p.Nodes...)
	w.reach(t, 0.2)
	j := p.do(t, form, "remove")
	t.Logf("while containers read: %+v", j)
	w.wait(t) // and all have printed the right sum
	run("layers that were mounted while it was removed")
}
