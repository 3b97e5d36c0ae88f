package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// converted is what SOCI's own command makes of an image: an index of the image,
// whose manifest names the SOCI index, and of that.
type converted struct {
	blobs              map[digest.Digest][]byte
	index, image, soci ocispec.Descriptor
}

// convert has SOCI's command index the layers of 4 MiB or more.
func convert(t *testing.T, img *imagetest.Image) *converted {
	t.Helper()
	tool := filepath.Join(root, ".tools/bin/soci")
	if _, err := os.Stat(tool); err != nil {
		t.Skip("missing: .tools/bin/soci (script/install-deps)")
	}
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	if err := img.Save(in); err != nil {
		t.Fatal(err)
	}
	args := []string{"convert", "--standalone", "--format", "oci-dir", "--min-layer-size", "4194304", "--platform", "linux/" + runtime.GOARCH, in, out}
	if text, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
		t.Fatalf("soci %v: %v: %s", args, err, text)
	}
	layout := must(imagetest.Load(out))(t)
	c := &converted{blobs: layout.Blobs, index: layout.Manifest}
	var list ocispec.Index
	if err := json.Unmarshal(c.blobs[c.index.Digest], &list); err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Manifests {
		if m.ArtifactType != "" {
			c.soci = m
		} else {
			c.image = m
		}
	}
	return c
}

// v2 pushes what was converted, and returns it: one name for the image and for what
// SOCI knows of it.
func (c *converted) v2(t *testing.T, r *lab.Registry, name string) *imagetest.Image {
	t.Helper()
	for tag, d := range map[string]ocispec.Descriptor{"image": c.image, "soci": c.soci} {
		must(r.Push(t.Context(), c.part(t, d), name, tag))(t)
	}
	return &imagetest.Image{Manifest: c.index, Blobs: c.blobs}
}

// part is a manifest with all that it is of.
func (c *converted) part(t *testing.T, d ocispec.Descriptor) *imagetest.Image {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(c.blobs[d.Digest], &m); err != nil {
		t.Fatal(err)
	}
	img := &imagetest.Image{Manifest: d, Blobs: map[digest.Digest][]byte{d.Digest: c.blobs[d.Digest], m.Config.Digest: c.blobs[m.Config.Digest]}}
	for _, l := range m.Layers {
		img.Blobs[l.Digest] = c.blobs[l.Digest]
	}
	return img
}

// v1 puts the ztocs beside the image that was converted, as the first version of
// SOCI does: the same manifest with another type, which refers to the image and is
// listed under the tag for it.
func (c *converted) v1(t *testing.T, r *lab.Registry, img *imagetest.Image, name string) {
	t.Helper()
	soci := c.part(t, c.soci)
	var m ocispec.Manifest
	if err := json.Unmarshal(soci.Blobs[soci.Manifest.Digest], &m); err != nil {
		t.Fatal(err)
	}
	m.Config.MediaType = strings.Replace(m.Config.MediaType, "v2", "v1", 1)
	m.Subject = &img.Manifest
	delete(soci.Blobs, soci.Manifest.Digest)
	soci.Manifest = add(t, soci, ocispec.MediaTypeImageManifest, m)
	soci.Manifest.ArtifactType = m.Config.MediaType
	must(r.Push(t.Context(), soci, name, "soci-v1"))(t)
	list := &imagetest.Image{Blobs: map[digest.Digest][]byte{}}
	var index ocispec.Index
	index.SchemaVersion, index.MediaType, index.Manifests = 2, ocispec.MediaTypeImageIndex, []ocispec.Descriptor{soci.Manifest}
	list.Manifest = add(t, list, ocispec.MediaTypeImageIndex, index)
	must(r.Push(t.Context(), list, name, strings.Replace(img.Manifest.Digest.String(), ":", "-", 1)))(t)
}

