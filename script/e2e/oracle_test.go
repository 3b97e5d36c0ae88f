package e2e

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/oracle/compare"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestOracle compares real images, as overlayfs has them, with ours: lazily,
// filled but still through FUSE, and complete. Without E2E_ALL=1 the large ones
// are compared in one form each, so that CI ends in time.
func TestOracle(t *testing.T) {
	forms := map[string][]imagetest.Form{
		"python":   imagetest.Forms,
		"nginx":    {imagetest.EStargz},
		"node":     {imagetest.ZstdChunked},
		"openjdk":  {imagetest.Zstd},
		"postgres": {imagetest.Gzip},
		"gcc":      {imagetest.EStargz},
	}
	n := start(t, options{})
	for _, name := range imagetest.Names() {
		if os.Getenv("E2E_ALL") != "" {
			forms[name] = imagetest.Forms
		}
		for _, form := range forms[name] {
			t.Run(name+" "+string(form), func(t *testing.T) {
				// Packing takes ten times as long under the race detector, so another
				// program does it; what is asked for below is in its cache then.
				cmd := exec.CommandContext(n.ctx, "go", "run", "./script/images", name+":"+string(form))
				cmd.Dir = root
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("script/images: %v: %s", err, out)
				}
				n.scope(t).compare(must(imagetest.Debian(n.ctx, root, name, form))(t), name, "ready")
			})
		}
	}
}

// TestOracleNasty compares an image of all that tar can say.
func TestOracleNasty(t *testing.T) {
	n := start(t, options{})
	// The layer below has what the odd one hides, and folders that it only implies.
	below := indextest.Tar(append(hidden(),
		indextest.Dir("tmp").Mode(0o1777), indextest.Dir("home/user").Owner(1000, 1000), indextest.File("home/user/old", []byte("old")),
	)...)
	layers := map[string][]indextest.Layer{
		"nasty": indextest.All(indextest.Tar(indextest.Nasty()...)),
		"many":  indextest.All(indextest.Tar(indextest.Many(10000)...)),
	}
	for what, forms := range layers {
		for _, l := range forms {
			if what == "many" && l.Name != "gzip" && l.Name != "estargz" && l.Name != "zstdchunked" {
				continue // one of a kind is enough of this
			}
			t.Run(what+" "+l.Name, func(t *testing.T) {
				bottom := must(imagetest.Pack(below, imagetest.Gzip))(t)
				top := imagetest.Blob{Descriptor: l.Descriptor(), DiffID: l.DiffID, Data: l.Blob}
				n.scope(t).compare(must(imagetest.Assemble(ocispec.ImageConfig{}, []imagetest.Blob{bottom, top}))(t), "nasty", "")
			})
		}
	}
}

// hidden is what the odd layer hides of those below.
func hidden() []indextest.Entry {
	return []indextest.Entry{
		indextest.Dir("gone"), indextest.File("gone/file", []byte("hidden")), indextest.File("gone/folder/file", []byte("hidden")),
		indextest.File("opaque/hidden", []byte("hidden")), indextest.File("late-opaque/hidden", []byte("hidden")), indextest.File("at-root", []byte("hidden")),
	}
}

// TestOracleLowest compares images that have the odd layer at the bottom. With
// whiteouts, which containerd drops there, they are left to it.
func TestOracleLowest(t *testing.T) {
	n := start(t, options{})
	above := must(imagetest.Pack(indextest.Tar(indextest.File("attr/above", []byte("x"))), imagetest.Gzip))(t)
	image := func(t *testing.T, l indextest.Layer, above ...imagetest.Blob) *imagetest.Image {
		bottom := imagetest.Blob{Descriptor: l.Descriptor(), DiffID: l.DiffID, Data: l.Blob}
		return must(imagetest.Assemble(ocispec.ImageConfig{}, append([]imagetest.Blob{bottom}, above...)))(t)
	}
	for _, l := range indextest.All(indextest.Tar(indextest.Lowest()...)) {
		t.Run(l.Name, func(t *testing.T) { n.scope(t).compare(image(t, l, above), "lowest", "") })
		t.Run("alone "+l.Name, func(t *testing.T) { n.scope(t).compare(image(t, l), "alone", "") })
	}
	for _, l := range indextest.All(indextest.Tar(indextest.Nasty()...)) {
		if l.Name != "gzip" && l.Name != "estargz" {
			continue // one that is lazy from the first time on, and one that is not
		}
		t.Run("whiteouts "+l.Name, func(t *testing.T) { n.scope(t).left(image(t, l, above), "whiteouts") })
		t.Run("whiteouts alone "+l.Name, func(t *testing.T) { n.scope(t).left(image(t, l), "whiteouts") })
	}
}

// left finds no difference either where an image is left to containerd.
func (n *node) left(img *imagetest.Image, name string) {
	ref := n.push(img, name)
	n.must(n.c.Pull(n.ctx, ns, overlayfs, ref))
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	mine := n.mounted(ours, ref)
	if line := mountLine(n.T, mine); throughFUSE(line) {
		n.Errorf("the image is mounted through FUSE: %s", line)
	}
	n.same("left", n.mounted(overlayfs, ref), mine)
}

// scope returns n for a subtest.
func (n *node) scope(t *testing.T) *node {
	scoped := *n
	scoped.T, scoped.ctx = t, t.Context()
	return &scoped
}

// compare finds no difference between an image by overlayfs and by us. The
// image's command prints output, if that is not empty.
func (n *node) compare(img *imagetest.Image, name, output string) {
	ref := n.push(img, name)
	n.must(n.c.Pull(n.ctx, ns, overlayfs, ref))
	plain := n.mounted(overlayfs, ref)
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	first := n.mounted(ours, ref)
	n.same("first", plain, first)
	n.must(n.d.Complete(n.ctx, 2*time.Minute))
	n.same("filled", plain, first)
	complete := n.mounted(ours, ref)
	if line := mountLine(n.T, complete); throughFUSE(line) {
		n.Errorf("a complete image is mounted through FUSE: %s", line)
	}
	n.same("complete", plain, complete)

	// The second time plain layers are lazy, too, because their index is there.
	n.must(n.c.Unmount(n.ctx, ns, ours, first))
	n.must(n.c.Unmount(n.ctx, ns, ours, complete))
	n.must(n.c.Collect(n.ctx, ns, ref))
	n.must(n.d.Reset(n.ctx, "index"))
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	n.same("again", plain, n.mounted(ours, ref))
	if output != "" {
		out, err := n.c.Run(n.ctx, ns, ours, ref, "c-"+name)
		if err != nil || !strings.HasSuffix(out, output+"\n") {
			n.Errorf("container printed %q: %v", out, err)
		}
	}
}

func (n *node) same(when, plain, mine string) {
	n.Helper()
	diff, stats, err := compare.Trees(n.ctx, plain, mine, compare.Options{IgnoreDirNlink: true})
	if err != nil || stats.Files == 0 {
		n.Fatalf("%s: %d files compared: %v", when, stats.Files, err)
	}
	diff = slices.DeleteFunc(diff, func(d compare.Difference) bool {
		// Folders that a layer only implies have no time in the image: containerd
		// leaves them with that of unpacking.
		at, err := time.Parse(time.RFC3339Nano, d.A)
		return d.What == "mtime" && err == nil && at.After(n.began)
	})
	for i, d := range diff {
		if i == 20 {
			n.Fatalf("%s: and %d more", when, len(diff)-i)
		}
		n.Errorf("%s: %v", when, d)
	}
}
