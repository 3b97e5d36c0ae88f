// Command dfsnapshotter is the node agent: a containerd snapshotter that mounts
// image layers before they are there.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// version is set by the linker.
var version = "devel"

const defaultConfigFile = "/etc/dfsnapshotter/dfsnapshotter.toml"

// options are the flags that every subcommand knows.
type options struct {
	config   string
	logLevel string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "dfsnapshotter:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "dfsnapshotter",
		Short: "A containerd snapshotter that starts containers before their image is there",
		Long: `Without a subcommand dfsnapshotter is the daemon: it serves containerd's snapshot
API on a unix socket, mounts image layers lazily through FUSE, and fills them in
the background until they are ordinary directories.`,
		Version:       version,
		Args:          noArgs,
		SilenceErrors: true, SilenceUsage: true,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.config, "config", "", "configuration file (default "+defaultConfigFile+", if there is one)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	var relay bool
	cmd.Flags().BoolVar(&relay, "relay", false, "keep the keeper between kernel and daemon even where the kernel (6.9 or later) can resend requests")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		log, err := o.logger(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		c, err := o.load()
		if err != nil {
			return err
		}
		c.Relay = c.Relay || relay
		return runDaemon(cmd.Context(), c, o.config, log)
	}
	cmd.SetFlagErrorFunc(withUsage)
	cmd.AddCommand(configCommand(o), keeperCommand(o), indexCommand(), statusCommand(o))
	return cmd
}

// group returns a command that only has subcommands.
func group(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return cmd.Help()
	}}
}

var noArgs = usage(cobra.NoArgs)

// usage says how a command is used when its arguments are not what check wants.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
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

// load reads the configuration file; without one the defaults hold.
func (o *options) load() (Config, error) {
	if o.config != "" {
		return LoadConfig(o.config)
	}
	c, err := LoadConfig(defaultConfigFile)
	if errors.Is(err, os.ErrNotExist) {
		return DefaultConfig(), nil
	}
	if err == nil {
		o.config = defaultConfigFile
	}
	return c, err
}

func (o *options) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: must be debug, info, warn or error", o.logLevel)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}
