package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pushIndexes puts indexes beside an image, by the command line that was built
// beside the daemon, on a machine whose agent has none.
func pushIndexes(t *testing.T, l *lab.Lab, ref string) {
	t.Helper()
	path := filepath.Join(filepath.Dir(os.Getenv("DFSNAPSHOTTER")), "dfget")
	args := []string{"index", "push", "--root", t.TempDir(), "--hosts-dir", l.HostsDir(), ref}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("dfget %v: %v: %s", args, err, out)
	}
	t.Logf("%s", out)
}

// oddLayers are two layers with all that tar can say, and more. The lower one has
// no whiteouts, with which an image would be left to containerd.
func oddLayers(more ...indextest.Entry) [][]byte {
	lowest := slices.Concat(indextest.Lowest(), hidden(), more)
	return [][]byte{indextest.Tar(lowest...), indextest.Tar(append(indextest.Nasty(), more...)...)}
}

// TestRegistryIndexes: a node that has nobody to ask mounts gzip and tar layers
// that it has never seen, by indexes that `dfget index push` has put into a real
// registry, and what it shows is what overlayfs unpacks.
func TestRegistryIndexes(t *testing.T) {
	n := start(t, options{config: "[index]\ntrust = ['127.0.0.1*/indexed-*']\n"})
	odd := oddLayers(indextest.File("random", indextest.Random(7, 5<<20)))
	for name, img := range map[string]*imagetest.Image{
		"python": must(imagetest.Debian(n.ctx, root, "python", imagetest.Gzip))(t),
		"gzip":   must(imagetest.Make(ocispec.ImageConfig{}, odd, imagetest.Gzip))(t),
		"tar":    must(imagetest.Make(ocispec.ImageConfig{}, odd, imagetest.Tar))(t),
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
			pushIndexes(t, n.Lab, ref)
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
	pushIndexes(t, n.Lab, other)
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

// TestP2PRegistryIndex: hosts of a cluster without seeds, none of which has seen
// the image, mount it by the registry's indexes, all at once, and share those as
// they share the layers.
func TestP2PRegistryIndex(t *testing.T) {
	c := openCloud(t, lab.ClusterConfig{Nodes: 3, TLS: true, Config: "[index]\ntrust = ['*/image']\n"}, imagetest.Gzip)
	pushIndexes(t, c.lab, c.refs[imagetest.Gzip])
	if egress := c.start(t, imagetest.Gzip, c.Nodes...).wait(t); egress > 1.25 {
		t.Errorf("the registry sent %.2f × the image", egress)
	}
	c.resolvedAll(t, "registry")
}

// resolvedAll checks that all hosts have mounted all large layers in one way, and
// that what they show is right, lazily and complete.
func (c *cloud) resolvedAll(t *testing.T, how string) {
	t.Helper()
	for _, n := range c.Nodes {
		if got := c.metric(t, "dfsnapshotter_layers_resolved_total", `"`+how+`"`, n); int(got) != len(scaled().layers) {
			t.Errorf("%s: %v layers of %d are %s", n.Name, got, len(scaled().layers), how)
		}
	}
	c.identical(t, c.Nodes[0])
	c.complete(t, c.Nodes...)
	c.identical(t, c.Nodes[1])
}