func add(t *testing.T, img *imagetest.Image, mediaType string, doc any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(data)
	img.Blobs[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// large is how many layers of an image are worth an index.
func large(t *testing.T, img *imagetest.Image) (n int) {
	t.Helper()
	for _, l := range must(img.Layers())(t) {
		if l.Size >= 4<<20 {
			n++
		}
	}
	return n
}

// TestSoci: a node that has nobody to ask mounts gzip and tar layers that it has
// never seen by what SOCI's own command has made of them and a real registry holds,
// of the first version in a repository that is trusted and of the second in any,
// and what it shows is what overlayfs unpacks.
func TestSoci(t *testing.T) {
	// No sparse files or global headers: SOCI describes neither.
	odd := oddLayers(indextest.File("random", indextest.Random(7, 5<<20)), indextest.File("text", indextest.Text(7, 12<<20)))
	python := must(imagetest.Debian(t.Context(), root, "python", imagetest.Gzip))(t)
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			n := start(t, options{config: "[index]\ntrust = ['127.0.0.1*/soci-v1-*']\n"})
			for name, img := range map[string]*imagetest.Image{
				"python": python,
				"gzip":   must(imagetest.Make(ocispec.ImageConfig{}, odd, imagetest.Gzip))(t),
				"tar":    must(imagetest.Make(ocispec.ImageConfig{}, odd, imagetest.Tar))(t),
			} {
				t.Run(name, func(t *testing.T) { n.scope(t).soci(version, name, img) })
			}
			if version == "v1" {
				n.notTrusted()
			}
		})
	}
}

// soci pushes an image with what SOCI makes of it, and compares it with overlayfs.
func (n *node) soci(version, name string, img *imagetest.Image) {
	n.Helper()
	output := ""
	if name == "python" {
		output = "ready"
	}
	repo, want := "soci-"+version+"-"+name, large(n.T, img)
	if c := convert(n.T, img); version == "v2" {
		img = c.v2(n.T, n.reg, repo)
	} else {
		n.push(img, repo)
		c.v1(n.T, n.reg, img, repo)
	}
	ref := n.push(img, repo)
	n.sees("SOCI "+version, ref)
	before := n.resolved("soci")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	if got := n.resolved("soci") - before; got != want {
		n.Errorf("%d layers of %d are mounted by a ztoc", got, want)
	}
	n.compare(img, repo, output)
}

// notTrusted pulls an image beside which there are ztocs that are not to be used.
func (n *node) notTrusted() {
	n.Helper()
	img := must(imagetest.Make(ocispec.ImageConfig{}, [][]byte{data(n.T, 9, "data", 2, 8<<20)}, imagetest.Gzip))(n.T)
	ref := n.push(img, "elsewhere")
	convert(n.T, img).v1(n.T, n.reg, img, "elsewhere")
	n.sees("SOCI v1", ref)
	before := n.resolved("unpacked")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	if got := n.resolved("unpacked") - before; got != 1 {
		n.Errorf("%d layers of a repository that is not trusted are unpacked, want 1", got)
	}
}

// sees checks that `dfget index ls` lists an index.
func (n *node) sees(what, ref string) {
	n.Helper()
	path := filepath.Join(filepath.Dir(os.Getenv("DFSNAPSHOTTER")), "dfget")
	out, err := exec.CommandContext(n.ctx, path, "index", "ls", "--hosts-dir", n.HostsDir(), ref).CombinedOutput()
	if err != nil || !strings.Contains(string(out), what) {
		n.Errorf("dfget index ls %s: %v: %s", ref, err, out)
	}
}

// TestP2PSoci: hosts of a cluster without seeds, none of which has seen the image,
// mount it by its ztocs, all at once, and share those as they share the layers.
func TestP2PSoci(t *testing.T) {
	c := openCloud(t, lab.ClusterConfig{Nodes: 3, TLS: true, Config: "[index]\ntrust = ['*/image']\n"}, imagetest.Gzip)
	img := c.images[imagetest.Gzip]
	convert(t, img).v1(t, c.Registry, img, "image")
	c.start(t, imagetest.Gzip, c.Nodes...).wait(t)
	c.resolvedAll(t, "soci")
}
