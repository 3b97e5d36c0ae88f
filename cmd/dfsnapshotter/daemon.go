package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/imageservice"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/managed"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/mirror"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
	"github.com/dfsnapshotter/dfsnapshotter/fs/profiles"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

// quiet is how long no reader must have waited before filling goes on.
const quiet = 2 * time.Second

// node is the daemon: its parts in the order in which they are opened.
type node struct {
	cfg  Config
	log  *slog.Logger
	reg  *prometheus.Registry
	lock *os.File

	configFile string // "": there is none
	started    time.Time

	debug   *daemon.Debug
	keeper  *keeper.Client
	origin  *origin.Client
	learned origin.Learned // tokens that other hosts lent, and what clients of the mirror log in with
	host    p2p.HostID     // in the cluster; "" without one
	member  *member        // of the cluster; nil: this host is alone
	via     string         // this process, in requests to registries
	indexes *indexes.Indexes
	fetcher *fetcher.Fetcher
	mirror  *mirror.Mirror
	managed *managed.Node // nil: there is no manager
	fs      *fs.FS
	sn      *snapshot.Snapshotter
	status  *daemon.Server
	images  *imageservice.Service // nil: there is none

	setLimits func(manage.Limits) // what the manager says of them

	ballast []byte
}

// runDaemon serves until ctx ends.
func runDaemon(ctx context.Context, c Config, configFile string, log *slog.Logger) (err error) {
	n := &node{cfg: c, log: log, reg: prometheus.NewRegistry(), via: mirror.NewVia(), configFile: configFile, started: time.Now()}
	n.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.open(ctx); err != nil {
		return err
	}
	return n.serve(ctx)
}

func (n *node) open(ctx context.Context) (err error) {
	c := n.cfg
	if n.ballast, err = newBallast(); err != nil {
		return err
	}
	if err := daemon.RelaxWatch(); err != nil {
		n.log.Debug("the kernel's timer slack stays, which costs processor time only", "error", err)
	}
	if err := n.own(); err != nil {
		return err
	}
	if n.debug, err = daemon.OpenDebug(c.Debug.Listen, n.reg, nil); err != nil {
		return err
	}
	if c.mounts() {
		if n.keeper, err = n.openKeeper(ctx); err != nil {
			return err
		}
	}
	if n.origin, err = n.openOrigin(); err != nil {
		return err
	}
	shares := c.clustered()
	if n.indexes, err = indexes.New(filepath.Join(c.Root, "index"), shares, n.log, n.reg); err != nil {
		return err
	}
	if n.fetcher, err = n.openFetcher(); err != nil {
		return err
	}
	n.indexes.Start(n.fetcher, indexes.Trust{Repos: trusts(c.Index.Trust), Images: c.Lazy.Unproven})
	if c.Mirror.Listen != "" {
		if n.mirror, err = n.openMirror(); err != nil {
			return err
		}
	}
	if c.mounts() {
		if err := n.openMounts(ctx); err != nil {
			return err
		}
	}
	if c.CRI.Listen != "" {
		if err := n.openImageService(ctx); err != nil {
			return err
		}
	}
	n.status, err = n.openStatus()
	return err
}

// openFetcher opens where bytes come from, and with schedulers the way to
// other hosts.
func (n *node) openFetcher() (*fetcher.Fetcher, error) {
	c := n.cfg
	most, err := cacheLimit(c)
	if err != nil {
		return nil, err
	}
	limits, err := c.Limits.buckets()
	if c.Peer.Manager != "" {
		limits, n.setLimits, err = c.Limits.adjustable()
	}
	if err != nil {
		return nil, err
	}
	config := fetcher.Config{
		Dir: c.Root, Max: most, Sources: []fetcher.Source{fetcher.Origin(n.origin)}, Documents: n.origin,
		Download: limits.download, Origin: limits.origin, Log: n.log, Registerer: n.reg,
	}
	m, err := c.join(n.log)
	if err != nil {
		return nil, err
	}
	if n.member = m; m != nil {
		config.Network = &fetcher.Network{
			Self: m.host, Schedulers: c.Peer.Schedulers, Identity: m.identity, Listener: m.pieces, Upload: limits.upload,
			Indexer: n.indexes,
		}
		n.reg.MustRegister(daemon.Expiry("dfsnapshotter", m.identity))
		if m.identity != nil { // in plain text no token is sent
			config.Network.Tokens = tokens{n.origin, &n.learned, n.log}
		}
		n.host = m.host.ID
		if m.managed != nil {
			said := m.managed.Orders()
			config.Network.Schedulers, config.Slots = said.Schedulers, said.Limits.OriginRequests
			n.setLimits(said.Limits)
		}
		n.log.Info("part of a cluster", "host", m.host.ID, "pieces", m.host.Addr, "seed", m.host.Seed, "schedulers", config.Network.Schedulers)
	}
	f, err := fetcher.New(config)
	if err == nil && m != nil && m.managed != nil {
		n.managed = m.managed
		n.managed.Start(m.host.Addr, func(o manage.Orders) { n.obey(f, o) }, n.load)
	}
	return f, err
}

