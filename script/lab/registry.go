package lab

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
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

	lab  *Lab
	veth string // this side of its link, "" without
	env  []string
	argv []string
}

// Registry starts a registry. With a rate ("200mbit") it lives in a network
// namespace behind a link that sends no faster.
func (l *Lab) Registry(ctx context.Context, rate string) (*Registry, error) {
	r := &Registry{lab: l, env: []string{"OTEL_TRACES_EXPORTER=none"}}
	var run []string
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
		r.Host, r.veth = ip+":5000", ns+"h"
		run = []string{"nsenter", "--net=/run/netns/" + ns}
	}
	config, err := l.write("registry.yml", fmt.Sprintf(`version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}
http: {addr: "%s", secret: lab}
`, l.Path("registry"), r.Host))
	if err != nil {
		return nil, err
	}
	if err := l.AddHost(r.Host); err != nil {
		return nil, err
	}
	r.argv = append(run, l.Tool("registry"), "serve", config)
	return r, r.Start(ctx)
}

// HostsDir is the hosts.toml tree that says how to speak to the lab's registry.
func (l *Lab) HostsDir() string { return l.Path("certs.d") }

// Start starts the registry again after it was stopped.
func (r *Registry) Start(ctx context.Context) (err error) {
	if r.Process, err = r.lab.Start("registry", r.env, r.argv...); err != nil {
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
	return command("tc -n " + strings.TrimSuffix(r.veth, "h") + " qdisc change dev eth0 root tbf rate " + rate + " burst 256kb latency 100ms")
}

// AddHost says how to speak plain HTTP to another registry of the test's own.
func (l *Lab) AddHost(host string) error {
	_, err := l.write(filepath.Join("certs.d", host, "hosts.toml"), fmt.Sprintf(
		"server = \"http://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", host, host))
	return err
}

// Push puts an image into the registry and returns its full name.
func (r *Registry) Push(ctx context.Context, img *imagetest.Image, repo, tag string) (string, error) {
	return r.Host + "/" + repo + ":" + tag, img.Push(ctx, r.Host, repo, tag)
}

// Received returns the bytes that came over the registry's link since it was
// made, HTTP and TCP headers included. It needs a link of its own.
func (r *Registry) Received() (int64, error) {
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
		q := Request{Method: what[0], Path: what[1]}
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

// addNetwork makes a network namespace joined to this one by a link, and
// returns its name and address. What it sends to us is limited to rate.
func addNetwork(name, rate string) (ns, ip string, err error) {
	ns = network(name)
	h := fnv.New32()
	fmt.Fprint(h, name)
	n := h.Sum32()
	net := fmt.Sprintf("10.%d.%d.", 200+n%50, n>>8&255)
	for _, args := range []string{
		"ip netns add " + ns,
		"ip link add " + ns + "h type veth peer name eth0 netns " + ns,
		"ip addr add " + net + "1/30 dev " + ns + "h",
		"ip link set " + ns + "h up",
		"ip -n " + ns + " addr add " + net + "2/30 dev eth0",
		"ip -n " + ns + " link set eth0 up",
		"ip -n " + ns + " link set lo up",
		"tc -n " + ns + " qdisc add dev eth0 root tbf rate " + rate + " burst 256kb latency 100ms",
	} {
		if err := command(args); err != nil {
			return "", "", errors.Join(err, removeNetwork(name))
		}
	}
	return ns, net + "2", nil
}

// network returns the name of a lab's namespace: names of links have 15 letters.
func network(name string) string {
	return "dfl" + strings.TrimPrefix(name, filepath.Base(prefix))
}

func removeNetwork(name string) error {
	ns := network(name)
	if _, err := os.Stat("/run/netns/" + ns); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// The link goes with its other end, but only when the kernel gets round to it.
	return errors.Join(command("ip -n "+ns+" link del eth0"), command("ip netns del "+ns))
}

func command(line string) error {
	args := strings.Fields(line)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}
