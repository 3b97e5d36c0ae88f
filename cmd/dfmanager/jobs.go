package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/node"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// openJobs opens what jobs need, and runs them.
func (s *server) openJobs(c Config, reg prometheus.Registerer, log *slog.Logger) error {
	cas, err := daemon.Roots("registries.ca", c.Registries.CA)
	if err != nil {
		return err
	}
	s.images = registry.New(registry.Config{Roots: cas, Proxy: http.ProxyFromEnvironment})
	if s.files, err = origin.New(origin.Config{Proxy: http.ProxyFromEnvironment, FileRoots: cas, Log: log, UserAgent: "dfmanager"}); err != nil {
		return err
	}
	config := warm.Config{Schedulers: c.Cluster.Schedulers, Name: p2p.HostID(s.name), Log: log}
	id := s.nodes.Own()
	if len(c.Cluster.Schedulers) > 0 {
		if id, err = c.TLS.Identity(wire.RoleManager, log); err != nil {
			return err
		}
		config.Identity = id
	}
	if err := reg.Register(daemon.Expiry("dfmanager", id)); err != nil {
		return err
	}
	if s.warm, err = warm.OpenPool(config); err != nil {
		return fmt.Errorf("cluster.schedulers: %w", err)
	}
	s.sight = sight.New(s.warm)
	s.nodes.Follow(func(all []node.Membership) {
		members := make([]warm.Member, len(all))
		for i, m := range all {
			members[i] = warm.Member(m)
		}
		if err := s.warm.Set(members); err != nil {
			log.Error("schedulers that have joined cannot be used", "err", err)
		}
	})
	s.jobs, err = job.Open(job.Config{
		Store: s.db, Registry: s.images, Files: s.files, Warmer: s.warm, Commander: s.warm, Sight: s.sight, Key: s.key, Owner: s.name, Concurrent: c.Jobs.Concurrent,
		Timeout: c.Jobs.Timeout.Duration, Platforms: c.Jobs.Platforms, Keep: c.Jobs.Keep.Duration, Log: log, Registerer: reg,
	})
	return err
}

// openNodes opens what nodes join and stay connected to.
func (s *server) openNodes(ctx context.Context, c Config, reg prometheus.Registerer, log *slog.Logger) error {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	s.name = "dfmanager-" + hex.EncodeToString(b)
	ln, err := net.Listen("tcp", c.GRPCListen)
	if err != nil {
		return fmt.Errorf("grpc_listen: %w", err)
	}
	s.grpcAddr = ln.Addr().String()
	s.nodes, err = node.Open(ctx, ln, node.Config{Store: s.db, Key: s.key, Name: s.name, Log: log, Registerer: reg})
	return err
}

// closeJobs gives the jobs back and closes what they needed.
func (s *server) closeJobs() error {
	if s.jobs != nil {
		s.jobs.Close()
	}
	var err error
	if s.nodes != nil {
		err = s.nodes.Close() // it says which schedulers there are
	}
	if s.warm != nil {
		err = errors.Join(err, s.warm.Close())
	}
	if s.images != nil {
		s.images.Close()
	}
	if s.files != nil {
		s.files.Close()
	}
	return err
}

// key is what credentials are sealed with.
func (c Config) key(secret string) (*seal.Key, error) {
	if secret == "" {
		k, err := seal.File(c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
		return k, nil
	}
	k, err := seal.New(secret)
	if err != nil {
		return nil, fmt.Errorf("DFMANAGER_SECRET_KEY: %w", err)
	}
	return k, nil
}