// obey does what the manager says.
func (n *node) obey(f *fetcher.Fetcher, o manage.Orders) {
	n.log.Info("the manager says", "schedulers", o.Schedulers, "blocked", len(o.Blocked), "limits", o.Limits)
	n.setLimits(o.Limits)
	f.SetSlots(o.Limits.OriginRequests)
	if err := f.SetSchedulers(o.Schedulers); err != nil {
		n.log.Error("these schedulers cannot be used", "schedulers", o.Schedulers, "err", err)
	}
}

// openMounts opens what makes layers of blobs.
func (n *node) openMounts(ctx context.Context) (err error) {
	c := n.cfg
	kept, err := profiles.Open(filepath.Join(c.Root, "profiles"), n.fetcher, n.log)
	if err != nil {
		return err
	}
	n.fs, err = fs.Open(ctx, fs.Config{
		Root: c.Root, Fetcher: n.fetcher, Indexes: n.indexes, Profiles: kept, Keeper: n.keeper, Relay: c.Relay, Unproven: c.Lazy.Unproven,
		Quiet: quiet, Log: n.log, Metrics: n.reg,
	})
	if err != nil {
		return err
	}
	n.sn, err = snapshot.New(snapshot.Config{
		Root: c.Root, Layers: layers{n.fs}, Images: n.fetcher, Mode: modes(c.Images), Log: n.log, Registerer: n.reg,
	})
	if err == nil {
		n.fs.NameContainers(n.sn.Containers)
	}
	return err
}

// own makes sure that no other daemon uses the root or the sockets, and that
// this one can.
func (n *node) own() error {
	c := n.cfg
	if os.Geteuid() != 0 && c.mounts() {
		return errors.New("dfsnapshotter mounts file systems: it must be run as root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil && c.mounts() {
		return fmt.Errorf("%w: load the kernel's module with modprobe fuse; a container needs the device passed in", err)
	}
	if err := os.MkdirAll(c.Root, 0o700); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(c.Root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return fmt.Errorf("root %s is in use by another dfsnapshotter: stop it, or set another root", c.Root)
	}
	n.lock = f
	if !c.mounts() {
		return daemon.FreeSocket(c.statusSocket())
	}
	dir := filepath.Dir(c.Address)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	// A keeper that cannot make its socket there would be waited for in vain.
	probe, err := os.CreateTemp(dir, "dfsnapshotter")
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	// The status socket tells of a daemon with another address in the same
	// folder, whose keeper must be left alone.
	return errors.Join(daemon.FreeSocket(c.Address), daemon.FreeSocket(c.statusSocket()))
}

func (n *node) openKeeper(ctx context.Context) (*keeper.Client, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	start := []string{self, "keeper", "--detach", "--socket", n.cfg.keeperSocket()}
	if n.configFile != "" {
		start = append(start, "--config", n.configFile)
	}
	if n.cfg.Relay {
		start = append(start, "--relay")
	}
	return keeper.Open(ctx, keeper.ClientConfig{Socket: n.cfg.keeperSocket(), Start: start, Log: n.log})
}

func (n *node) openOrigin() (*origin.Client, error) {
	c := n.cfg.Registry
	sources := []origin.Credentials{origin.NewDockerConfig(c.DockerConfig)}
	if c.CredentialProvider != "" {
		sources = append(sources, origin.NewKubeletPlugins(c.CredentialProvider, c.CredentialBin))
	}
	sources = append(sources, &n.learned)
	cas, err := daemon.Roots("registry.files_ca", c.FilesCA)
	if err != nil {
		return nil, err
	}
	config := origin.Config{
		FileRoots: cas, HostsDir: c.HostsDir, Proxy: proxy(c.Proxy), Credentials: origin.Chain(n.log, sources...),
		Log: n.log, Registerer: n.reg, UserAgent: "dfsnapshotter/" + version,
		Own: mirror.Own(n.cfg.Mirror.Listen), Via: n.via,
	}
	// The registry of requests that name none is reached as its URL says.
	if name, plain, err := mirror.ParseRegistry(n.cfg.Mirror.Upstream); err == nil && plain {
		config.Plain = []string{name}
	}
	return origin.New(config)
}

// openMirror opens the registry mirror.
func (n *node) openMirror() (*mirror.Mirror, error) {
	c := n.cfg.Mirror
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("mirror.listen: %w", err)
	}
	if a, ok := ln.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		n.log.Warn("other machines can use the registry mirror, and send what they log in with in plain text", "address", ln.Addr().String())
	}
	name := string(n.host)
	if name == "" {
		name, _ = os.Hostname() // for people only
	}
	m, err := mirror.Open(ln, mirror.Config{
		Fetcher: n.fetcher, Registries: n.origin, Learned: &n.learned, Upstream: c.Upstream, Name: name, Via: n.via,
		Proxy: proxy(n.cfg.Registry.Proxy), Log: n.log, Registerer: n.reg,
	})
	if err == nil {
		n.log.Info("registry mirror", "address", ln.Addr().String(), "upstream", c.Upstream)
	}
	return m, err
}

