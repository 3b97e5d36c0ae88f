package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// freshBlobs is how many blobs a host is asked for that it does not have, each of
// several pieces.
const (
	freshBlobs = 16
	freshSize  = 2 << 20
)

// firstBytes measures when the first byte of a blob comes to a host that has not got it,
// by turns from the registry and through its mirror. What is asked before a blob in a
// pull is asked here, too, and not measured: a connection is there, and the manifest has
// been read. So is the first blob: nobody measures programs that have just started.
func (c *cluster) firstBytes(ctx context.Context, rates []string, times int) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "links\tway\tfirst bytes\tmedian\tdirectly\t×\tlast tenth\tdirectly")
	for _, rate := range rates {
		if err := c.SetLinks(rate); err != nil {
			return err
		}
		for _, w := range c.ways {
			var direct, through []time.Duration
			for i := range times {
				d, m, err := c.firstOf(ctx, w, fmt.Sprint("first", i))
				if err != nil {
					return fmt.Errorf("%s at %s: %w", w.name, rate, err)
				}
				direct, through = append(direct, d...), append(through, m...)
			}
			slices.Sort(direct)
			slices.Sort(through)
			ms := func(all []time.Duration, tenths int) float64 { return all[len(all)*tenths/10].Seconds() * 1000 }
			fmt.Fprintf(out, "%s\t%s\t%d\t%.1f ms\t%.1f ms\t%.2f\t%.1f ms\t%.1f ms\n", rate, w.name, len(through),
				ms(through, 5), ms(direct, 5), ms(through, 5)/ms(direct, 5), ms(through, 9), ms(direct, 9))
		}
	}
	return out.Flush()
}

// firstOf asks for blobs one after the other, each with nothing else on the line: they
// are read to their ends.
func (c *cluster) firstOf(ctx context.Context, w way, name string) (direct, through []time.Duration, err error) {
	if err := c.use(ctx, w); err != nil {
		return nil, nil, err
	}
	blobs, err := c.pushRandom(ctx, name, freshBlobs, freshSize)
	if err != nil {
		return nil, nil, err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return c.Nodes[0].Dial(ctx, network, addr)
	}}}
	defer client.CloseIdleConnections()
	for i, blob := range blobs {
		for _, from := range []struct {
			at  string
			all *[]time.Duration
		}{{c.Registry.Host, &direct}, {c.Nodes[0].Daemon.Mirror, &through}} {
			repo := "http://" + from.at + "/v2/" + name
			if _, err := firstByte(ctx, client, repo+"/manifests/1"); err != nil {
				return nil, nil, err
			}
			took, err := firstByte(ctx, client, repo+"/blobs/"+blob)
			if err != nil {
				return nil, nil, err
			}
			if i > 0 {
				*from.all = append(*from.all, took)
			}
		}
	}
	return direct, through, nil
}

// firstByte returns how long it took, after the rest was read.
func firstByte(ctx context.Context, client *http.Client, url string) (time.Duration, error) {
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
	_, err = io.Copy(io.Discard, resp.Body)
	return took, err
}
