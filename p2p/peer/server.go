package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

const (
	defaultSlots    = 32
	defaultWatchers = 4096
	defaultConns    = 8192
	drainFor        = 2 * time.Second // how long Close lets bodies end
)

// ServerConfig says what a Server gives and to how many at once.
type ServerConfig struct {
	Blobs      Blobs
	Identity   *wire.Identity // nil: plain text
	Slots      int            // bodies sent at once, the last quarter of them to who waits or has none yet; 0: 32
	Watchers   int            // have-map streams at once; 0: 4096
	Wait       time.Duration  // that a request waits for what is to come; 0: 10 s, which is the most
	Conns      int            // connections at once, idle ones included; 0: 8192
	Upload     Limiter        // nil: no limit
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Server gives pieces to other hosts.
type Server struct {
	blobs    Blobs
	identity *wire.Identity
	upload   Limiter
	slots    slots
	watchers slots
	wait     time.Duration
	conns    atomic.Int64
	maxConns int64
	silent   sync.Map // connections from which no request has come, net.Conn
	log      *slog.Logger
	metrics  *serverMetrics
	http     *http.Server

	ctx      context.Context // of all requests; ends when they have had their moment
	cancel   context.CancelCauseFunc
	stopping chan struct{} // closed when Close begins
	serving  sync.WaitGroup

	mu       sync.Mutex
	closed   bool           // guarded by mu
	requests sync.WaitGroup // requests under way; added to under mu
}

// Serve answers on ln, which it takes over, until Close. With an Identity only
// hosts and seeds of the cluster are let in, and its manager, which looks at what they have.
func Serve(ln net.Listener, c ServerConfig) (*Server, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Slots <= 0 {
		c.Slots = defaultSlots
	}
	if c.Watchers <= 0 {
		c.Watchers = defaultWatchers
	}
	if c.Wait <= 0 {
		c.Wait = waitFor
	}
	if c.Conns <= 0 {
		c.Conns = defaultConns
	}
	s := &Server{
		blobs: c.Blobs, identity: c.Identity, upload: c.Upload, log: c.Log,
		slots: slots{n: c.Slots}, wait: c.Wait, watchers: slots{n: c.Watchers}, maxConns: int64(c.Conns),
		stopping: make(chan struct{}),
	}
	var err error
	if s.metrics, err = newServerMetrics(c.Registerer, s); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	shareEvenly(ln, c.Log)
	if c.Identity != nil {
		ln = tls.NewListener(ln, c.Identity.Server(wire.RoleHost, wire.RoleSeed, wire.RoleManager))
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.http = s.newHTTP()
	s.serving.Go(func() {
		if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("peers can no longer reach this host", "err", err)
		}
	})
	return s, nil
}

func (s *Server) newHTTP() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /blobs/{digest}", s.owned(s.getBlob)) // HEAD as well
	mux.HandleFunc("GET /blobs/{digest}/have", s.owned(s.getHave))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: mux, Protocols: protocols,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 8 << 10,
		BaseContext: func(net.Listener) context.Context { return s.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ConnState:   s.count,
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// connKey is where a request's context has its connection.
type connKey struct{}

// count counts connections, and closes those that are too many. It does not
// wrap the listener: only a bare TCP connection can send files.
func (s *Server) count(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.silent.Store(c, true)
		if s.conns.Add(1) > s.maxConns {
			s.silent.Store(c, false)
			_ = c.Close()
		}
	case http.StateClosed:
		s.conns.Add(-1)
		result := "served"
		if welcome, silent := s.silent.LoadAndDelete(c); silent && welcome.(bool) {
			result = "no_request"
		} else if silent {
			result = "refused"
		}
		s.metrics.conns.WithLabelValues(result).Inc()
	}
}

// owned makes Close wait for the request.
func (s *Server) owned(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.silent.Delete(r.Context().Value(connKey{}))
		s.mu.Lock()
		closed := s.closed
		if !closed {
			s.requests.Add(1)
		}
		s.mu.Unlock()
		if closed {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		defer s.requests.Done()
		if s.refuses(r) {
			w.Header().Set("Connection", "close")
			http.Error(w, "blocked in this cluster", http.StatusForbidden)
			return
		}
		h(w, r)
	}
}

// refuses reports whether a request comes over a connection that was made before
// its owner was blocked.
func (s *Server) refuses(r *http.Request) bool {
	if r.TLS == nil {
		return false
	}
	who, err := wire.Who(r.TLS)
	return err != nil || s.identity.Blocked(who.ID)
}

// Close stops the server. Bodies under way get a moment to end. It may be
// called once.
func (s *Server) Close() error {
	close(s.stopping)
	ctx, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	err := s.http.Shutdown(ctx)
	s.cancel(ErrClosed)
	if err != nil {
		err = s.http.Close()
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.requests.Wait()
	s.serving.Wait()
	if err != nil {
		return fmt.Errorf("close piece server: %w", err)
	}
	return nil
}
