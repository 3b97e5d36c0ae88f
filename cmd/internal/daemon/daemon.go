// Package daemon is what commands that run as daemons have in common: a strict
// configuration file, flags, a logger, and the operator's address.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
)

// Program is a daemon with a configuration of type C.
type Program[C any] struct {
	Name, Short, Long string
	Version           string
	File              string // configuration file that is read if there is one
	Default           func() C
	Validate          func(C) error // reports all problems at once
	Run               func(ctx context.Context, c C, log *slog.Logger) error

	config, logLevel string // flags
}

// Main runs the program until it is done or gets SIGINT or SIGTERM, and ends
// the process.
func (p *Program[C]) Main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := p.Command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		os.Exit(1)
	}
}

// Command returns the command line: the daemon itself and `config`.
func (p *Program[C]) Command() *cobra.Command {
	cmd := &cobra.Command{
		Use: p.Name, Short: p.Short, Long: p.Long, Version: p.Version, Args: cobra.NoArgs,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := p.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			c, _, err := p.load()
			if err != nil {
				return err
			}
			return p.Run(cmd.Context(), c, log)
		},
	}
	f := cmd.PersistentFlags()
	f.StringVar(&p.config, "config", "", "configuration file (default "+p.File+", if there is one)")
	f.StringVar(&p.logLevel, "log-level", "info", "debug, info, warn or error")
	cmd.AddCommand(p.configCommand())
	return cmd
}

func (p *Program[C]) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show or check the configuration"}
	cmd.AddCommand(&cobra.Command{
		Use: "default", Short: "Print the default configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return toml.NewEncoder(cmd.OutOrStdout()).Encode(p.Default())
		},
	}, &cobra.Command{
		Use: "check [FILE]", Short: "Check a configuration file", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				p.config = args[0]
			}
			_, path, err := p.load()
			if err != nil {
				return err
			}
			if path == "" {
				path = "no " + p.File + ", so the defaults hold"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", path)
			return err
		},
	})
	return cmd
}

// load returns the configuration and the file it came from, "" if none.
func (p *Program[C]) load() (C, string, error) {
	if p.config != "" {
		c, err := p.Load(p.config)
		return c, p.config, err
	}
	c, err := p.Load(p.File)
	if errors.Is(err, os.ErrNotExist) {
		return p.Default(), "", nil
	}
	return c, p.File, err
}

func (p *Program[C]) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(p.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: must be debug, info, warn or error", p.logLevel)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}
