package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

// TestSignals runs programs from layers that are not there yet: one of Go, whose
// runtime interrupts its own threads, and one of C, which a timer interrupts
// every millisecond. System calls on files of a disk never fail by that.
func TestSignals(t *testing.T) {
	n := start(t, options{link: "100mbit"})
	layer := imagetest.Layer{imagetest.Dir("etc", 0o755), imagetest.Dir("bin", 0o755)}
	for _, p := range []string{"goprog", "cprog"} {
		layer = append(layer, imagetest.Regular("bin/"+p, 0o755, must(imagetest.Program(t.Context(), root, p))(t)))
	}
	ballast := data(t, 9, "ballast", 4, 5<<20) // so that the layer of programs is lazy, too
	tars := [][]byte{append(must(layer.Tar())(t)[:tarEnd(must(layer.Tar())(t))], ballast...), data(t, 1, "data", 40, 12<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.EStargz), "signals")
	tree := extract(t, tars...)
	n.must(n.c.Pull(n.ctx, ns, ours, ref))

	args := []string{"-n", "20"}
	native := []string{"-n", "20"}
	for i := range 40 {
		args = append(args, fmt.Sprintf("/data/%03d", i))
		native = append(native, fmt.Sprintf("%s/data/%03d", tree, i))
	}
	want := strings.TrimSpace(string(must(exec.Command(tree+"/bin/cprog", native...).Output())(t)))
	got, err := n.c.Run(n.ctx, ns, ours, ref, "c", append([]string{"/bin/cprog"}, args...)...)
	if err != nil || strings.TrimSpace(got) != want {
		t.Errorf("C program: printed %q, want %q: %v", got, want, err)
	}
	n.must(n.c.Collect(n.ctx, ns, ref))
	n.must(n.d.Reset(n.ctx))
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	n.runs(ref, "go", goprogOutput(t, tree+"/data"))
}

// tarEnd returns where the two empty blocks begin that end a tar.
func tarEnd(tar []byte) int { return len(tar) - 1024 }
