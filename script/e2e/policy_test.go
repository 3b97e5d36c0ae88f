package e2e

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

// TestPolicy pulls an image in each mode, of a registry that takes its time.
func TestPolicy(t *testing.T) {
	n := start(t, options{link: "50mbit", config: `
[[image]]
match = "policy/fill"
mode = "fill"
[[image]]
match = "policy/eager*"
mode = "eager"
`})
	type outcome struct {
		lazy bool // when the pull ended, something of the image was not here
		fuse bool // … and a container would have read it through FUSE
	}
	seed := uint64(0) // containerd asks for no layer that it knows
	for mode, want := range map[string]outcome{"lazy": {true, true}, "fill": {false, false}, "eager-1": {false, true}} {
		seed++
		tars := [][]byte{program(t), data(t, seed, "data", 20, 8<<20)}
		ref := n.push(image(t, "/data", tars, imagetest.Gzip, imagetest.EStargz), "policy/"+mode)
		n.must(n.c.Pull(n.ctx, ns, ours, ref))
		got := outcome{n.states()["lazy"] > 0, throughFUSE(mountLine(t, n.mounted(ours, ref)))}
		if mode == "eager-1" { // it may be a directory by now
			want.fuse = got.fuse
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v: %v", mode, got, want, n.states())
		}
		if _, err := n.d.CLI(n.ctx, "wait", "--timeout", "1ms", ref); mode == "lazy" && exitCode(err) != 2 {
			t.Errorf("wait for an image that is not here: %v", err)
		}
		must(n.d.CLI(n.ctx, "wait", "--timeout", "1m", ref))(t)
		n.must(n.d.Complete(n.ctx, time.Second))
		n.runs(ref, mode, goprogOutput(t, extract(t, tars...)+"/data"))
	}
	_, err := n.d.CLI(n.ctx, "wait", "example.org/none:1")
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "no layer was pulled") {
		t.Errorf("wait for an image that nobody has pulled: %v", err)
	}
	metrics := must(n.d.Metrics(n.ctx))(t)
	for _, mode := range []string{"lazy", "fill", "eager"} {
		if got := metrics[`dfsnapshotter_images_total{mode="`+mode+`"}`]; got != 1 {
			t.Errorf("%v images of mode %s", got, mode)
		}
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
