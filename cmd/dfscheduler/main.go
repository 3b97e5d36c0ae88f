// Command dfscheduler decides which hosts of a cluster read which part of a
// blob from whom. What it knows it has from the hosts, and from them it knows it
// again after a restart.
package main

import (
	"log/slog"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// version is set by the linker.
var version = "devel"

func main() { daemon.Main(program().Command()) }

func program() *daemon.Program[Config] {
	return &daemon.Program[Config]{
		Name:  "dfscheduler",
		Short: "The scheduler of the piece network",
		Long: `Without a subcommand dfscheduler is the daemon: hosts keep a stream to it, tell
it what they have and want, and are told whom to read from. It moves no bytes of
images; several may run, and each blob belongs to one of them.`,
		Version: version,
		File:    "/etc/dfsnapshotter/dfscheduler.toml",
		Default: DefaultConfig, Validate: Config.Validate, Probe: probe, Run: run,
		Debug: func(c Config) string { return c.Debug.Listen },
	}
}

// probe reads the certificates that a manager has not to give.
func probe(c Config, log *slog.Logger) error {
	if c.Manager != "" {
		return nil
	}
	_, err := c.TLS.Identity(wire.RoleScheduler, log)
	return err
}
