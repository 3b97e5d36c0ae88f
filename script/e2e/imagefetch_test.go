package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

// TestImageFetch brings an image that is served lazily into containerd's content store,
// which then exports, pushes and unpacks it, without the registry.
func TestImageFetch(t *testing.T) {
	n := start(t, options{})
	tars := [][]byte{program(t), data(t, 1, "data/a", 20, 6<<20), data(t, 2, "data/b", 20, 6<<20)}
	img := image(t, "/data", tars, imagetest.EStargz, imagetest.Gzip, imagetest.EStargz)
	ref := n.push(img, "fetched")
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	archive := n.Path("image.tar")
	if _, err := n.c.Ctr(n.ctx, "images", "export", archive, ref); err == nil {
		t.Fatal("the layers are there before they are fetched")
	}
	list := n.fetchImage(ref)
	var layers int
	for _, b := range list {
		if strings.Contains(b.MediaType, "layer") {
			layers++
			if b.There || b.Direct != "" || b.From.Origin+b.From.Cache < b.Size {
				t.Errorf("of a layer it says %+v", b)
			}
		} else if !b.There {
			t.Errorf("containerd had no %+v", b)
		}
	}
	if layers != len(tars) {
		t.Errorf("%d layers were fetched of %d", layers, len(tars))
	}
	for _, b := range n.fetchImage(ref) { // again
		if !b.There {
			t.Errorf("it is fetched twice: %+v", b)
		}
	}
	n.must(n.reg.Stop()) // it is not needed for what follows
	if _, err := n.c.Ctr(n.ctx, "images", "export", archive, ref); err != nil {
		t.Error(err)
	}
	// Another containerd's image is as good: it is imported under its name, and runs.
	if _, err := n.c.Ctr(n.ctx, "-n", "other", "images", "import", "--snapshotter", overlayfs, archive); err != nil {
		t.Error(err)
	}
	want := goprogOutput(t, extract(t, tars...)+"/data")
	for _, where := range []string{ns, "other"} {
		out, err := n.c.Run(n.ctx, where, overlayfs, ref, "back", "/bin/goprog", "/data")
		if where == ns && err != nil { // ctr unpacks only what it is told to
			n.must(unpack(n, ref))
			out, err = n.c.Run(n.ctx, where, overlayfs, ref, "back", "/bin/goprog", "/data")
		}
		if err != nil || strings.TrimSpace(out) != want {
			t.Errorf("in %s the image prints %q, want %q: %v", where, out, want, err)
		}
	}
	n.must(n.reg.Start(n.ctx))
	if _, err := n.c.Ctr(n.ctx, "images", "push", "--plain-http", n.reg.Host+"/copy:1", ref); err != nil {
		t.Error(err)
	}
}

// unpack has overlayfs unpack an image.
func unpack(n *node, ref string) error {
	_, err := n.c.Ctr(n.ctx, "images", "mount", "--snapshotter", overlayfs, ref, n.Path("unpacked"))
	return err
}

// TestImageFetchNew brings an image that containerd does not know, of which garbage
// collection leaves everything, through an agent that may not read it, too.
func TestImageFetchNew(t *testing.T) {
	n := start(t, options{})
	ref := n.push(image(t, "/data", [][]byte{program(t), data(t, 1, "data/a", 20, 6<<20)}, imagetest.Gzip), "new")
	n.fetchImage(ref)
	other := n.push(image(t, "/data", [][]byte{data(t, 3, "data/a", 2, 1<<20)}, imagetest.Gzip), "gone")
	n.fetchImage(other)
	n.must(n.c.Collect(n.ctx, ns, other)) // which collects garbage
	archive := n.Path("image.tar")
	if _, err := n.c.Ctr(n.ctx, "images", "export", archive, ref); err != nil {
		t.Error(err)
	}
	// The archive's blobs get into another agent's cache.
	n.must(n.d.Stop())
	n.must(os.RemoveAll(n.SnapshotterRoot() + "/blobs"))
	n.must(n.d.Start(n.ctx))
	out := must(n.Dfget(n.ctx, "cache", "import", "--image", "--json", "--agent", n.StatusSocket(), archive))(t)
	if got := strings.Count(out, `"digest"`); got < 4 {
		t.Errorf("%d blobs were imported: %s", got, out)
	}
	if _, err := n.Dfget(n.ctx, "image", "fetch", "--containerd", n.Path("none.sock"), ref); err == nil {
		t.Error("without a containerd it succeeds")
	}
}

// fetchedBlob is what dfget image fetch says of a blob.
type fetchedBlob struct {
	Digest    digest.Digest
	MediaType string `json:"media_type"`
	Size      int64
	There     bool
	From      struct{ Origin, Peers, Cache int64 }
	Direct    string
}

func (n *node) fetchImage(ref string) (list []fetchedBlob) {
	n.Helper()
	out, err := n.Dfget(n.ctx, "image", "fetch", "--json", "-q", "--hosts-dir", n.HostsDir(), "--containerd", n.Path("c/containerd.sock"), "--agent", n.StatusSocket(), ref)
	if err != nil || json.Unmarshal([]byte(out), &list) != nil {
		n.Fatalf("dfget image fetch: %v: %s", err, out)
	}
	return list
}
