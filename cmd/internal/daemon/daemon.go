// Package daemon is what commands have in common: how they say what is wrong, and
// those that run as daemons a strict configuration file, flags, a logger, the
// section [tls], and the operator's addresses.
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
	_ "golang.org/x/crypto/x509roots/fallback" // for images that hold nothing but the program: roots, if the system has none
)

// Program is a daemon with a configuration of type C.
type Program[C any] struct {
	Name, Short, Long string
	Version           string
	File              string // configuration file that is read if there is one
	Default           func() C
	Validate          func(C) error // reports all problems at once, each on a line that begins with its key; looks at no file
	// Probe reports what of a valid configuration this machine cannot do. It is
	// called by `config check`; Run finds out by itself. nil: nothing.
	Probe func(c C, log *slog.Logger) error
	Run   func(ctx context.Context, c C, log *slog.Logger) error
	// Debug is the operator's address, which `health` asks.
	Debug func(C) string

	config, logLevel string // flags
}

// Main runs the command until it is done or gets SIGINT or SIGTERM, and ends
// the process.
func Main(cmd *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := cmd.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
		os.Exit(exitCode(err))
	}
}

// ExitError is an error for which the process ends with a code of its own.
type ExitError struct {
	Code int
	Err  error
}

func (e ExitError) Error() string { return e.Err.Error() }

func (e ExitError) Unwrap() error { return e.Err }

func exitCode(err error) int {
	if e, ok := errors.AsType[ExitError](err); ok {
		return e.Code
	}
	return 1
}

// Command returns the command line: the daemon itself, `config`, `health` and `man`.
func (p *Program[C]) Command() *cobra.Command {
	cmd := Root(&cobra.Command{
		Use: p.Name, Short: p.Short, Long: p.Long, Version: p.Version, Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := p.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			c, err := p.Config()
			if err != nil {
				return err
			}
			return p.Run(cmd.Context(), c, log)
		},
	})
	f := cmd.PersistentFlags()
	f.StringVar(&p.config, "config", "", "configuration file (default "+p.File+", if there is one)")
	f.StringVar(&p.logLevel, "log-level", "info", "debug, info, warn or error")
	cmd.AddCommand(p.configCommand(), p.healthCommand(), ManCommand(8))
	return cmd
}

func (p *Program[C]) configCommand() *cobra.Command {
	cmd := Group("config", "Show or check the configuration")
	cmd.AddCommand(&cobra.Command{
		Use: "default", Short: "Print all keys with their defaults", Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return toml.NewEncoder(cmd.OutOrStdout()).Encode(p.Default())
		},
	}, &cobra.Command{
		Use: "check [FILE]", Short: "Report all that is wrong with a configuration file", Args: Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				p.config = args[0]
			}
			return p.check(cmd)
		},
	})
	return cmd
}

func (p *Program[C]) check(cmd *cobra.Command) error {
	log, err := p.Logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	c, err := p.Config()
	if err != nil {
		return err
	}
	path := p.Used()
	if path == "" {
		path = "no " + p.File + ", so the defaults hold"
	}
	if p.Probe != nil {
		if err := p.Probe(c, log); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", path)
	return err
}

// Config returns the configuration; without a file the defaults hold.
func (p *Program[C]) Config() (C, error) {
	if p.config != "" {
		return p.Load(p.config)
	}
	c, err := p.Load(p.File)
	if errors.Is(err, os.ErrNotExist) {
		return p.Default(), nil
	}
	if err == nil {
		p.config = p.File
	}
	return c, err
}

// Used returns the file that Config has read, "" if none.
func (p *Program[C]) Used() string { return p.config }

// Logger returns a logger with the level that the flags say.
func (p *Program[C]) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(p.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: must be debug, info, warn or error", p.logLevel)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})), nil
}
