package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// freshBlobs is how many blobs a host is asked for that it does not have, of freshSize each.
const (
	freshBlobs = 32
	freshSize  = 1 << 20
)

// relay has nginx pass on what it is asked for, in as few steps as it can.
const relay = `daemon off; master_process off; pid %[1]s/nginx.pid; error_log %[1]s/nginx-error.log;
events { worker_connections 64; }
http {
  access_log off; proxy_temp_path %[1]s/nginx-temp; client_body_temp_path %[1]s/nginx-body;
  upstream next { server %[2]s; keepalive 4; }
  server {
    listen %[3]s;
    location / { proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }
  }
}
`

// firstBytes measures when the first byte of a blob comes to a host that has not got it,
// by turns from the registry, by way of nginx in the places of dfsnapshotters (what any
// way through them takes here, without a look at what passes), and through the host's
// mirror. What is asked before a blob in a pull is asked here, too, and not measured: a
// connection is there, and the manifest has been read. So is the first blob: nobody
// measures programs that have just started.
func (c *cluster) firstBytes(ctx context.Context, rates []string, times int) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "links\tway\tof the blobs\tdirectly\tnginx\t×\tmirror\t×")
	for _, rate := range rates {
		if err := c.SetLinks(rate); err != nil {
			return err
		}
		for _, w := range c.ways {
			var all [3][]time.Duration
			for i := range times {
				if err := c.firstOf(ctx, w, fmt.Sprint("first", i), &all); err != nil {
					return fmt.Errorf("%s at %s: %w", w.name, rate, err)
				}
			}
			for _, took := range all {
				slices.Sort(took)
			}
			for _, tenths := range []int{1, 5, 9} { // what else runs here comes between the later ones
				ms := func(from int) float64 { return all[from][len(all[from])*tenths/10].Seconds() * 1000 }
				fmt.Fprintf(out, "%s\t%s\t%d of 10 within\t%.1f ms\t%.1f ms\t%.2f\t%.1f ms\t%.2f\n",
					rate, w.name, tenths, ms(0), ms(1), ms(1)/ms(0), ms(2), ms(2)/ms(0))
			}
		}
	}
	return out.Flush()
}

// firstOf asks for blobs one after the other, each with nothing else on the line: they
// are read to their ends.
func (c *cluster) firstOf(ctx context.Context, w way, name string, all *[3][]time.Duration) (err error) {
	if err := c.use(ctx, w); err != nil {
		return err
	}
	blobs, err := c.pushRandom(ctx, name, freshBlobs, freshSize)
	if err != nil {
		return err
	}
	through, stop, err := c.relays(ctx, w)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return c.Nodes[0].Dial(ctx, network, addr)
	}}}
	defer client.CloseIdleConnections()
	for i, blob := range blobs {
		for from, at := range []string{c.Registry.Host, through, c.Nodes[0].Daemon.Mirror} {
			repo := "http://" + at + "/v2/" + name
			if _, err := firstByte(ctx, client, repo+"/manifests/1"); err != nil {
				return err
			}
			took, err := firstByte(ctx, client, repo+"/blobs/"+blob)
			if err != nil {
				return err
			}
			if i > 0 {
				all[from] = append(all[from], took)
			}
		}
	}
	return nil
}

// relays starts nginx on the host, and on a seed that is between it and the registry.
func (c *cluster) relays(ctx context.Context, w way) (addr string, stop func() error, err error) {
	var started []*lab.Process
	stop = func() error {
		var errs []error
		for _, p := range started {
			errs = append(errs, p.Stop())
		}
		return errors.Join(errs...)
	}
	addr = c.Registry.Host
	for _, n := range append(slices.Clone(c.Seeds[:w.seeds]), c.Nodes[0]) {
		conf, here := n.Path("nginx.conf"), n.Addr("8081")
		err := os.WriteFile(conf, fmt.Appendf(nil, relay, filepath.Dir(conf), addr, here), 0o644)
		if err == nil {
			var p *lab.Process
			if p, err = n.Start("nginx", nil, "nginx", "-c", conf); err == nil {
				started = append(started, p)
			}
		}
		if err == nil {
			err = lab.Eventually(ctx, 10*time.Second, func() error {
				conn, err := n.Dial(ctx, "tcp", here)
				if err == nil {
					_ = conn.Close()
				}
				return err
			})
		}
		if err != nil {
			return "", nil, errors.Join(err, stop())
		}
		addr = here
	}
	return addr, stop, nil
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
