package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// debugServer is one of the daemon's two HTTP servers for operators. The zero
// listener serves nothing.
type debugServer struct {
	server *http.Server
	done   chan error
	ready  atomic.Bool
}

// openDebug serves routes on an address; an empty one means not at all.
func openDebug(network, address string, routes func(*debugServer) http.Handler) (*debugServer, error) {
	d := &debugServer{}
	if address == "" {
		return d, nil
	}
	if network == "unix" {
		if err := freeSocket(address); err != nil {
			return nil, err
		}
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o600); err != nil {
			return nil, errors.Join(err, ln.Close())
		}
	}
	d.server = &http.Server{Handler: routes(d), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	d.done = make(chan error, 1)
	go func() { d.done <- d.server.Serve(ln) }()
	return d, nil
}

func (d *debugServer) setReady(ready bool) { d.ready.Store(ready) }

func (d *debugServer) close() error {
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

func (n *node) debugRoutes() func(*debugServer) http.Handler {
	return func(d *debugServer) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(n.reg, promhttp.HandlerOpts{}))
		mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("ok\n"))
		})
		mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
			if !d.ready.Load() {
				http.Error(w, "not ready", http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write([]byte("ok\n"))
		})
		return mux
	}
}

func (n *node) statusRoutes() func(*debugServer) http.Handler {
	return func(*debugServer) http.Handler {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v1/layers", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(n.fs.Status()); err != nil {
				n.log.Debug("write status", "err", err)
			}
		})
		return mux
	}
}
