package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// run serves until ctx ends.
func run(ctx context.Context, c Config, log *slog.Logger) error {
	s, err := open(c, log)
	if err != nil {
		return err
	}
	log.Info("ready", "address", s.addr(), "debug", s.debug.Addr(), "version", version)
	daemon.Ready(log)
	select {
	case err = <-s.served:
		s.served <- nil
	case <-ctx.Done():
		daemon.Stopping()
		log.Info("stopping; hosts go on with the peers they know")
	}
	return errors.Join(err, s.close())
}

// server is the daemon: its parts in the order in which they are opened.
type server struct {
	hub    *hub
	debug  *daemon.Debug
	gate   *gate
	grpc   *grpc.Server
	served chan error // how Serve ended
}

func open(c Config, log *slog.Logger) (*server, error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	id, err := c.TLS.Identity(wire.RoleScheduler, log)
	if err != nil {
		return nil, err
	}
	reg.MustRegister(daemon.Expiry("dfscheduler", id))
	s := &server{served: make(chan error, 1)}
	ln, err := c.TLS.Listen("listen", c.Listen, id, log)
	if err != nil {
		return nil, err
	}
	s.gate = newGate(ln, c.Limits, m.conns)
	s.hub = newHub(c, log, m)
	s.hub.local = loopback(s.addr())
	reg.MustRegister(newCounts(s.hub.counts))
	if s.debug, err = daemon.OpenDebug(c.Debug.Listen, reg, s.hub.routes); err != nil {
		s.hub.close()
		return nil, errors.Join(err, s.gate.Close())
	}
	s.grpc = wire.NewServer(id)
	wire.Register(s.grpc, func(stream *wire.HostStream) error {
		s.gate.speaks(stream.Caller())
		return s.hub.serve(stream)
	})
	go func() {
		err := s.grpc.Serve(s.gate)
		if errors.Is(err, grpc.ErrServerStopped) { // before it had begun
			err = nil
		}
		s.served <- err
	}()
	s.debug.SetReady(true)
	return s, nil
}

func (s *server) addr() string { return s.gate.Addr().String() }

// close lets each host know, and ends the parts in reverse order.
func (s *server) close() error {
	s.debug.SetReady(false)
	s.hub.stop()
	t := time.AfterFunc(3*time.Second, s.grpc.Stop)
	s.grpc.GracefulStop()
	t.Stop()
	err := <-s.served // nil: it was stopped
	s.hub.close()
	return errors.Join(err, s.debug.Close())
}
