// Command dfget is the command line of a cluster, for people and scripts.
package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// version is set by the linker.
var version = "devel"

func main() { daemon.Main(newCommand()) }

// newCommand returns the command line. A subcommand is a function that returns
// it, in a file of its own.
func newCommand() *cobra.Command {
	cmd := daemon.Root(daemon.Group("dfget", "The command line of dfsnapshotter's clusters"))
	getFlags(cmd)
	cmd.Version = version
	cmd.AddCommand(statusCommand(), doctorCommand(), imageCommand(), cacheCommand(), loginCommand(), preheatCommand(), indexCommand(), daemon.ManCommand(1), versionCommand())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: daemon.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "dfget %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
