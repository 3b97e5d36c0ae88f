package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dfget runs the command line that was built beside the daemon.
func (n *node) dfget(args ...string) string {
	n.Helper()
	path := filepath.Join(filepath.Dir(os.Getenv("DFSNAPSHOTTER")), "dfget")
	out, err := exec.CommandContext(n.ctx, path, args...).CombinedOutput()
	if err != nil {
		n.Fatalf("dfget %v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestRegistryIndexes: a node that has nobody to ask mounts gzip and tar layers
// that it has never seen, by indexes that `dfget index push` has put into a real
// registry, and what it shows is what overlayfs unpacks.
func TestRegistryIndexes(t *testing.T) {
	n := start(t, options{config: "[index]\ntrust = ['127.0.0.1*/indexed-*']\n"})
	odd := indextest.Tar(append(indextest.Nasty(), indextest.File("random", indextest.Random(7, 5<<20)))...)
	for name, img := range map[string]*imagetest.Image{
		"python": must(imagetest.Debian(n.ctx, root, "python", imagetest.Gzip))(t),
		"gzip":   must(imagetest.Make(ocispec.ImageConfig{}, [][]byte{odd[:len(odd)-1024], odd}, imagetest.Gzip))(t),
		"tar":    must(imagetest.Make(ocispec.ImageConfig{}, [][]byte{odd, odd[:len(odd)-1024]}, imagetest.Tar))(t),
	} {
		t.Run(name, func(t *testing.T) {
			n := n.scope(t)
			ref := n.push(img, "indexed-"+name)
			large := 0
			for _, l := range must(img.Layers())(t) {
				if l.Size >= 4<<20 {
					large++
				}
			}
			t.Log(n.dfget("index", "push", "--root", t.TempDir(), "--hosts-dir", n.HostsDir(), "--platform", "all", ref))
			before := n.resolved("registry")
			n.must(n.c.Pull(n.ctx, ns, ours, ref))
			if got := n.resolved("registry") - before; got != large {
				t.Errorf("%d layers of %d are mounted by an index of the registry", got, large)
			}
			output := ""
			if name == "python" {
				output = "ready"
			}
			n.compare(img, "indexed-"+name, output)
		})
	}
	other := n.push(must(imagetest.Make(ocispec.ImageConfig{}, [][]byte{data(t, 8, "data", 2, 8<<20)}, imagetest.Gzip))(t), "elsewhere")
	n.dfget("index", "push", "--root", t.TempDir(), "--hosts-dir", n.HostsDir(), other)
	before := n.resolved("unpacked")
	n.must(n.c.Pull(n.ctx, ns, ours, other))
	if got := n.resolved("unpacked") - before; got != 1 {
		t.Errorf("%d layers of a repository that is not trusted are unpacked, want 1", got)
	}
}

// resolved is how many layers were made in a way.
func (n *node) resolved(how string) int {
	n.Helper()
	return int(must(n.d.Metrics(n.ctx))(n.T)[`dfsnapshotter_layers_resolved_total{result="`+how+`"}`])
}
