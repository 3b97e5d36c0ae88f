package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/managed"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
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
	managed *managed.Node // nil: there is no manager
	hub     *hub
	debug   *daemon.Debug
	gate    *gate
	grpc    *grpc.Server
	served  chan error // how Serve ended
}

func open(c Config, log *slog.Logger) (*server, error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	node, id, err := c.identity(log)
	if err != nil {
		return nil, err
	}
	reg.MustRegister(daemon.Expiry("dfscheduler", id))
	s := &server{managed: node, served: make(chan error, 1)}
	ln, err := c.TLS.Listen("listen", c.Listen, id, log)
	if err != nil {
		return nil, err
	}
	s.gate = newGate(ln, c.Limits, m.conns)
	s.hub = newHub(c, log, m)
	s.hub.identity = id
	s.hub.local = loopback(s.addr())
	reg.MustRegister(newCounts(s.hub.counts), newProfiles(s.hub))
	if s.debug, err = daemon.OpenDebug(c.Debug.Listen, reg, s.hub.routes); err != nil {
		s.hub.close()
		return nil, errors.Join(err, s.gate.Close())
	}
	s.grpc = wire.NewServer(id)
	wire.Register(s.grpc, func(stream *wire.HostStream) error {
		s.gate.speaks(stream.Caller())
		return s.hub.serve(stream)
	})
	wire.RegisterOverseer(s.grpc, s.hub, s.gate.speaks)
	go func() {
		err := s.grpc.Serve(s.gate)
		if errors.Is(err, grpc.ErrServerStopped) { // before it had begun
			err = nil
		}
		s.served <- err
	}()
	if node != nil {
		node.Start(c.advertised(s.addr()), func(o manage.Orders) { s.hub.expel(o.Blocked) }, nil)
	}
	s.debug.SetReady(true)
	return s, nil
}

// identity is this scheduler's: the manager's to give, or that of the files in
// [tls].
func (c Config) identity(log *slog.Logger) (*managed.Node, *wire.Identity, error) {
	if c.Manager == "" {
		id, err := c.TLS.Identity(wire.RoleScheduler, log)
		return nil, id, err
	}
	if err := os.MkdirAll(c.Root, 0o700); err != nil {
		return nil, nil, fmt.Errorf("root: %w", err)
	}
	name, err := daemon.HostID(c.Root)
	if err != nil {
		return nil, nil, err
	}
	n, err := managed.Open(managed.Config{
		Manager: c.Manager, TokenFile: c.JoinToken, Dir: filepath.Join(c.Root, "manager"), Name: wire.Name{ID: name, Role: wire.RoleScheduler}, Log: log,
		Hello: manage.Hello{Version: version},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("manager: %w", err)
	}
	return n, n.Identity(), nil
}

// advertised is the address that hosts are told of. The manager fills in an open
// host.
func (c Config) advertised(listens string) string {
	if c.Advertise != "" {
		return c.Advertise
	}
	host, port, err := net.SplitHostPort(listens)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return ":" + port
	}
	return listens
}

func (s *server) addr() string { return s.gate.Addr().String() }

// close lets each host know, and ends the parts in reverse order.
func (s *server) close() error {
	s.debug.SetReady(false)
	if s.managed != nil {
		s.managed.Close()
	}
	s.hub.stop()
	t := time.AfterFunc(3*time.Second, s.grpc.Stop)
	s.grpc.GracefulStop()
	t.Stop()
	err := <-s.served // nil: it was stopped
	s.hub.close()
	return errors.Join(err, s.debug.Close())
}
