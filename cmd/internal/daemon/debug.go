package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Debug is the operator's address: /metrics, /healthz, /readyz and what the
// daemon adds.
type Debug struct {
	server *http.Server
	addr   net.Addr
	done   chan error
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
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, true) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, d.ready.Load()) })
	if more != nil {
		more(mux)
	}
	d.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	d.addr, d.done = ln.Addr(), make(chan error, 1)
	go func() { d.done <- d.server.Serve(ln) }()
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
	if d.addr == nil {
		return ""
	}
	return d.addr.String()
}

// SetReady says what /readyz answers.
func (d *Debug) SetReady(ready bool) { d.ready.Store(ready) }

// Close ends it.
func (d *Debug) Close() error {
	if d.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := d.server.Shutdown(ctx); err != nil {
		_ = d.server.Close()
	}
	if err := <-d.done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