// proxy is the one configured, or else the environment's.
func proxy(configured string) func(*http.Request) (*url.URL, error) {
	env := httpproxy.FromEnvironment()
	if configured != "" {
		env.HTTPProxy, env.HTTPSProxy = configured, configured
	}
	f := env.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return f(r.URL) }
}

// cacheLimit is the configured size, but at most a fifth of the file system, or
// four fifths where nothing but the cache is kept.
func cacheLimit(c Config) (int64, error) {
	limit, err := parseSize(c.Cache.Max)
	if err != nil {
		return 0, err
	}
	_, size, err := fs.DiskSpace(c.Root)
	if err != nil {
		return 0, err
	}
	most := size / 5
	if !c.mounts() {
		most *= 4
	}
	return min(limit, most), nil
}

// serve answers containerd until ctx ends.
func (n *node) serve(ctx context.Context) error {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(16<<20), grpc.MaxSendMsgSize(16<<20))
	failed := make(chan error, 1)
	if n.cfg.mounts() {
		ln, err := daemon.ListenUnix(n.cfg.Address)
		if err != nil {
			return err
		}
		snapshot.Register(server, n.sn)
		go func() { failed <- server.Serve(ln) }()
	}
	n.debug.SetReady(true)
	n.log.Info("ready", "address", n.cfg.Address, "root", n.cfg.Root, "version", version)
	daemon.Ready(n.log)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	daemon.Stopping()
	n.debug.SetReady(false)
	if !n.cfg.mounts() {
		n.log.Info("stopping")
		return nil
	}
	n.log.Info("stopping; the keeper holds the mounts")
	stopServer(server)
	return <-failed // nil: it was stopped
}

// stopServer lets calls under way end, for a while: containerd repeats them.
func stopServer(s *grpc.Server) {
	t := time.AfterFunc(3*time.Second, s.Stop)
	defer t.Stop()
	s.GracefulStop()
}

// close ends the parts in reverse order.
func (n *node) close() error {
	var errs []error
	if n.status != nil {
		errs = append(errs, n.status.Close())
	}
	if n.images != nil {
		errs = append(errs, n.images.Close())
	}
	if n.sn != nil {
		errs = append(errs, n.sn.Close())
	}
	if n.fs != nil {
		errs = append(errs, n.fs.Close())
	}
	if n.mirror != nil {
		errs = append(errs, n.mirror.Close())
	}
	if n.indexes != nil {
		n.indexes.Close()
	}
	if n.managed != nil {
		n.managed.Close()
	}
	if n.fetcher != nil {
		errs = append(errs, n.fetcher.Close())
	}
	if n.origin != nil {
		n.origin.Close()
	}
	if n.keeper != nil {
		errs = append(errs, n.keeper.Close())
	}
	if n.debug != nil {
		errs = append(errs, n.debug.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}
