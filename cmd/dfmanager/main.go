// Command dfmanager is what people and registries speak to: users sign in to
// it, and what they ask to be preheated is brought into the cluster. Hosts and
// schedulers go on without it.
package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// version is set by the linker.
var version = "devel"

func main() { daemon.Main(newCommand()) }

func newCommand() *cobra.Command {
	p := program()
	cmd := p.Command()
	cmd.AddCommand(tokenCommand(p))
	return cmd
}

func program() *daemon.Program[Config] {
	return &daemon.Program[Config]{
		Name:  "dfmanager",
		Short: "The manager of a cluster",
		Long: `Without a subcommand dfmanager is the daemon: clusters, of which schedulers, seeds
and hosts become members, users, access tokens, a console and a REST API, and jobs
that preheat images, which Harbor and other registries can ask for. With a SQLite database, which is the default, one runs; with PostgreSQL several
may, and any of them answers. At the very first start a user named root is
created: its password is the value of DFMANAGER_ROOT_PASSWORD, or is made up and
printed, and has to be changed at the first sign-in.`,
		Version: version,
		File:    "/etc/dfsnapshotter/dfmanager.toml",
		Default: defaults, Validate: Config.Validate, Probe: probe, Run: run,
		Debug: func(c Config) string { return c.Debug.Listen },
	}
}

// defaults are DefaultConfig, with the database that the environment names: its
// password may have to be kept out of the file.
func defaults() Config {
	c := DefaultConfig()
	if url := os.Getenv("DFMANAGER_DATABASE"); url != "" {
		c.Database = url
	}
	return c
}

// probe reads the certificates.
func probe(c Config, log *slog.Logger) error {
	if _, err := c.TLS.Identity(wire.RoleManager, log); err != nil {
		return err
	}
	if _, err := daemon.Roots("registries.ca", c.Registries.CA); err != nil {
		return err
	}
	if _, err := c.Auth.OIDC.provider(nil); err != nil {
		return err
	}
	if c.Web.Cert == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(c.Web.Cert, c.Web.Key); err != nil {
		return fmt.Errorf("web.cert: %w", err)
	}
	return nil
}
