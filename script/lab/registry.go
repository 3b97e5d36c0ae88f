package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

// Registry is a real registry that speaks plain HTTP.
type Registry struct {
	*Process
	Host string // host:port, as in image names

	at   *Host
	veth string // this side of its link, "" without one
	argv []string
}

// Registry starts a registry on this machine. With a rate ("200mbit") it lives
// in a network namespace behind a link that sends no faster.
func (l *Lab) Registry(ctx context.Context, rate string) (*Registry, error) {
	r := &Registry{at: l.machine()}
	if rate == "" {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		r.Host = "127.0.0.1:" + port
	} else {
		ns, ip, err := addNetwork(filepath.Base(l.Dir), rate)
		if err != nil {
			return nil, err
		}
		r.Host, r.veth, r.at.ns = ip+":5000", ns+"h", ns
	}
	return r, r.open(ctx)
}

// Registry starts a registry on a host.
func (h *Host) Registry(ctx context.Context) (*Registry, error) {
	r := &Registry{at: h, Host: h.Addr("5000")}
	return r, r.open(ctx)
}

func (r *Registry) open(ctx context.Context) error {
	if err := r.at.lab.AddHost(r.Host); err != nil {
		return err
	}
	config, err := r.configure("")
	if err != nil {
		return err
	}
	r.argv = []string{r.at.lab.Tool("registry"), "serve", config}
	return r.Start(ctx)
}

// Restart starts the registry again with more added to its configuration.
func (r *Registry) Restart(ctx context.Context, more string) error {
	if err := r.Stop(); err != nil {
		return err
	}
	if _, err := r.configure(more); err != nil {
		return err
	}
	return r.Start(ctx)
}

func (r *Registry) configure(more string) (path string, err error) {
	return r.at.write("registry.yml", fmt.Sprintf(`version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}
http: {addr: "%s", secret: lab}
%s`, r.at.Path("registry"), r.Host, more))
}

// HostsDir is the hosts.toml tree that says how to speak to the lab's registry.
func (l *Lab) HostsDir() string { return l.Path("certs.d") }

// Start starts the registry again after it was stopped.
func (r *Registry) Start(ctx context.Context) (err error) {
	if r.Process, err = r.at.Start("registry", []string{"OTEL_TRACES_EXPORTER=none"}, r.argv...); err != nil {
		return err
	}
	return r.ready(ctx, 20*time.Second, func() error {
		resp, err := http.Get("http://" + r.Host + "/v2/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// SetRate changes how fast the registry's link is.
func (r *Registry) SetRate(rate string) error {
	return shape(r.at.ns, "eth0", rate)
}

// AddHost says how to speak plain HTTP to another registry of the test's own.
func (l *Lab) AddHost(host string) error {
	_, err := l.write(filepath.Join("certs.d", host, "hosts.toml"), fmt.Sprintf(
		"server = \"http://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", host, host))
	return err
}

// UseMirrors makes hosts.toml send readers of the registry to the mirror on their
// own host first.
func (r *Registry) UseMirrors(mirror string) error {
	_, err := r.at.lab.write(filepath.Join("certs.d", r.Host, "hosts.toml"), fmt.Sprintf(
		"server = \"http://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", r.Host, mirror, r.Host))
	return err
}

// Push puts an image into the registry and returns its full name.
func (r *Registry) Push(ctx context.Context, img *imagetest.Image, repo, tag string) (string, error) {
	return r.Host + "/" + repo + ":" + tag, img.Push(ctx, r.Host, repo, tag)
}

// Received returns the bytes that the registry sent over its link since that was
// made, HTTP and TCP headers included. It needs a link of its own.
func (r *Registry) Received() (int64, error) {
	if r.at.net != nil {
		t, err := r.at.Traffic()
		return t.Sent, err
	}
	if r.veth == "" {
		return 0, errors.New("the registry has no link of its own")
	}
	text, err := os.ReadFile("/sys/class/net/" + r.veth + "/statistics/rx_bytes")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// Request is one finished request.
type Request struct {
	From         string // address of the client
	Method, Path string
	Status       int
	Bytes        int64 // of the body sent
}

// Requests returns the finished requests from the registry's own log.
func (r *Registry) Requests() ([]Request, error) {
	log, err := os.ReadFile(r.LogFile)
	if err != nil {
		return nil, err
	}
	var all []Request
	for line := range strings.Lines(string(log)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is still being written
		}
		// ADDRESS - - [TIME] "METHOD PATH PROTOCOL" STATUS BYTES "REFERER" "AGENT"
		parts := strings.Split(line, "\"")
		if len(parts) < 3 || !strings.Contains(parts[0], " - - [") {
			continue
		}
		what, how := strings.Fields(parts[1]), strings.Fields(parts[2])
		if len(what) < 2 || len(how) < 2 {
			continue
		}
		q := Request{From: strings.Fields(line)[0], Method: what[0], Path: what[1]}
		q.Status, _ = strconv.Atoi(how[0])
		q.Bytes, _ = strconv.ParseInt(how[1], 10, 64)
		all = append(all, q)
	}
	return all, nil
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port, ln.Close()
}
