package lab_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestLab runs a container by containerd's own overlayfs, over a slow link, and
// as a pod: what other tests compare with works by itself.
func TestLab(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	l, err := lab.Open("../..")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", l.Dir, err)
		}
	}()
	if err := l.OwnDisk(); err != nil {
		t.Fatal(err)
	}
	reg, err := l.Registry(ctx, "200mbit")
	if err != nil {
		t.Fatal(err)
	}
	img, err := imagetest.Pause(ctx, "../..")
	if err != nil {
		t.Fatal(err)
	}
	pause, err := reg.Push(ctx, img, "pause", "1")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := imagetest.Program(ctx, "../..", "goprog")
	if err != nil {
		t.Fatal(err)
	}
	tar, err := imagetest.Layer{imagetest.Regular("goprog", 0o755, bin), imagetest.Dir("etc", 0o755)}.Tar()
	if err != nil {
		t.Fatal(err)
	}
	if img, err = imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/goprog", "/goprog"}}, [][]byte{tar}, imagetest.Gzip); err != nil {
		t.Fatal(err)
	}
	ref, err := reg.Push(ctx, img, "goprog", "1")
	if err != nil {
		t.Fatal(err)
	}
	before, err := reg.Received()
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Containerd(ctx, lab.ContainerdConfig{Pause: pause, Snapshotter: "overlayfs"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Pull(ctx, "default", "overlayfs", ref); err != nil {
		t.Fatal(err)
	}
	after, err := reg.Received()
	if err != nil {
		t.Fatal(err)
	}
	if size, _ := img.Size(); after-before < size || after-before > 2*size {
		t.Errorf("received %d bytes for an image of %d", after-before, size)
	}
	requests, err := reg.Requests()
	if err != nil {
		t.Fatal(err)
	}
	layers, _ := img.Layers()
	found := false
	for _, q := range requests {
		found = found || q.Path == "/v2/goprog/blobs/"+layers[0].Digest.String() && q.Bytes == layers[0].Size
	}
	if !found {
		t.Errorf("no request for the layer among %v", requests)
	}
	out, err := c.Run(ctx, "default", "overlayfs", ref, "one")
	if err != nil || !strings.HasPrefix(out, "1 ") {
		t.Errorf("container: %q, %v", out, err)
	}

	cri, err := c.CRI()
	if err != nil {
		t.Fatal(err)
	}
	defer cri.Close()
	if err := cri.Pull(ctx, ref); err != nil {
		t.Fatal(err)
	}
	pod, err := cri.Pod(ctx, "pod", 0)
	if err != nil {
		t.Fatal(err)
	}
	if log, err := pod.Run(ctx, "one", ref); err != nil || !strings.Contains(log, "stdout F 1 ") {
		t.Errorf("container of the pod: %q, %v", log, err)
	}
	// The pod is left to Close.
}
