// Command dfsnapshotter is the node agent: a containerd snapshotter that mounts
// image layers before they are there.
package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// version is set by the linker.
var version = "devel"

// program is the daemon, with its configuration and flags.
type program = daemon.Program[Config]

func main() { daemon.Main(newCommand()) }

func newProgram() *program {
	return &program{
		Name:  "dfsnapshotter",
		Short: "A containerd snapshotter that starts containers before their image is there",
		Long: `Without a subcommand dfsnapshotter is the daemon: it serves containerd's snapshot
API on a unix socket, mounts image layers lazily through FUSE, and fills them in
the background until they are ordinary directories.`,
		Version: version,
		File:    "/etc/dfsnapshotter/dfsnapshotter.toml",
		Default: DefaultConfig, Validate: Config.Validate, Probe: probe,
		Debug: func(c Config) string { return c.Debug.Listen },
	}
}

func newCommand() *cobra.Command {
	p := newProgram()
	var relay bool
	p.Run = func(ctx context.Context, c Config, log *slog.Logger) error {
		c.Relay = c.Relay || relay
		return runDaemon(ctx, c, p.Used(), log)
	}
	cmd := p.Command()
	cmd.Flags().BoolVar(&relay, "relay", false, "keep the keeper between kernel and daemon even where the kernel (6.9 or later) can resend requests")
	cmd.AddCommand(keeperCommand(p), indexCommand(), statusCommand(p), waitCommand(p), installCommand(p), nodeCommand(p))
	return cmd
}
