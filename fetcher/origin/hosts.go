package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// maxLogins bounds the repositories that a host's logins are kept of.
const maxLogins = 1024

// maxRegistries bounds the registries that are remembered: clients of the mirror
// may name any.
const maxRegistries = 256

// recheckHosts is how long the files of a registry are not looked at again.
const recheckHosts = 2 * time.Second

// registry is the hosts that serve one registry name, in the order to ask
// them: mirrors first, the registry's own server last.
type registry struct {
	hosts      []*host
	transports []*http.Transport
	dialer     dialer
	print      string    // of the files it was made from
	checked    time.Time // guarded by Client.mu
}

func (r *registry) closeIdle() {
	for _, t := range r.transports {
		t.CloseIdleConnections()
	}
}

// host is one place that serves a registry's content.
type host struct {
	name   string // under which credentials are looked up
	client *http.Client
	base   url.URL     // up to and including /v2
	header http.Header // extra headers from hosts.toml
	server bool        // the registry's own server: what it says of absence is final

	places memo[*url.URL]      // where it sent us for a blob's bytes
	absent memo[struct{}]      // what it does not have, or has wrong
	mu     sync.Mutex          // guards what follows
	down   time.Time           // ask the others first until then
	faults int                 // failures in a row
	logins map[string]*session // by path of the repository
}

// registry returns the hosts of a registry, read again if their files have
// changed.
func (c *Client) registry(name string, now time.Time) (*registry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.registries[name]
	if old != nil && now.Sub(old.checked) < recheckHosts {
		return old, nil
	}
	files, err := findHosts(c.cfg.HostsDir, name)
	if err == nil && old != nil && old.print == files.print {
		old.checked = now
		return old, nil
	}
	if files.broken != nil {
		c.cfg.Log.Warn("hosts.toml cannot be read and counts for nothing, as in containerd", "registry", name, "dir", files.dir, "err", files.broken)
	}
	var r *registry
	if err == nil {
		r, err = c.load(name, files.dir)
	}
	if err != nil {
		err = fmt.Errorf("configuration of registry %s below %s: %w", name, c.cfg.HostsDir, err)
		if old == nil {
			return nil, err
		}
		c.cfg.Log.Warn("registry configuration cannot be used, keeping the one before", "registry", name, "err", err)
		old.print, old.checked = files.print, now
		return old, nil
	}
	r.print, r.checked = files.print, now
	if old == nil && len(c.registries) >= maxRegistries {
		c.dropRegistry()
	}
	c.registries[name] = r
	if old != nil {
		old.closeIdle()
	}
	return r, nil
}

// dropRegistry forgets the registry that was not asked for longest. Who is using
// it goes on. The caller holds c.mu.
func (c *Client) dropRegistry() {
	var oldest string
	for name, r := range c.registries {
		if o := c.registries[oldest]; o == nil || r.checked.Before(o.checked) {
			oldest = name
		}
	}
	c.registries[oldest].closeIdle()
	delete(c.registries, oldest)
}

// load reads the configuration of one registry. dir is where it lies, "" if
// there is none.
func (c *Client) load(name, dir string) (*registry, error) {
	r := &registry{}
	scheme := ""
	if slices.Contains(c.cfg.Plain, name) {
		scheme = "http"
	}
	hosts, err := config.ConfigureHosts(quiet(c.ctx), config.HostOptions{
		HostDir:       func(string) (string, error) { return dir, nil },
		DefaultScheme: scheme,
		UpdateClient: func(client *http.Client) error {
			r.tune(client, c.cfg)
			return nil
		},
	})(name)
	if err != nil {
		return nil, err
	}
	for i, h := range hosts {
		if !h.Capabilities.Has(docker.HostCapabilityPull) || c.cfg.Own(h.Host) {
			continue
		}
		r.hosts = append(r.hosts, &host{
			name:   credentialName(h.Host),
			client: h.Client,
			base:   url.URL{Scheme: h.Scheme, Host: h.Host, Path: strings.TrimSuffix(h.Path, "/"), RawQuery: namespace(name, h.Host)},
			header: h.Header,
			server: i == len(hosts)-1,
			logins: map[string]*session{},
		})
	}
	if c.cfg.ServerOnly {
		r.hosts = r.own()
	}
	if dir != "" {
		for _, h := range r.hosts {
			r.dialer.trust(&h.base)
		}
	}
	if len(r.hosts) == 0 {
		return nil, errors.New(`no host but this one's own mirror has the capability "pull"`)
	}
	return r, nil
}

// quiet keeps containerd's reader from logging: what matters of it is logged
// here.
func quiet(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// tune sets up the transport of a client that containerd's reader made. The
// first one it shows is the template of the others, which get a dialer of
// their own only where hosts.toml says so.
func (r *registry) tune(client *http.Client, cfg Config) {
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t, ok := client.Transport.(*http.Transport)
	if !ok || slices.Contains(r.transports, t) {
		return
	}
	if len(r.transports) == 0 {
		t.DialContext = (&net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	t.DialContext = r.dialer.guard(t.DialContext)
	r.transports = append(r.transports, t)
	t.Proxy = r.dialer.proxy(cfg.Proxy)
	t.ResponseHeaderTimeout = cfg.HeaderTimeout
	t.DisableCompression = true
	t.ForceAttemptHTTP2 = true
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second}
	t.MaxIdleConns = 256
	t.MaxIdleConnsPerHost = 32
	t.IdleConnTimeout = 90 * time.Second
}

// credentialName returns the name by which people store the credentials of a
// host: Docker Hub's server is known by its registry's name.
func credentialName(host string) string {
	if host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}

// namespace returns the query that tells a mirror which registry is meant.
func namespace(registry, host string) string {
	if registry == host || registry == credentialName(host) {
		return ""
	}
	return url.Values{"ns": {registry}}.Encode()
}

// inOrder returns the hosts to ask, best first: those that failed lately and
// those that lack the blob come after the others. The server is always there.
func (r *registry) inOrder(k memoKey, now time.Time) []*host {
	if len(r.hosts) == 1 {
		return r.hosts
	}
	var first, later []*host
	for _, h := range r.hosts {
		_, absent := h.absent.get(k, now)
		if absent && !h.server || h.isDown(now) {
			later = append(later, h)
		} else {
			first = append(first, h)
		}
	}
	return append(first, later...)
}

func (h *host) isDown(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.down)
}

// failed notes that a host did not do its work, so that the others are asked
// first for a while: longer each time, at least as long as it wants, and a
// minute at most. It tells whether that is news.
func (h *host) failed(wait time.Duration, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Before(h.down) {
		return false
	}
	h.faults = min(h.faults+1, 4)
	h.down = now.Add(max(time.Duration(1<<h.faults)*2*time.Second, min(wait, time.Minute)))
	return true
}

// succeeded notes that a host sent all that it was asked for.
func (h *host) succeeded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down, h.faults = time.Time{}, 0
}

// session returns the login state of a repository at this host.
func (h *host) session(c *Client, path string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.logins[path]
	if s == nil {
		if len(h.logins) >= maxLogins {
			clear(h.logins) // who uses one keeps it
		}
		s = &session{client: c, host: h, repo: Repo{Host: h.name, Path: path}}
		h.logins[path] = s
	}
	return s
}
