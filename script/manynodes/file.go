package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fileWays are the ways in which hosts get a file.
var fileWays = []struct {
	name  string
	alone bool
	dfget bool
	seeds int
}{
	{"curl, alone", true, false, 0},
	{"dfget, alone with an idle seed", true, true, 1},
	{"dfget, one seed", false, true, 1},
	{"dfget, no seed", false, true, 0},
}

// files measures how hosts get one file of so many MiB at once, by its URL.
func (c *cluster) files(ctx context.Context, rates []string, mebibytes, rounds int) error {
	layers, err := c.pushRandom(ctx, "file", 1, mebibytes<<20)
	if err != nil {
		return err
	}
	url := "http://" + c.Registry.Host + "/v2/file/blobs/" + layers[0]
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "links\tway\thosts\tslowest\t× curl\tregistry MiB\t× file")
	for _, rate := range rates {
		if err := c.SetLinks(rate); err != nil {
			return err
		}
		var direct float64
		for _, w := range fileWays {
			nodes := c.Nodes[:c.count]
			if w.alone {
				nodes = nodes[:1]
			}
			times, sent := make([]float64, rounds), make([]float64, rounds)
			for i := range rounds {
				if err := c.Use(ctx, true, w.seeds); err != nil {
					return err
				}
				if times[i], sent[i], err = c.get(ctx, nodes, url, w.dfget); err != nil {
					return fmt.Errorf("%s at %s: %w", w.name, rate, err)
				}
				progress("%s, %s: slowest %.2f s, registry %.1f MiB", rate, w.name, times[i], sent[i])
			}
			slices.Sort(times)
			slices.Sort(sent)
			slowest, egress := times[rounds/2], sent[rounds/2]
			if !w.dfget {
				direct = slowest
			}
			fmt.Fprintf(out, "%s\t%s\t%d\t%.2f s\t%.2f\t%.1f\t%.3f\n", rate, w.name, len(nodes), slowest, slowest/direct, egress, egress/float64(mebibytes))
		}
	}
	return out.Flush()
}

// pushRandom puts an image into the registry, as tag 1, with layers of so many random
// bytes each.
func (c *cluster) pushRandom(ctx context.Context, repo string, layers, size int) (digests []string, err error) {
	var tars [][]byte
	for i := range layers {
		data := make([]byte, size)
		seed := sha256.Sum256(fmt.Append(nil, repo, i))
		_, _ = rand.NewChaCha8(seed).Read(data) // it never fails
		tar, err := imagetest.Layer{imagetest.Regular("file", 0o644, data)}.Tar()
		if err != nil {
			return nil, err
		}
		tars = append(tars, tar)
	}
	img, err := imagetest.Make(ocispec.ImageConfig{}, tars, imagetest.Tar)
	if err != nil {
		return nil, err
	}
	if _, err := c.Registry.Push(ctx, img, repo, "1"); err != nil {
		return nil, err
	}
	all, err := img.Layers()
	for _, l := range all {
		digests = append(digests, l.Digest.String())
	}
	return digests, err
}

// get has nodes get the file, and returns the seconds until the slowest has it and
// the MiB that the registry sent meanwhile.
func (c *cluster) get(ctx context.Context, nodes []*lab.Node, url string, dfget bool) (slowest, sent float64, err error) {
	before, err := c.Registry.Received()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error {
			file := n.Path("file")
			defer os.Remove(file)
			var err error
			if dfget {
				_, err = n.Dfget(ctx, url, "-O", file, "-q", "--agent", n.StatusSocket())
			} else {
				_, err = n.Run(ctx, nil, "curl", "-sSf", "-o", file, url)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	took := time.Since(began).Seconds()
	after, err := c.Registry.Received()
	return took, mib(after - before), err
}
