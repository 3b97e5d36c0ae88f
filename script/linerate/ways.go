package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// bench is a blob, and two hosts joined by a link without limits.
type bench struct {
	lab        *lab.Lab
	seed, host *lab.Host
	self       string // this program
	blob       string // file
	size       int64
	digest     digest.Digest
	certs      string // folder
	starts     int    // so that each part has a log of its own
}

// way is one way to move the blob from seed to host.
type way struct {
	name string
	// move returns the CPU time of both, and how long it took the receiver.
	move func(ctx context.Context) (sender, receiver, took time.Duration, err error)
}

func newBench(l *lab.Lab, size int64) (*bench, error) {
	b := &bench{lab: l, size: size, blob: l.Path("blob"), certs: l.Path("certs")}
	n, err := l.Network(false)
	if err != nil {
		return nil, err
	}
	for name, h := range map[string]**lab.Host{"seed": &b.seed, "host": &b.host} {
		if *h, err = n.Host(name, lab.Link{}); err != nil {
			return nil, err
		}
	}
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if b.digest, err = makeBlob(b.blob, size); err != nil {
		return nil, err
	}
	out, err := exec.Command("go", "run", "./script/ca", b.certs, "seed=seed", "host=host", "scheduler=scheduler").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("script/ca: %w: %s", err, out)
	}
	return b, nil
}

// makeBlob writes a file that does not compress.
func makeBlob(path string, size int64) (digest.Digest, error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8([32]byte{}), size)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, sum), nil
}

// ways lists all; the first is the reference.
func (b *bench) ways() []way {
	return []way{
		{"nginx to curl | tee | sha256sum", b.curl("http", "8080", "sha256sum")},
		{"nginx to curl | tee | openssl sha256", b.curl("http", "8080", "openssl sha256")}, // which hashes by the CPU's own instructions
		{"piece server to piece client", b.peers("serve", "take", false)},
		{"seed to host", b.peers("seed", "host", false)},
		{"seed to dfget (CPU of its agent)", b.dfget},
		{"nginx to curl | tee | sha256sum, TLS", b.curl("https", "8443", "sha256sum")},
		{"nginx to curl | tee | openssl sha256, TLS", b.curl("https", "8443", "openssl sha256")},
		{"piece server to piece client, TLS", b.peers("serve", "take", true)},
		{"seed to host, TLS", b.peers("seed", "host", true)},
	}
}

// nginx serves a folder in as few steps as it can.
const nginx = `daemon off; master_process on; worker_processes 1; pid %[1]s/nginx.pid; error_log %[1]s/nginx-error.log;
events { worker_connections 64; }
http {
  access_log off; sendfile on; tcp_nopush on; root %[2]s;
  server { listen 8080; }
  server { listen 8443 ssl; ssl_protocols TLSv1.3; ssl_certificate %[3]s/seed.pem; ssl_certificate_key %[3]s/seed.key; }
}
`

// curl moves the blob from nginx to a pipe.
func (b *bench) curl(scheme, port, hash string) func(context.Context) (_, _, _ time.Duration, _ error) {
	return func(ctx context.Context) (sender, receiver, took time.Duration, err error) {
		server, err := b.nginx(ctx)
		if err != nil {
			return 0, 0, 0, err
		}
		script := fmt.Sprintf("set -o pipefail; curl -skf %s://%s/blob | tee %s | %s", scheme, b.seed.Addr(port), b.host.Path("got", "blob"), hash)
		return b.receive(server, "curl", b.digest.Encoded(), "bash", "-c", script)
	}
}

// nginx serves the blob at the seed's address.
func (b *bench) nginx(ctx context.Context) (*lab.Process, error) {
	conf := b.seed.Path("nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginx, filepath.Dir(conf), filepath.Dir(b.blob), b.certs), 0o644); err != nil {
		return nil, err
	}
	server, err := b.start(b.seed, "nginx", "nginx", "-c", conf)
	if err != nil {
		return nil, err
	}
	if err := b.listening(ctx, "8080"); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server, nil
}

// dfget moves the blob from a seed that has it to a file, through a dfsnapshotter on
// the host. nginx, which has it, too, is asked for its size only.
func (b *bench) dfget(ctx context.Context) (sender, receiver, took time.Duration, err error) {
	origin, err := b.nginx(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, origin.Stop()) }()
	server, stop, err := b.serve(ctx, "seed", "")
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	agent, err := b.host.Daemon(ctx, fmt.Sprintf("[peer]\nschedulers = [%q]\n[tls]\ninsecure = true\n", b.seed.Addr("8002")))
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, agent.Wipe()) }()
	if err := b.linked(ctx, agent); err != nil {
		return 0, 0, 0, err
	}
	unix.Sync()
	sent, got, began := usage(server), usage(agent.Process), time.Now()
	if _, err := b.host.Dfget(ctx, "http://"+b.seed.Addr("8080")+"/blob", "--digest", b.digest.String(), "-O", b.host.Path("got", "blob"), "-q", "--agent", b.host.StatusSocket()); err != nil {
		return 0, 0, 0, err
	}
	took = time.Since(began)
	m, err := agent.Metrics(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	if n := m[`dfsnapshotter_fetcher_bytes_total{source="origin"}`]; n != 0 {
		return 0, 0, 0, fmt.Errorf("%.0f bytes came from nginx", n)
	}
	return usage(server) - sent, usage(agent.Process) - got, took, nil
}

