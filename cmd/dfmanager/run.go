package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/account"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/auth"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/console"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/job"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/node"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/openid"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/registry"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/warm"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// run serves until ctx ends.
func run(ctx context.Context, c Config, log *slog.Logger) error {
	s, err := open(ctx, c, secrets{os.Getenv("DFMANAGER_ROOT_PASSWORD"), os.Getenv("DFMANAGER_SECRET_KEY")}, os.Stdout, log)
	if err != nil {
		return err
	}
	log.Info("ready", "address", s.ln.Addr(), "nodes", s.grpcAddr, "debug", s.debug.Addr(), "database", s.db.Engine(), "version", version)
	daemon.Ready(log)
	select {
	case err = <-s.served:
		s.served <- http.ErrServerClosed
	case <-ctx.Done():
		daemon.Stopping()
		log.Info("stopping")
	}
	return errors.Join(err, s.close())
}

// secrets come from the environment; "": they are made up.
type secrets struct{ rootPassword, key string }

// server is the daemon: its parts in the order in which they are opened.
type server struct {
	db     *store.DB
	key    *seal.Key
	name   string // of this manager, another one each time it starts
	nodes  *node.Server
	images *registry.Client
	files  *origin.Client
	openid *openid.Provider // nil: none
	warm   *warm.Pool
	sight  *sight.Sight
	jobs   *job.Runner
	debug  *daemon.Debug
	ln     net.Listener
	http   *http.Server
	served chan error // how Serve ended

	grpcAddr string // where nodes connect
}

// open starts all parts. If a password for the first user is made up, it is told
// to out.
func open(ctx context.Context, c Config, known secrets, out io.Writer, log *slog.Logger) (_ *server, err error) {
	s := &server{served: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if s.db, err = store.Open(ctx, c.Database); err != nil {
		return nil, err
	}
	hasher := auth.NewHasher()
	if err := firstUser(ctx, s.db, hasher, known.rootPassword, out); err != nil {
		return nil, err
	}
	if s.key, err = c.key(known.key); err != nil {
		return nil, err
	}
	if err := firstCluster(ctx, s.db, s.key); err != nil {
		return nil, err
	}
	if err := s.openNodes(ctx, c, reg, log); err != nil {
		return nil, err
	}
	if err := s.openJobs(c, reg, log); err != nil {
		return nil, err
	}
	api, err := c.api(s, hasher, reg, log)
	if err != nil {
		return nil, err
	}
	if s.ln, err = listen(c, log); err != nil {
		return nil, err
	}
	if s.debug, err = daemon.OpenDebug(c.Debug.Listen, reg, nil); err != nil {
		return nil, err
	}
	s.http = api.HTTP()
	go func() { s.served <- s.http.Serve(s.ln) }()
	s.debug.SetReady(true)
	return s, nil
}

// api makes what is served.
func (c Config) api(s *server, hasher *auth.Hasher, reg prometheus.Registerer, log *slog.Logger) (*web.Server, error) {
	proxies, err := prefixes(c.Web.Proxies)
	if err != nil {
		return nil, fmt.Errorf("web.proxies: %w", err)
	}
	openTo, err := prefixes(c.Registries.OpenTo)
	if err != nil {
		return nil, fmt.Errorf("registries.open_to: %w", err)
	}
	if s.openid, err = c.Auth.OIDC.provider(s.key); err != nil {
		return nil, err
	}
	accounts := account.New(account.Config{Store: s.db, Hasher: hasher, Session: c.Auth.Session.Duration, Log: log})
	clusters := &cluster.Clusters{Store: s.db, Key: s.key, Changed: s.nodes.Changed}
	pages := console.Config{
		Store: s.db, Accounts: accounts, Jobs: s.jobs, Clusters: clusters, Schedulers: s.warm.Schedulers, Sight: s.sight, Provider: s.openid,
		NodesPort: port(s.grpcAddr), Facts: c.facts(), Version: version, Log: log,
	}
	return web.New(web.Config{
		Store: s.db, Accounts: accounts, Jobs: s.jobs, Clusters: clusters, Sight: s.sight, Schedulers: c.Cluster.Schedulers, Pages: console.New(pages), Secure: c.Web.Cert != "" || len(proxies) > 0,
		Proxies: proxies, OpenTo: openTo, Rate: c.Web.Rate, Version: version, Log: log, Registerer: reg,
	})
}

// port is that of an address.
func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr) // of a listener
	return p
}

// listen listens for browsers and registries.
func listen(c Config, log *slog.Logger) (net.Listener, error) {
	if c.Web.Cert == "" {
		ln, err := wire.Listen(c.Listen, nil, c.Web.Insecure, log)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		return ln, nil
	}
	if _, err := tls.LoadX509KeyPair(c.Web.Cert, c.Web.Key); err != nil {
		return nil, fmt.Errorf("web.cert: %w", err)
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	files := &certificate{cert: c.Web.Cert, key: c.Web.Key, log: log}
	return tls.NewListener(ln, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return files.current() },
	}), nil
}

// firstUser creates the first user of an empty database.
func firstUser(ctx context.Context, db *store.DB, h *auth.Hasher, password string, out io.Writer) error {
	if some, err := db.Users(ctx, store.Page{Limit: 1}); err != nil || len(some) > 0 {
		return err
	}
	const name = "root"
	given := password != ""
	if !given {
		password = auth.NewPassword()
	} else if err := auth.CheckPassword(name, password); err != nil {
		return fmt.Errorf("DFMANAGER_ROOT_PASSWORD: %w", err)
	}
	hash, err := h.Hash(ctx, password)
	if err != nil {
		return err
	}
	created, err := db.FirstUser(ctx, store.User{Name: name, Role: store.Root, Password: hash, MustChange: true})
	if err != nil || !created || given {
		return err
	}
	_, err = fmt.Fprintf(out, "dfmanager: the first user is %s with the password %s, to be changed at the first sign-in. This is shown once.\n", name, password)
	return err
}

// firstCluster creates the first cluster of an empty database.
func firstCluster(ctx context.Context, db *store.DB, key *seal.Key) error {
	if some, err := db.Clusters(ctx, store.Page{Limit: 1}); err != nil || len(some) > 0 {
		return err
	}
	c, err := cluster.New(cluster.Standard, key)
	if err != nil {
		return err
	}
	_, err = db.FirstCluster(ctx, c)
	return err
}

// close ends the parts in reverse order. Requests under way get a few seconds.
func (s *server) close() error {
	var errs []error
	if s.debug != nil {
		s.debug.SetReady(false)
	}
	switch {
	case s.http != nil:
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			_ = s.http.Close() // err says what was cut off
			errs = append(errs, err)
		}
		if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, err)
		}
	case s.ln != nil:
		errs = append(errs, s.ln.Close())
	}
	if s.debug != nil {
		errs = append(errs, s.debug.Close())
	}
	if s.openid != nil {
		s.openid.Close()
	}
	errs = append(errs, s.closeJobs())
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(errs...)
}
