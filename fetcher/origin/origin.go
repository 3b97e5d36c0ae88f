package origin

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Repo names a repository of a registry, the two parts as they stand in an
// image name: "docker.io" and "library/python".
type Repo struct {
	Host string // with the port, if the image name has one
	Path string
}

// String returns the repository's name as in an image reference.
func (r Repo) String() string { return r.Host + "/" + r.Path }

// Config says how a Client reaches registries. The zero value reaches public
// registries directly and anonymously.
type Config struct {
	// HostsDir is the root of a hosts.toml tree, such as
	// /etc/containerd/certs.d. It may be missing. Changes below it are
	// noticed within seconds.
	HostsDir string
	// Proxy chooses the proxy of a request, as http.Transport does; nil means
	// none. It is used for token servers and redirect targets as well.
	Proxy func(*http.Request) (*url.URL, error)
	// Credentials are asked when a host wants to know who asks; nil means
	// that all access is anonymous.
	Credentials Credentials

	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers nowhere
	UserAgent  string                // "" means dfsnapshotter

	// Own reports whether host:port is a registry mirror of this host, which
	// hosts.toml names for other programs; nil means that none is. It is never
	// asked.
	Own func(hostport string) bool
	// Via is what this host calls itself in the header Via of its requests to
	// registries; "" sends none.
	Via string
	// Plain are the registries that speak plain HTTP where hosts.toml does not
	// say what they speak.
	Plain []string

	// FileRoots are the CAs of web servers that files come from; nil means the
	// system's. Those of registries stand in hosts.toml.
	FileRoots *x509.CertPool

	// ServerOnly leaves the mirrors of hosts.toml out: what they say of a tag may
	// be old.
	ServerOnly bool

	// DialTimeout bounds making a connection where hosts.toml has no
	// dial_timeout; 0 means 10 s.
	DialTimeout time.Duration
	// HeaderTimeout bounds the time between a request and the first byte of
	// its answer; 0 means 20 s. The body has no limit: its reader decides.
	HeaderTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.UserAgent == "" {
		c.UserAgent = "dfsnapshotter"
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	if c.HeaderTimeout == 0 {
		c.HeaderTimeout = 20 * time.Second
	}
	if c.Credentials == nil {
		c.Credentials = Chain(c.Log)
	}
	if c.Own == nil {
		c.Own = func(string) bool { return false }
	}
	return c
}

// Client reads from registries. Its methods may be called concurrently.
type Client struct {
	cfg     Config
	metrics *metrics
	files   *files
	now     func() time.Time

	ctx    context.Context // ends token requests when the client closes
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // token requests

	closing sync.Mutex // held while a goroutine starts and while ctx ends

	mu         sync.Mutex
	registries map[string]*registry // by host of the image name; guarded by mu
}

// New returns a client. Close releases it.
func New(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, metrics: m, files: newFiles(cfg), now: time.Now, registries: map[string]*registry{}}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c, nil
}

var errClosed = errors.New("origin: client is closed")

// Close ends token requests under way and closes idle connections. Bodies
// that are still open stay readable.
func (c *Client) Close() {
	c.closing.Lock()
	c.cancel(errClosed)
	c.closing.Unlock()
	c.wg.Wait()
	c.files.client.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.registries {
		r.closeIdle()
	}
}

// spawn runs f, which Close waits for. It does not if the client is closed.
func (c *Client) spawn(f func()) bool {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.wg.Go(f)
	return true
}
