package mirror

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	headerTime = 20 * time.Second // for a request's headers to come
	idleTime   = 2 * time.Minute  // between two requests of a connection
	writeTime  = 2 * time.Minute  // for a client to take the next bytes
	closeTime  = 3 * time.Second  // for requests under way to end
)

// Config says what a mirror is in front of.
type Config struct {
	Fetcher    *fetcher.Fetcher
	Registries *origin.Client
	Learned    *origin.Learned // takes what clients log in with, so that the fetcher can read for them
	Upstream   string          // registry of requests that name none; "": they are refused
	Name       string          // of this host, for people
	Via        string          // as Registries sends it: NewVia

	// Proxy chooses the proxy to servers that are no registries, as
	// http.Transport does; nil: none.
	Proxy func(*http.Request) (*url.URL, error)

	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers nowhere
}

// Mirror serves registries. Close ends it.
type Mirror struct {
	cfg      Config
	log      *slog.Logger
	upstream string
	grants   *grants
	metrics  *metrics
	outside  *outside
	server   *http.Server

	ctx    context.Context // the mirror's own life, ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	err    error // of the listener; read after wg is done
}

var _ http.Handler = (*Mirror)(nil)

// Open serves on ln, which it takes over, until Close.
func Open(ln net.Listener, c Config) (*Mirror, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mirror{cfg: c, log: c.Log, grants: newGrants()}
	var err error
	if c.Upstream != "" {
		if m.upstream, _, err = ParseRegistry(c.Upstream); err != nil {
			return nil, errors.Join(fmt.Errorf("mirror: upstream: %w", err), ln.Close())
		}
	}
	if m.metrics, err = newMetrics(c.Registerer); err != nil {
		return nil, errors.Join(fmt.Errorf("mirror: %w", err), ln.Close())
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.outside = newOutside(c.Proxy, c.Via)
	m.server = &http.Server{
		Handler: m, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
	}
	m.wg.Go(func() {
		if err := m.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			m.err = fmt.Errorf("mirror: %w", err)
			m.log.Error("the registry mirror has stopped", "err", err)
		}
	})
	return m, nil
}

// Close lets requests under way end for a moment, then ends them and the mirror.
func (m *Mirror) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := m.server.Shutdown(ctx)
	m.cancel() // tunnels, of which the server does not know
	if err != nil {
		err = m.server.Close()
	}
	m.wg.Wait()
	m.outside.close()
	return errors.Join(err, m.err)
}

// NewVia returns a name for the header Via that no other host has.
func NewVia() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return "dfsnapshotter-" + hex.EncodeToString(b[:])
}

// Own returns what reports whether host:port is a mirror that listens on listen:
// such entries of hosts.toml are for others. "": none is.
func Own(listen string) func(hostport string) bool {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return func(string) bool { return false }
	}
	ip := net.ParseIP(host)
	everywhere := host == "" || ip != nil && ip.IsUnspecified()
	return func(hostport string) bool {
		h, p, err := net.SplitHostPort(hostport)
		if err != nil || p != port {
			return false
		}
		return h == host || isThisMachine(h, everywhere)
	}
}

// isThisMachine reports whether host is a name of the loopback, or with all set
// any address of this machine.
func isThisMachine(host string, all bool) bool {
	ip := net.ParseIP(host)
	if host == "localhost" || ip != nil && ip.IsLoopback() {
		return true
	}
	if !all {
		return false
	}
	if name, err := os.Hostname(); err == nil && strings.EqualFold(name, host) {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil || ip == nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}

// ServeHTTP implements http.Handler.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{ResponseWriter: w, control: http.NewResponseController(w), began: time.Now(), kind: other}
	defer m.ended(a, r)
	err := m.serve(a, r)
	switch {
	case err == nil:
	case a.status != 0: // it has begun: an answer that is cut off says so
		m.log.Debug("answer cut off", "path", r.URL.Path, "err", err)
		a.cut = true
		panic(http.ErrAbortHandler)
	case r.Context().Err() != nil:
		m.log.Debug("client is gone", "path", r.URL.Path, "err", err)
		a.cut = true
	default:
		a.err = err
		refusalOf(err).write(a)
	}
}

func (m *Mirror) serve(a *answer, r *http.Request) error {
	if err := m.check(r); err != nil {
		return err
	}
	if r.Method == http.MethodConnect {
		a.kind = tunnel
		return m.tunnel(a, r)
	}
	if r.URL.IsAbs() {
		return m.proxy(a, r)
	}
	t, err := m.target(r)
	if err != nil {
		return err
	}
	return m.registry(a, r, t)
}

// check refuses what no request may be.
func (m *Mirror) check(r *http.Request) error {
	if m.cfg.Via != "" && strings.Contains(strings.Join(r.Header.Values("Via"), ","), m.cfg.Via) {
		return refuse(http.StatusLoopDetected, codeUnsupported, "the mirror was asked by itself: it is its own upstream, by hosts.toml, a proxy, or mirror.upstream")
	}
	size := len(r.RequestURI)
	for k, values := range r.Header {
		for _, v := range values {
			size += len(k) + len(v)
		}
	}
	if size > maxHeader {
		return refuse(http.StatusRequestHeaderFieldsTooLarge, codeUnsupported, "the request's headers have %d bytes; %d are allowed", size, maxHeader)
	}
	return nil
}

// registry answers a request of the registry API.
func (m *Mirror) registry(a *answer, r *http.Request, t target) error {
	a.target, a.kind = t, t.kind
	if t.kind == blob && r.Method == http.MethodGet {
		return m.blob(a, r, t)
	}
	return m.pass(a, r, t)
}
