package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// bigSize is the length of a file as models, archives and databases are.
const bigSize = 1 << 30

// bigImage makes an image of one file that compresses a little, by an eighth.
func (n *node) bigImage(form imagetest.Form) (*imagetest.Image, error) {
	return imagetest.Cached(n.Root, "big-1-"+string(form), func() (*imagetest.Image, error) {
		data := make([]byte, bigSize)
		random := rand.NewChaCha8([32]byte{1})
		_, _ = random.Read(data) // it returns nil
		for i := range data {
			data[i] &= 0x7f
		}
		tar, err := imagetest.Layer{imagetest.Regular("file", 0o644, data)}.Tar()
		if err != nil {
			return nil, err
		}
		return imagetest.Make(ocispec.ImageConfig{Cmd: []string{"/none"}}, [][]byte{tar}, form)
	})
}

// benchBig reads a file of 1 GiB in a layer that is mounted lazily and of which
// nothing is there, and downloads the layer's blob in one request: at the link's
// rate, and without a limit. Both are told in MiB of the blob per second.
func (n *node) benchBig(ctx context.Context, link string, rounds int) (*table, error) {
	t := newTable("one file of 1 GiB that is not there, in MiB of its blob per second", "download", "read through FUSE")
	if err := n.registry.SetRate(""); err != nil {
		return nil, err
	}
	for _, form := range []imagetest.Form{imagetest.EStargz, imagetest.Gzip} {
		b, err := n.pushBig(ctx, form)
		if err != nil {
			return nil, err
		}
		for _, rate := range []string{link, ""} {
			if err := n.registry.SetRate(rate); err != nil {
				return nil, err
			}
			for i := range rounds {
				row := fmt.Sprintf("%s, %s", form, rate)
				if rate == "" {
					row = fmt.Sprintf("%s, no limit", form)
				}
				progress("big: %s, round %d of %d", row, i+1, rounds)
				if err := n.roundBig(ctx, t, row, b); err != nil {
					return nil, err
				}
			}
		}
		if err := n.containerd.Collect(ctx, namespace, b.ref); err != nil {
			return nil, err
		}
	}
	return t, n.registry.SetRate(link)
}

// big is an image of one file and one layer, in the registry.
type big struct {
	ref, blob string // its name, and the URL of the layer's blob
	mib       float64
}

// pushBig leaves the daemon with an index of the layer and nothing else of it.
func (n *node) pushBig(ctx context.Context, form imagetest.Form) (b big, err error) {
	img, err := n.bigImage(form)
	if err != nil {
		return b, err
	}
	layers, err := img.Layers()
	if err != nil {
		return b, err
	}
	b.mib = float64(layers[0].Size) / (1 << 20)
	b.blob = fmt.Sprintf("http://%s/v2/big/blobs/%s", n.registry.Host, layers[0].Digest)
	if b.ref, err = n.registry.Push(ctx, img, "big", string(form)); err != nil || form != imagetest.Gzip {
		return b, err
	}
	if err := n.daemon.Reset(ctx); err != nil {
		return b, err
	}
	if err := n.containerd.Pull(ctx, namespace, ours, b.ref); err != nil {
		return b, err
	}
	err = n.daemon.Complete(ctx, 2*time.Minute)
	return b, errors.Join(err, n.containerd.Collect(ctx, namespace, b.ref))
}

func (n *node) roundBig(ctx context.Context, t *table, row string, b big) error {
	if err := n.daemon.Reset(ctx, "index"); err != nil {
		return err
	}
	began := time.Now()
	if err := download(ctx, b.blob); err != nil {
		return err
	}
	t.add(row, "MiB/s", "download", b.mib/time.Since(began).Seconds())
	if err := n.containerd.Pull(ctx, namespace, ours, b.ref); err != nil {
		return err
	}
	if err := n.lazily(ctx); err != nil {
		return err
	}
	m, err := n.mount(ctx, "read through FUSE", ours, b.ref)
	if err != nil {
		return err
	}
	before, err := n.daemon.Cost()
	if err != nil {
		return err
	}
	began = time.Now()
	err = readFile(m.dir + "/file")
	took := time.Since(began).Seconds()
	t.add(row, "MiB/s", m.column, b.mib/took)
	after, cerr := n.daemon.Cost()
	t.add(row+": daemon, CPU", "s", m.column, (after.CPU - before.CPU).Seconds())
	t.add(row+": daemon, peak resident", "MiB", m.column, float64(after.PeakRSS)/(1<<20))
	return errors.Join(err, cerr, n.unmount(ctx, m), n.containerd.Collect(ctx, namespace, b.ref))
}

// lazily fails if a layer is there already, or not ours.
func (n *node) lazily(ctx context.Context) error {
	layers, err := n.daemon.Layers(ctx)
	if err != nil || len(layers) == 1 && layers[0].State == "lazy" && layers[0].Filled < layers[0].Chunks/100 {
		return err
	}
	return fmt.Errorf("the image is not one layer of which nothing is there: %+v", layers)
}

func download(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, make([]byte, 128<<10))
	return err
}
