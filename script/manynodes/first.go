package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

// firstBytes measures when the first byte of each layer comes to a host that has
// nothing: from the registry, and through its mirror. What is asked before a blob
// in a pull is asked here, too, and not measured: a connection is there, and the
// manifest has been read.
func (c *cluster) firstBytes(ctx context.Context, rates []string, times int) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "links\tway\tmedian of the first bytes\t× direct")
	for _, rate := range rates {
		if err := c.SetLinks(rate); err != nil {
			return err
		}
		var direct time.Duration
		for _, w := range append([]way{{name: "directly"}}, c.ways...) {
			var all []time.Duration
			for range times {
				took, err := c.firstOf(ctx, w)
				if err != nil {
					return fmt.Errorf("%s at %s: %w", w.name, rate, err)
				}
				all = append(all, took...)
			}
			slices.Sort(all)
			median := all[len(all)/2]
			if !w.mirror {
				direct = median
			}
			fmt.Fprintf(out, "%s\t%s\t%.1f ms\t%.2f\n", rate, w.name, median.Seconds()*1000, median.Seconds()/direct.Seconds())
		}
	}
	return out.Flush()
}

// firstOf asks for the layers one after the other, each with nothing else on the
// line: who gives one up when it has begun may still get more of it for a while.
func (c *cluster) firstOf(ctx context.Context, w way) ([]time.Duration, error) {
	var all []time.Duration
	for d := range c.images[imagetest.Gzip].layers {
		at := c.Registry.Host
		if w.mirror {
			if err := c.use(ctx, w); err != nil {
				return nil, err
			}
			at = c.Nodes[0].Daemon.Mirror
		}
		took, err := c.firstOfLayer(ctx, "http://"+at+"/v2/"+c.image, d)
		if err != nil {
			return nil, err
		}
		all = append(all, took)
	}
	return all, nil
}

func (c *cluster) firstOfLayer(ctx context.Context, repo, layer string) (time.Duration, error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return c.Nodes[0].Dial(ctx, network, addr)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	if _, err := firstByte(ctx, client, repo+"/manifests/"+string(imagetest.Gzip)); err != nil {
		return 0, err
	}
	return firstByte(ctx, client, repo+"/blobs/"+layer)
}

// firstByte returns how long it took. Small documents are read to their end, so
// that the connection can be used again.
func firstByte(ctx context.Context, client *http.Client, url string) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", url, resp.Status)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if strings.Contains(url, "/manifests/") {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	return took, err
}