// linked waits until a dfsnapshotter has its scheduler.
func (b *bench) linked(ctx context.Context, d *lab.Daemon) error {
	return lab.Eventually(ctx, 10*time.Second, func() error {
		m, err := d.Metrics(ctx)
		if err == nil && m["dfsnapshotter_peer_schedulers_reachable"] == 0 {
			err = errors.New("no scheduler is reachable")
		}
		return err
	})
}

// peers moves the blob between two parts of this program.
func (b *bench) peers(sender, receiver string, secure bool) func(context.Context) (_, _, _ time.Duration, _ error) {
	return func(ctx context.Context) (_, _, _ time.Duration, err error) {
		certs := ""
		if secure {
			certs = b.certs
		}
		server, stop, err := b.serve(ctx, sender, certs)
		if err != nil {
			return 0, 0, 0, err
		}
		s, r, took, err := b.receive(server, receiver, "took", b.part(receiver, b.host, b.host.Path("got"), certs)...)
		return s, r, took, errors.Join(err, stop())
	}
}

// part is the command line of a part of this program.
func (b *bench) part(name string, at *lab.Host, dir, certs string) []string {
	const port = "65002"
	return []string{
		b.self, name, "-dir", dir, "-file", b.blob, "-listen", at.Addr(port), "-blob", b.digest.String(), "-size", fmt.Sprint(b.size),
		"-seed", b.seed.Addr(port), "-scheduler", b.seed.Addr("8002"), "-certs", certs,
	}
}

// serve starts a sender, with a scheduler if it needs one, and waits until it has the
// blob. stop ends both.
func (b *bench) serve(ctx context.Context, sender, certs string) (server *lab.Process, stop func() error, err error) {
	stop = func() error { return nil }
	if sender == "seed" {
		more := "[tls]\ninsecure = true\n"
		if certs != "" {
			more = fmt.Sprintf("[tls]\nca = '%[1]s/ca.pem'\ncert = '%[1]s/scheduler.pem'\nkey = '%[1]s/scheduler.key'\n", certs)
		}
		s, err := b.seed.Scheduler(ctx, more)
		if err != nil {
			return nil, nil, err
		}
		stop = s.Stop
	}
	dir := b.seed.Path("store")
	if err := os.RemoveAll(dir); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	if server, err = b.start(b.seed, sender, b.part(sender, b.seed, dir, certs)...); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	end := stop
	stop = func() error { return errors.Join(server.Stop(), end()) }
	if err := b.says(ctx, server, "ready"); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return server, stop, nil
}

// receive runs a receiver, whose output must hold a word, and ends the sender.
// What a receiver says that it took counts, else how long it ran.
func (b *bench) receive(server *lab.Process, name, word string, argv ...string) (sender, receiver, took time.Duration, err error) {
	unix.Sync() // what was written before is not to be in the way
	ready := usage(server)
	began := time.Now()
	client, err := b.start(b.host, name, argv...)
	if err == nil {
		err = client.Wait()
	}
	took = time.Since(began)
	err = errors.Join(err, server.Stop())
	if client == nil {
		return 0, 0, 0, err
	}
	text, rerr := os.ReadFile(client.LogFile)
	if err = errors.Join(err, rerr); err != nil {
		return 0, 0, 0, fmt.Errorf("%w: %s", err, text)
	}
	last := text[strings.LastIndexByte(strings.TrimSpace(string(text)), '\n')+1:]
	if !strings.Contains(string(last), word) {
		return 0, 0, 0, fmt.Errorf("%s says %q, and no %q", name, text, word)
	}
	if _, said, ok := strings.Cut(string(last), "took "); ok {
		if took, err = time.ParseDuration(strings.TrimSpace(said)); err != nil {
			return 0, 0, 0, err
		}
	}
	return cpu(server) - ready, cpu(client), took, nil
}

func (b *bench) start(h *lab.Host, name string, argv ...string) (*lab.Process, error) {
	b.starts++
	return h.Start(fmt.Sprint(name, b.starts), nil, argv...)
}

// usage is the CPU time of a process that runs, without its children.
func usage(p *lab.Process) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	if err != nil {
		return 0
	}
	var user, system int64
	_, after, _ := strings.Cut(string(text), ") ")
	if f := strings.Fields(after); len(f) > 12 {
		_, _ = fmt.Sscan(f[11], &user)
		_, _ = fmt.Sscan(f[12], &system)
	}
	return time.Duration(user+system) * time.Second / 100 // the kernel's unit
}

func (b *bench) listening(ctx context.Context, port string) error {
	return lab.Eventually(ctx, 10*time.Second, func() error {
		c, err := b.host.Dial(ctx, "tcp", b.seed.Addr(port))
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// says waits until a line of the output is word.
func (b *bench) says(ctx context.Context, p *lab.Process, word string) error {
	return lab.Eventually(ctx, time.Minute, func() error {
		text, err := os.ReadFile(p.LogFile)
		if err == nil && !strings.HasSuffix(string(text), word+"\n") {
			err = fmt.Errorf("it does not say %q: %s", word, text)
		}
		return err
	})
}
