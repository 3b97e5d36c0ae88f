package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/mirror"
)

// Config is the daemon's configuration file.
type Config struct {
	Root     string         `toml:"root" comment:"Layers, snapshots and the cache. Not to be changed while containers run."`
	Address  string         `toml:"address" comment:"Socket of the containerd proxy plugin. The keeper's and status sockets lie beside it. Empty where there is only\nthe mirror, or a seed: nothing is mounted."`
	Relay    bool           `toml:"relay" comment:"Keep the keeper between kernel and daemon even where Linux (6.9 or later) can resend requests."`
	Images   []ImageConfig  `toml:"image" comment:"Images that are not lazy: instead of this line a section [[image]] for each, the first that matches counts. match is\na repository, with or without its registry, * for any text, such as 'ml/*'; mode is 'lazy' (mounted at once), 'fill'\n(mounted, but the pull ends when all is here, as plain directories) or 'eager' (downloaded whole and unpacked)."`
	Mirror   MirrorConfig   `toml:"mirror"`
	Registry RegistryConfig `toml:"registry"`
	CRI      CRIConfig      `toml:"cri"`
	Lazy     LazyConfig     `toml:"lazy"`
	Index    IndexConfig    `toml:"index"`
	Cache    CacheConfig    `toml:"cache"`
	Peer     PeerConfig     `toml:"peer"`
	Limits   LimitsConfig   `toml:"limits"`
	TLS      daemon.TLS     `toml:"tls"`
	Debug    DebugConfig    `toml:"debug"`
}

// MirrorConfig is the registry mirror and proxy that Docker, containerd and others
// point at.
type MirrorConfig struct {
	Listen   string `toml:"listen" comment:"Registry mirror and HTTP proxy, in plain HTTP, for programs on this machine; empty for none."`
	Upstream string `toml:"upstream" comment:"Registry of requests that name none, such as Docker's; empty to refuse them."`
}

// RegistryConfig says how registries are reached.
type RegistryConfig struct {
	HostsDir           string `toml:"hosts_dir" comment:"hosts.toml files as containerd reads them: mirrors, CAs, plain HTTP."`
	DockerConfig       string `toml:"docker_config" comment:"Credentials: a docker config.json, with its credential helpers."`
	CredentialProvider string `toml:"credential_provider_config" comment:"Credentials: kubelet's CredentialProviderConfig; empty for none."`
	CredentialBin      string `toml:"credential_provider_bin_dir" comment:"Folder of the plugins that file names."`
	FilesCA            string `toml:"files_ca" comment:"PEM file with CAs of web servers that files come from for dfget, besides the system's. It is read at the start."`
	Proxy              string `toml:"proxy" comment:"Proxy to registries; empty for what HTTPS_PROXY and NO_PROXY say."`
}

// LazyConfig says what may be mounted before it is there.
type LazyConfig struct {
	Unproven bool `toml:"unproven" comment:"Mount eStargz and zstd:chunked layers, and those of images that name a SOCI index, before the whole blob was seen to unpack to what the image says.\nNodes that run images of tenants who do not trust each other set false: such layers are unpacked first."`
}

// IndexConfig says whose indexes are believed besides those of the cluster.
type IndexConfig struct {
	Trust []string `toml:"trust" comment:"Repositories, such as ['registry.example/team/*', 'docker.io/library/*'], beside whose images indexes are looked for\n('dfget index push' puts them there, or SOCI) if no other host has one. Whoever may push there can have this node show wrong files, in\nother images with the same layer as well, until all of the layer is here and was compared."`
}

// CacheConfig bounds what is kept besides the layers.
type CacheConfig struct {
	Max string `toml:"max" comment:"Blobs kept on disk, at most a fifth of the file system, of a seed that mounts nothing four fifths.\nWhat a mount needs is never evicted."`
}

// PeerConfig makes this host part of a cluster.
type PeerConfig struct {
	Manager    string   `toml:"manager" comment:"The manager, such as 'manager:65003', that gives this host a certificate and says which schedulers there are."`
	JoinToken  string   `toml:"join_token" comment:"File with a join token, for the first time; \"dfmanager token create\" prints one."`
	Schedulers []string `toml:"schedulers" comment:"Without a manager: the cluster's schedulers, such as ['scheduler-0:8002', 'scheduler-1:8002'], the same on all hosts.\nWith neither, everything comes from registries, and what else stands in this section does not count."`
	Listen     string   `toml:"listen" comment:"Where other hosts fetch pieces. Without certificates only this machine may, whatever stands here."`
	Advertise  string   `toml:"advertise" comment:"host:port at which other hosts reach that; empty for listen's port at the address that the scheduler sees."`
	Share      bool     `toml:"share" comment:"Give, too. A host that only takes does not listen."`
	Seed       bool     `toml:"seed" comment:"Fetch from registries what the cluster wants, keep it in the cache, and serve it. With an empty address a\nseed mounts nothing."`
	IDC        string   `toml:"idc" comment:"Data centre, and the place in it, outermost first, such as 'row-1|rack-7'. Hosts prefer near ones."`
	Location   string   `toml:"location"`
}

