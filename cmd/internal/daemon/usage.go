package daemon

import (
	"fmt"

	"github.com/spf13/cobra"
)

// Root makes a command one that a program begins with: Main prints its errors,
// and those of flags say how it is used.
func Root(cmd *cobra.Command) *cobra.Command {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetFlagErrorFunc(withUsage)
	return cmd
}

// Group returns a command that only has subcommands.
func Group(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return cmd.Help()
	}}
}

// NoArgs takes no arguments.
var NoArgs = Args(cobra.NoArgs)

// Args says how a command is used when its arguments are not what check wants.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return withUsage(cmd, err)
		}
		return nil
	}
}

func withUsage(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w\nusage: %s (%s --help says more)", err, cmd.UseLine(), cmd.CommandPath())
}
