package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
)

// Config is the daemon's configuration file.
type Config struct {
	Root     string         `toml:"root" comment:"Layers, snapshots and the cache. Not to be changed while containers run."`
	Address  string         `toml:"address" comment:"Socket of the containerd proxy plugin. The keeper's and status sockets lie beside it."`
	Relay    bool           `toml:"relay" comment:"Keep the keeper between kernel and daemon even where Linux (6.9 or later) can resend requests."`
	Registry RegistryConfig `toml:"registry"`
	Lazy     LazyConfig     `toml:"lazy"`
	Cache    CacheConfig    `toml:"cache"`
	Debug    DebugConfig    `toml:"debug"`
}

// RegistryConfig says how registries are reached.
type RegistryConfig struct {
	HostsDir           string `toml:"hosts_dir" comment:"hosts.toml files as containerd reads them: mirrors, CAs, plain HTTP."`
	DockerConfig       string `toml:"docker_config" comment:"Credentials: a docker config.json, with its credential helpers."`
	CredentialProvider string `toml:"credential_provider_config" comment:"Credentials: kubelet's CredentialProviderConfig; empty for none."`
	CredentialBin      string `toml:"credential_provider_bin_dir" comment:"Folder of the plugins that file names."`
	Proxy              string `toml:"proxy" comment:"Proxy to registries; empty for what HTTPS_PROXY and NO_PROXY say."`
}

// LazyConfig says what may be mounted before it is there.
type LazyConfig struct {
	Unproven bool `toml:"unproven" comment:"Mount eStargz and zstd:chunked layers before the whole blob was seen to unpack to what the image says.\nNodes that run images of tenants who do not trust each other set false: such layers are unpacked first."`
}

// CacheConfig bounds what is kept besides the layers.
type CacheConfig struct {
	Max string `toml:"max" comment:"Blobs kept on disk, at most a fifth of the file system. What a mount needs is never evicted."`
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
		Registry: RegistryConfig{HostsDir: "/etc/containerd/certs.d", DockerConfig: "/root/.docker/config.json"},
		Lazy:     LazyConfig{Unproven: true},
		Cache:    CacheConfig{Max: "50GiB"},
		Debug:    DebugConfig{Listen: "127.0.0.1:65004"},
	}
}

// LoadConfig reads the file at path over the defaults. Unknown keys are an error.
func LoadConfig(path string) (Config, error) {
	c := DefaultConfig()
	b, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("configuration file: %w", err)
	}
	d := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, describe(path, err)
	}
	return c, c.Validate(path)
}

// describe says where in the file an error is.
func describe(path string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var errs []error
		for _, e := range strict.Errors {
			row, _ := e.Position()
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q; `dfsnapshotter config default` lists all keys", path, row, strings.Join(e.Key(), ".")))
		}
		return errors.Join(errs...)
	}
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		row, col := syntax.Position()
		what := strings.TrimPrefix(err.Error(), "toml: ")
		if _, want, ok := strings.Cut(what, " of type "); ok {
			// The library names Go's types and fields, which mean nothing to who wrote the file.
			switch want {
			case "string":
				want = "a string, in quotes"
			case "bool":
				want = "true or false"
			default:
				want = "a section"
			}
			what = strings.Join(syntax.Key(), ".") + " must be " + want
		}
		return fmt.Errorf("%s:%d:%d: %s", path, row, col, what)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// Validate reports all that is wrong with the values, which came from file.
func (c Config) Validate(file string) error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s: %s", file, key, fmt.Sprintf(format, args...)))
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
	if !filepath.IsAbs(c.Address) {
		bad("address", "%q is not an absolute path", c.Address)
	}
	if n := max(len(c.Address), len(c.keeperSocket())); n > maxSocket {
		bad("address", "%q is too long: with the sockets beside it, it may have %d bytes", c.Address, maxSocket)
	}
	if _, err := parseSize(c.Cache.Max); err != nil {
		bad("cache.max", "%v", err)
	}
	if c.Debug.Listen != "" && !isHostPort(c.Debug.Listen) {
		bad("debug.listen", "%q is not host:port", c.Debug.Listen)
	}
	if u, err := url.Parse(c.Registry.Proxy); c.Registry.Proxy != "" && (err != nil || u.Host == "") {
		bad("registry.proxy", "%q is not a URL such as http://proxy:3128", c.Registry.Proxy)
	}
	if (c.Registry.CredentialProvider == "") != (c.Registry.CredentialBin == "") {
		bad("registry", "credential_provider_config and credential_provider_bin_dir go together")
	}
	return errors.Join(errs...)
}

// maxSocket is how long the kernel lets a unix socket's path be.
const maxSocket = 107

func isHostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func (c Config) keeperSocket() string { return filepath.Join(filepath.Dir(c.Address), "keeper.sock") }
func (c Config) statusSocket() string { return filepath.Join(filepath.Dir(c.Address), "status.sock") }

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

func configCommand(o *options) *cobra.Command {
	cmd := group("config", "Show or check the configuration")
	cmd.AddCommand(&cobra.Command{
		Use: "default", Short: "Print all keys with their defaults", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return toml.NewEncoder(cmd.OutOrStdout()).Encode(DefaultConfig())
		},
	}, &cobra.Command{
		Use: "check [FILE]", Short: "Report all that is wrong with a configuration file", Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.config = args[0]
			}
			if _, err := o.load(); err != nil {
				return err
			}
			path := o.config
			if path == "" {
				path = "no " + defaultConfigFile + ", so the defaults hold"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", path)
			return err
		},
	})
	return cmd
}
