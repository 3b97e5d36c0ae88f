package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// faulty starts a registry that can be told to fail, and puts an image there.
func (n *node) faulty(img *imagetest.Image, o origintest.Options) (*origintest.Registry, string) {
	n.Helper()
	r := origintest.Start(o)
	n.Cleanup(r.Close)
	n.must(n.AddHost(r.Host()))
	for d, data := range img.Blobs {
		if d != img.Manifest.Digest {
			r.AddBlob("repo", data)
		}
	}
	r.Tag("repo", "1", r.AddManifest("repo", img.Manifest.MediaType, img.Blobs[img.Manifest.Digest]))
	return r, r.Host() + "/repo:1"
}

// TestNoCredentials pulls an image that only containerd may read: the pull goes
// on through containerd.
func TestNoCredentials(t *testing.T) {
	n := start(t, options{})
	tars := [][]byte{program(t), data(t, 1, "data", 20, 6<<20)}
	_, ref := n.faulty(image(t, "/data", tars, imagetest.EStargz), origintest.Options{Auth: origintest.Basic, Users: map[string]string{"user": "secret"}})
	_, err := n.c.Ctr(n.ctx, "-n", ns, "images", "pull", "--user", "user:secret", "--hosts-dir", n.HostsDir(), "--snapshotter", ours, ref)
	n.must(err)
	if s := n.states(); len(s) != 0 {
		t.Errorf("layers of an image that is not ours to serve: %v", s)
	}
	n.runs(ref, "private", goprogOutput(t, extract(t, tars...)+"/data"))
}

// TestWrongBytes pulls an image whose layer is not what its digest says. The
// pull fails, and works once the registry has the right bytes.
func TestWrongBytes(t *testing.T) {
	n := start(t, options{})
	tars := [][]byte{program(t), data(t, 1, "data", 20, 6<<20)}
	img := image(t, "/data", tars, imagetest.Gzip)
	r, ref := n.faulty(img, origintest.Options{})
	layers := must(img.Layers())(t)
	r.Fail(layers[1].Digest, origintest.Fault{Corrupt: true})
	if err := n.c.Pull(n.ctx, ns, ours, ref); err == nil {
		t.Fatal("wrong bytes were pulled")
	}
	r.Heal()
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	n.runs(ref, "healed", goprogOutput(t, extract(t, tars...)+"/data"))
}

// TestUnreliable pulls and reads from a registry that fails now and then in each
// of several ways. Nobody notices.
func TestUnreliable(t *testing.T) {
	n := start(t, options{})
	tars := [][]byte{program(t), data(t, 1, "data", 20, 8<<20)}
	want := goprogOutput(t, extract(t, tars...)+"/data")
	for name, f := range map[string]origintest.Fault{
		"429":           {Status: 429, RetryAfter: "1", Times: 2},
		"500":           {Status: 500, Times: 2},
		"cut":           {CutAfter: 100_000, Times: 5},
		"ignores range": {IgnoreRange: true},
		"stalls":        {HangAfter: 200_000, Times: 1},
	} {
		for _, form := range []imagetest.Form{imagetest.Gzip, imagetest.EStargz} {
			t.Run(name+" "+string(form), func(t *testing.T) {
				n := n.scope(t)
				img := image(t, "/data", tars, form)
				r, ref := n.faulty(img, origintest.Options{})
				r.Fail(must(img.Layers())(t)[1].Digest, f)
				n.must(n.c.Pull(n.ctx, ns, ours, ref))
				n.runs(ref, strings.NewReplacer(" ", "-").Replace(name)+"-"+string(form), want)
				n.must(n.c.Collect(n.ctx, ns, ref))
				n.must(n.d.Reset(n.ctx))
			})
		}
	}
}

// TestForgedDiffID pulls an image whose eStargz layer claims to be what another
// image's is. When the layer has been filled that is known, and no container
// gets it any more; the other image is not harmed.
func TestForgedDiffID(t *testing.T) {
	n := start(t, options{})
	bottom := must(imagetest.Pack(program(t), imagetest.Gzip))(t)
	right, wrong := data(t, 1, "data", 20, 6<<20), data(t, 2, "data", 20, 6<<20)
	victimLayer := must(imagetest.Pack(right, imagetest.EStargz))(t)
	evilLayer := must(imagetest.Pack(wrong, imagetest.EStargz))(t)
	evilLayer.DiffID = victimLayer.DiffID
	config := ocispec.ImageConfig{Cmd: []string{"/bin/goprog", "/data"}}
	evil := n.push(must(imagetest.Assemble(config, []imagetest.Blob{bottom, evilLayer}))(t), "evil")
	victim := n.push(must(imagetest.Assemble(config, []imagetest.Blob{bottom, victimLayer}))(t), "victim")

	n.must(n.c.Pull(n.ctx, ns, ours, evil))
	n.must(lab.Eventually(n.ctx, time.Minute, func() error {
		for _, l := range must(n.d.Layers(n.ctx))(t) {
			if l.State == "refused" && l.Reason != "" {
				return nil
			}
		}
		return errors.New("no layer is refused")
	}))
	if out, err := n.c.Run(n.ctx, ns, ours, evil, "evil"); err == nil {
		t.Errorf("a container runs on a forged layer and prints %q", out)
	}
	n.must(n.c.Collect(n.ctx, ns, evil))
	n.must(n.c.Pull(n.ctx, ns, ours, victim))
	n.runs(victim, "victim", goprogOutput(t, extract(t, right)+"/data"))
}

// TestHanging measures that cold reads of a layer are not slowed down by another
// one whose source hangs: the same reads, with and without such a neighbour.
func TestHanging(t *testing.T) {
	n := start(t, options{link: "200mbit"})
	tars := [][]byte{program(t), data(t, 1, "data", 20, 20<<20)}
	hung := image(t, "/data", [][]byte{program(t), data(t, 7, "data", 20, 8<<20)}, imagetest.EStargz)
	r, hungRef := n.faulty(hung, origintest.Options{})
	n.must(n.c.Pull(n.ctx, ns, ours, hungRef))
	r.Reset() // counts
	r.Fail(must(hung.Layers())(t)[1].Digest, origintest.Fault{Hang: true})
	want := goprogOutput(t, extract(t, tars...)+"/data")

	// Containers that wait for the layer that hangs.
	for i := range 4 {
		go func() { _, _ = n.c.Run(n.ctx, ns, ours, hungRef, fmt.Sprint("hung", i)) }() // ended by the lab
	}
	n.must(lab.Eventually(n.ctx, 10*time.Second, func() error {
		if r.Count("blob") == 0 {
			return errors.New("nothing is asked of the registry that hangs")
		}
		return nil
	}))
	ref := n.push(image(t, "/data", tars, imagetest.EStargz), "other")
	began := time.Now()
	n.must(n.c.Pull(n.ctx, ns, ours, ref))
	n.runs(ref, "other", want)
	// 20 MiB take 0.9 s on this link; a read that waited for the other layer
	// would take ten times that.
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("reading 20 MiB took %s while another layer hung", took)
	}
}