// LimitsConfig bounds the traffic of the whole host.
type LimitsConfig struct {
	Download string `toml:"download" comment:"Of blobs, in bytes per second, such as '20MiB'; 0 for no limit. Reads that somebody waits for go first."`
	Upload   string `toml:"upload" comment:"To other hosts."`
	Origin   string `toml:"origin" comment:"From registries. That counts as download, too."`
}

// DebugConfig is the operator's address.
type DebugConfig struct {
	Listen string `toml:"listen" comment:"/metrics, /healthz and /readyz; empty for none."`
}

// DefaultConfig is what holds without a file.
func DefaultConfig() Config {
	return Config{
		Root:     "/var/lib/dfsnapshotter",
		Address:  "/run/dfsnapshotter/dfsnapshotter.sock",
		Images:   []ImageConfig{},
		Mirror:   MirrorConfig{Listen: "127.0.0.1:65001", Upstream: "https://registry-1.docker.io"},
		Registry: RegistryConfig{HostsDir: "/etc/containerd/certs.d", DockerConfig: "/root/.docker/config.json"},
		CRI:      CRIConfig{Endpoint: "/run/containerd/containerd.sock"},
		Lazy:     LazyConfig{Unproven: true},
		Index:    IndexConfig{Trust: []string{}},
		Cache:    CacheConfig{Max: "50GiB"},
		Peer:     PeerConfig{JoinToken: "/etc/dfsnapshotter/join-token", Schedulers: []string{}, Listen: ":65002", Share: true},
		Limits:   LimitsConfig{Download: "0", Upload: "0", Origin: "0"},
		Debug:    DebugConfig{Listen: "127.0.0.1:65004"},
	}
}

// Validate reports all that is wrong with the values.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if !filepath.IsAbs(c.Root) {
		bad("root", "%q is not an absolute path", c.Root)
	}
	if filepath.Clean(c.Root) == "/" {
		bad("root", "%q is not a folder of its own", c.Root)
	}
	if strings.ContainsAny(c.Root, ":,\\\"") {
		bad("root", "%q holds one of : , \\ \" which overlayfs cannot take in a path", c.Root)
	}
	switch {
	case c.Address == "" && !c.Peer.Seed && c.Mirror.Listen == "":
		bad("address", "is empty, and so is mirror.listen, which is for seeds: set a socket's path, or peer.seed = true")
	case c.Address != "" && !filepath.IsAbs(c.Address):
		bad("address", "%q is not an absolute path", c.Address)
	}
	if n := max(len(c.Address), len(c.keeperSocket())); n > maxSocket {
		bad("address", "%q is too long: with the sockets beside it, it may have %d bytes", c.Address, maxSocket)
	}
	if _, err := parseSize(c.Cache.Max); err != nil {
		bad("cache.max", "%v", err)
	}
	if c.Debug.Listen != "" && !daemon.IsHostPort(c.Debug.Listen) {
		bad("debug.listen", "%q is not host:port", c.Debug.Listen)
	}
	if c.Mirror.Listen != "" && !daemon.IsHostPort(c.Mirror.Listen) {
		bad("mirror.listen", "%q is not host:port", c.Mirror.Listen)
	}
	if _, _, err := mirror.ParseRegistry(c.Mirror.Upstream); c.Mirror.Upstream != "" && err != nil {
		bad("mirror.upstream", "%v", err)
	}
	if u, err := url.Parse(c.Registry.Proxy); c.Registry.Proxy != "" && (err != nil || u.Host == "") {
		bad("registry.proxy", "%q is not a URL such as http://proxy:3128", c.Registry.Proxy)
	}
	if (c.Registry.CredentialProvider == "") != (c.Registry.CredentialBin == "") {
		bad("registry", "credential_provider_config and credential_provider_bin_dir go together")
	}
	validateImages(c.Images, bad)
	for _, p := range c.Index.Trust {
		if why := wrongTrust(p); why != "" {
			bad("index.trust", "%s", why)
		}
	}
	c.CRI.validate(bad)
	c.Peer.validate(bad)
	c.Limits.validate(bad)
	if c.Peer.Manager != "" && c.TLS != (daemon.TLS{}) {
		bad("tls", "peer.manager gives the certificate: take all of tls out, or the manager")
	}
	return errors.Join(append(errs, c.TLS.Validate())...)
}

// maxSocket is how long the kernel lets a unix socket's path be.
const maxSocket = 107

// mounts reports whether containerd uses this daemon: it may be only a seed.
func (c Config) mounts() bool { return c.Address != "" }

// clustered reports whether there are, or may be, other hosts.
func (c Config) clustered() bool { return len(c.Peer.Schedulers) > 0 || c.Peer.Manager != "" }

func (c Config) keeperSocket() string { return filepath.Join(filepath.Dir(c.Address), "keeper.sock") }

func (c Config) statusSocket() string {
	if c.Address == "" {
		return filepath.Join(c.Root, "status.sock")
	}
	return filepath.Join(filepath.Dir(c.Address), "status.sock")
}

var units = []struct {
	name string
	size int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1}}

// parseSize reads a size such as "64MiB".
func parseSize(s string) (int64, error) {
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.size {
			break
		}
		return n * u.size, nil
	}
	return 0, fmt.Errorf("%q is not a size such as 64MiB or 50GiB", s)
}
