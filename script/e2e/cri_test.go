package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// TestCRI pulls an image and runs pods over the CRI socket, as a kubelet does,
// with a current containerd and with Debian's 1.6.
func TestCRI(t *testing.T) {
	for name, old := range map[string]bool{"containerd 2": false, "containerd 1.6": true} {
		t.Run(name, func(t *testing.T) {
			n := start(t, options{link: "200mbit", old: old})
			tars := [][]byte{program(t), data(t, 1, "data/a", 20, 6<<20), data(t, 2, "data/b", 20, 6<<20)}
			ref := n.push(image(t, "/data", tars, imagetest.EStargz, imagetest.Gzip, imagetest.EStargz), "pod")
			want := goprogOutput(t, extract(t, tars...)+"/data")
			cri := must(n.c.CRI())(t)
			defer cri.Close()
			n.must(cri.Pull(n.ctx, ref))
			if s := n.states(); s["lazy"]+s["filled"] == 0 {
				t.Errorf("nothing is lazy after the pull: %v", s)
			}
			n.podRuns(cri, "lazy", ref, 0, want)
			n.must(n.d.Complete(n.ctx, time.Minute))
			n.podRuns(cri, "complete", ref, 0, want)
		})
	}
}

// podRuns runs an image's command in a pod of its own and checks what it prints.
func (n *node) podRuns(cri *lab.CRI, name, ref string, userns uint32, want string) {
	n.Helper()
	pod := must(cri.Pod(n.ctx, name, userns))(n.T)
	log, err := pod.Run(n.ctx, name, ref)
	if _, got, _ := strings.Cut(strings.TrimSpace(log), " stdout F "); err != nil || got != want {
		n.Errorf("container of pod %s printed %q, want %q: %v", name, log, want, err)
	}
	n.must(pod.Remove(n.ctx))
}

// TestUserNamespace runs pods with user namespaces from images that mix plain
// and lazy layers: nothing is copied, files belong to the pod's root.
func TestUserNamespace(t *testing.T) {
	n := start(t, options{link: "200mbit"})
	tars := [][]byte{program(t), data(t, 1, "data/a", 20, 6<<20), data(t, 2, "data/b", 2, 1<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.Gzip, imagetest.EStargz, imagetest.Gzip), "userns")
	want := goprogOutput(t, extract(t, tars...)+"/data")
	cri := must(n.c.CRI())(t)
	defer cri.Close()
	n.must(cri.Pull(n.ctx, ref))
	n.podRuns(cri, "lazy", ref, 100000, want)
	n.must(n.d.Complete(n.ctx, time.Minute))
	n.podRuns(cri, "complete", ref, 200000, want)
	n.podRuns(cri, "plain", ref, 0, want)
}
