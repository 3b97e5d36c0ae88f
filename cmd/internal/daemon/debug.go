package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server is an HTTP server for operators.
type Server struct {
	server *http.Server
	ln     net.Listener
	done   chan error
}

// Serve answers on ln, which it takes over, until Close.
func Serve(ln net.Listener, h http.Handler) *Server {
	s := &Server{
		server: &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10},
		ln:     ln, done: make(chan error, 1),
	}
	go func() { s.done <- s.server.Serve(ln) }()
	return s
}

// Close ends it. What is being answered gets a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.server.Shutdown(ctx); err != nil {
		_ = s.server.Close()
	}
	if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Debug is the operator's address: /metrics, /healthz, /readyz and what the
// daemon adds.
type Debug struct {
	server *Server // nil: it does not listen
	ready  atomic.Bool
}

// OpenDebug serves on addr; "" means not at all. more may be nil.
func OpenDebug(addr string, g prometheus.Gatherer, more func(*http.ServeMux)) (*Debug, error) {
	d := &Debug{}
	if addr == "" {
		return d, nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("debug.listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, true) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, d.ready.Load()) })
	if more != nil {
		more(mux)
	}
	d.server = Serve(ln, mux)
	return d, nil
}

func answer(w http.ResponseWriter, ok bool) {
	if !ok {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// Addr returns where it listens, "" if it does not.
func (d *Debug) Addr() string {
	if d.server == nil {
		return ""
	}
	return d.server.ln.Addr().String()
}

// SetReady says what /readyz answers.
func (d *Debug) SetReady(ready bool) { d.ready.Store(ready) }

// Close ends it.
func (d *Debug) Close() error {
	if d.server == nil {
		return nil
	}
	return d.server.Close()
}
