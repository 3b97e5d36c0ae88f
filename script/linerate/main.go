// Command linerate measures how fast a host gets one large blob from a seed over
// a link without limits, in plain text and by TLS, beside curl and nginx over the
// same link.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

func main() {
	defer lab.CloseOnSignal()()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "get" {
		err = get(os.Args[2:])
	} else {
		err = run(context.Background())
	}
	if err != nil {
		lab.CloseAll()
		fmt.Fprintln(os.Stderr, "linerate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root := flag.String("root", ".", "root folder of the project")
	rounds := flag.Int("rounds", 3, "repetitions")
	size := flag.Int64("size", 1<<30, "bytes of the blob")
	flag.Parse()
	for _, tls := range []bool{false, true} {
		if err := compare(ctx, *root, *rounds, *size, tls); err != nil {
			return err
		}
	}
	return nil
}

// bench is a seed that has a blob, and a host that has not.
type bench struct {
	*lab.Cluster
	lab    *lab.Lab
	host   *lab.Node
	seed   *lab.Node
	size   int64
	digest digest.Digest
	certs  string
	runs   int
}

func compare(ctx context.Context, root string, rounds int, size int64, tls bool) (err error) {
	l, err := lab.Open(root)
	if err != nil {
		return err
	}
	b := &bench{lab: l, size: size}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.SaveLogs(filepath.Join(root, "out/line-rate-logs")))
		}
		err = errors.Join(err, l.Close())
	}()
	if b.Cluster, err = l.Cluster(ctx, lab.ClusterConfig{Nodes: 2, Seeds: 1, P2P: true, TLS: tls}); err != nil {
		return err
	}
	kind := "plain"
	if tls {
		b.certs, kind = l.Path("certs"), "TLS"
	}
	b.seed, b.host = b.Seeds[0], b.Nodes[1]
	for _, n := range b.Nodes {
		// What is measured stands in for it.
		if err := n.Daemon.Stop(); err != nil {
			return err
		}
	}
	if err := b.fill(ctx); err != nil {
		return err
	}
	for range rounds {
		if err := b.nginx(ctx); err != nil {
			return err
		}
		if err := b.ours(b.host, kind); err != nil {
			return err
		}
	}
	return nil
}

// fill has the seed fetch a blob for another host, and puts a copy where nginx
// finds it.
func (b *bench) fill(ctx context.Context) error {
	file := b.seed.Path("www", "blob")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, h), rand.NewChaCha8([32]byte{1}), b.size)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	b.digest = digest.NewDigest(digest.SHA256, h)
	if err := b.push(ctx, file); err != nil {
		return err
	}
	return b.ours(b.Nodes[0], "seed and host, from the registry")
}

// push puts the blob into the registry.
func (b *bench) push(ctx context.Context, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+b.Registry.Host+"/v2/blob/blobs/uploads/", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	to, err := resp.Location()
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	q := to.Query()
	q.Set("digest", b.digest.String())
	to.RawQuery = q.Encode()
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if req, err = http.NewRequestWithContext(ctx, http.MethodPut, to.String(), f); err != nil {
		return err
	}
	req.ContentLength = b.size
	req.Header.Set("Content-Type", "application/octet-stream")
	if resp, err = http.DefaultClient.Do(req); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("push: %s", resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// ours has a host get the blob by the piece network.
func (b *bench) ours(n *lab.Node, kind string) error {
	b.runs++
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir := n.Path(fmt.Sprint("get", b.runs))
	before, err := b.seed.Daemon.Cost()
	if err != nil {
		return err
	}
	syscall.Sync()
	p, err := n.Start(fmt.Sprint("get", b.runs), nil, self, "get", "-dir", dir, "-scheduler", b.Scheduler.Addr, "-self", n.Addr("65002"), "-name", n.Name,
		"-certs", b.certs, "-registry", b.Registry.Host, "-hosts", b.lab.HostsDir(), "-size", fmt.Sprint(b.size), "-digest", b.digest.String())
	if err != nil {
		return err
	}
	text, err := wait(p)
	if err != nil {
		return err
	}
	after, err := b.seed.Daemon.Cost()
	if err != nil {
		return err
	}
	var took float64
	var peers, registry int64
	if _, err := fmt.Sscanf(text[strings.LastIndex(strings.TrimSpace(text), "\n")+1:], "%f %d %d", &took, &peers, &registry); err != nil {
		return fmt.Errorf("get: %w: %s", err, text)
	}
	b.show(kind, took, cpu(p), (after.CPU - before.CPU).Seconds())
	fmt.Printf("    %d MiB of peers, %d MiB of the registry\n", peers>>20, registry>>20)
	return os.RemoveAll(dir)
}

// nginx has a host get the blob with curl.
func (b *bench) nginx(_ context.Context) error {
	b.runs++
	config := b.seed.Path("nginx.conf")
	text := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/nginx.pid; error_log %[1]s/error.log;
events {}
http { sendfile on; access_log off; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  server { listen %[2]s; root %[1]s/www; } }
`, b.seed.Path(), b.seed.Addr("8080"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	server, err := b.seed.Start("nginx", nil, "nginx", "-p", b.seed.Path(), "-c", config)
	if err != nil {
		return err
	}
	url, file := "http://"+b.seed.Addr("8080")+"/blob", b.host.Path("copy")
	err = lab.Eventually(context.Background(), 10*time.Second, func() error {
		c, err := b.host.Dial(context.Background(), "tcp", b.seed.Addr("8080"))
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		return errors.Join(err, server.Stop())
	}
	syscall.Sync()
	began := time.Now()
	p, err := b.host.Start(fmt.Sprint("curl", b.runs), nil, "sh", "-c", fmt.Sprintf("curl -s %s | tee %s | sha256sum", url, file))
	if err != nil {
		return err
	}
	out, err := wait(p)
	took := time.Since(began).Seconds()
	if err = errors.Join(err, server.Stop(), os.Remove(file)); err != nil {
		return err
	}
	if !strings.HasPrefix(out, b.digest.Encoded()) {
		return fmt.Errorf("curl got something else: %s", out)
	}
	b.show("nginx, curl | tee | sha256sum", took, cpu(p), cpu(server))
	return nil
}

// wait waits for a program's end and returns what it printed.
func wait(p *lab.Process) (string, error) {
	err := p.Wait()
	out, rerr := os.ReadFile(p.LogFile)
	if err = errors.Join(err, rerr); err != nil {
		err = fmt.Errorf("%s: %w: %s", p.Path, err, out)
	}
	return string(out), err
}

// cpu returns the seconds that a program used that has ended, with its children.
func cpu(p *lab.Process) float64 {
	return (p.ProcessState.UserTime() + p.ProcessState.SystemTime()).Seconds()
}

func (b *bench) show(what string, took, host, seed float64) {
	gib := float64(b.size) / (1 << 30)
	fmt.Printf("%-34s %6.2f s  %6.0f MiB/s  CPU s/GiB: host %.2f, server %.2f\n", what, took, gib*1024/took, host/gib, seed/gib)
}
