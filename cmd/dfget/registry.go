package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/net/http/httpproxy"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// maxDocument is how long a manifest, config or list may be.
const maxDocument = 4 << 20

// registryFlags say how registries are reached.
type registryFlags struct {
	hostsDir, dockerConfig string
	plain                  bool
	ca                     string // of a file's server: PEM file; "": the system's alone
}

func (f *registryFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.hostsDir, "hosts-dir", "/etc/containerd/certs.d", "hosts.toml files as containerd reads them: mirrors, CAs, plain HTTP")
	cmd.Flags().StringVar(&f.dockerConfig, "docker-config", dockerConfig(), "credentials, as docker login writes them")
	cmd.Flags().BoolVar(&f.plain, "plain-http", false, "speak plain HTTP to the registry, if hosts.toml does not say what it speaks")
}

// dockerConfig is where docker keeps credentials.
func dockerConfig() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".docker", "config.json")
}

// open returns a client of the registry of a repository: for who writes, one of
// its own server alone.
func (f registryFlags) open(repo origin.Repo, writes bool, messages io.Writer) (*origin.Client, error) {
	log := slog.New(slog.NewTextHandler(messages, &slog.HandlerOptions{Level: slog.LevelWarn}))
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	cas, err := daemon.Roots("--ca", f.ca)
	if err != nil {
		return nil, err
	}
	c := origin.Config{
		HostsDir: f.hostsDir, Credentials: origin.Chain(log, origin.NewDockerConfig(f.dockerConfig)), Log: log, UserAgent: "dfget/" + version,
		Proxy:      func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		ServerOnly: writes, HeaderTimeout: time.Minute, FileRoots: cas,
	}
	if f.plain {
		c.Plain = []string{repo.Host}
	}
	return origin.New(c)
}

// imageName is an image as a person names it.
type imageName struct {
	repo   origin.Repo
	tag    string        // "" if digest is set
	digest digest.Digest // of a manifest or index; "": what tag names
}

func (n imageName) String() string {
	if n.digest != "" {
		return n.repo.String() + "@" + n.digest.String()
	}
	return n.repo.String() + ":" + n.tag
}

// parseImage reads a name such as nginx, nginx:1 or host/app@sha256:….
func parseImage(name string) (imageName, error) {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return imageName{}, fmt.Errorf("%q is not the name of an image: %w", name, err)
	}
	n := imageName{repo: origin.Repo{Host: reference.Domain(named), Path: reference.Path(named)}}
	switch r := named.(type) {
	case reference.Digested:
		n.digest = r.Digest()
	case reference.Tagged:
		n.tag = r.Tag()
	}
	return n, nil
}

// image is one of a name's images: that of a platform.
type image struct {
	ocispec.Descriptor
	platform string // "" where only one was there
	layers   []imageLayer
	soci     digest.Digest // the SOCI index that its manifest names; "": none
}

func (i image) String() string {
	if i.platform == "" {
		return i.Digest.String()
	}
	return i.Digest.String() + " (" + i.platform + ")"
}

// imageLayer is a layer as manifest and config describe it.
type imageLayer struct {
	ocispec.Descriptor
	diffID digest.Digest
}

var indexTypes = []string{ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json"}

// thisPlatform is that of the images that run here.
const thisPlatform = "linux/" + runtime.GOARCH

// allPlatforms stands for those that a name has.
const allPlatforms = "all"

// errPlatform: a name has no image for a platform.
var errPlatform = errors.New("it has no image for the platform")

// images reads what a name stands for now: one image, or those of an index that
// are for one of the platforms.
func images(ctx context.Context, c *origin.Client, name imageName, platforms []string) ([]image, error) {
	desc, data, err := readManifest(ctx, c, name)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(indexTypes, desc.MediaType) {
		i := image{Descriptor: desc, soci: indexes.SociIndex(data)}
		i.layers, err = readLayers(ctx, c, name.repo, data)
		return []image{i}, err
	}
	var list ocispec.Index
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	var found []image
	var there []string
	for _, m := range list.Manifests {
		platform := platformOf(m)
		if platform == "" || m.ArtifactType != "" || m.Digest.Validate() != nil {
			continue // it says something of another one
		}
		there = append(there, platform)
		if !wants(platforms, platform) {
			continue
		}
		desc, data, err := readManifest(ctx, c, imageName{repo: name.repo, digest: m.Digest})
		if err != nil {
			return nil, err
		}
		i := image{Descriptor: desc, platform: platform, soci: indexes.SociIndex(data)}
		if i.layers, err = readLayers(ctx, c, name.repo, data); err != nil {
			return nil, err
		}
		found = append(found, i)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w %s, only for %s", name, errPlatform, strings.Join(platforms, ", "), strings.Join(there, ", "))
	}
	return found, nil
}

func platformOf(m ocispec.Descriptor) string {
	if m.Platform == nil || m.Platform.OS == "" || m.Platform.OS == "unknown" {
		return ""
	}
	return strings.TrimSuffix(m.Platform.OS+"/"+m.Platform.Architecture+"/"+m.Platform.Variant, "/")
}

// wants reports whether a platform is among those asked for; linux/arm64 stands
// for its variants, too.
func wants(asked []string, platform string) bool {
	return slices.ContainsFunc(asked, func(p string) bool {
		return p == allPlatforms || p == platform || strings.HasPrefix(platform, p+"/")
	})
}

func readManifest(ctx context.Context, c *origin.Client, name imageName) (desc ocispec.Descriptor, data []byte, err error) {
	if name.digest != "" {
		data, desc.MediaType, err = c.Document(ctx, name.repo, name.digest, true, maxDocument)
		desc.Digest = name.digest
	} else {
		data, desc.MediaType, err = c.Tagged(ctx, name.repo, name.tag, maxDocument)
		desc.Digest = digest.FromBytes(data)
	}
	desc.Size = int64(len(data))
	return desc, data, err
}

// readLayers reads the layers of a manifest, with what its config says of them.
func readLayers(ctx context.Context, c *origin.Client, repo origin.Repo, manifest []byte) ([]imageLayer, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	data, _, err := c.Document(ctx, repo, m.Config.Digest, false, maxDocument)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	if n := len(config.RootFS.DiffIDs); n != len(m.Layers) {
		return nil, fmt.Errorf("not an image of layers: it has %d, and its config knows %d", len(m.Layers), n)
	}
	var layers []imageLayer
	for i, l := range m.Layers {
		if err := errors.Join(l.Digest.Validate(), config.RootFS.DiffIDs[i].Validate()); err != nil {
			return nil, fmt.Errorf("layer %q: %w", l.Digest, err)
		}
		layers = append(layers, imageLayer{l, config.RootFS.DiffIDs[i]})
	}
	return layers, nil
}
