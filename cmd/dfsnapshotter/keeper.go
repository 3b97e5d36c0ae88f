package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/fs/keeper"
)

func keeperCommand(p *program) *cobra.Command {
	var socket string
	var relay, detach bool
	cmd := &cobra.Command{
		Use:   "keeper",
		Short: "Hold the FUSE mounts while the daemon is dead or being upgraded",
		Long: `The keeper holds the mounts' /dev/fuse descriptors, so that reads wait for the
daemon's return instead of failing. The daemon starts one if there is none.`,
		Args: daemon.NoArgs,
	}
	cmd.PersistentFlags().StringVar(&socket, "socket", "", "the keeper's socket (default: keeper.sock beside the configured address)")
	cmd.Flags().BoolVar(&relay, "relay", false, "stay between kernel and daemon even where the kernel can resend requests")
	cmd.Flags().BoolVar(&detach, "detach", false, "leave the terminal session and the cgroup of the process that started it")
	where := func() (string, error) {
		if socket != "" {
			return socket, nil
		}
		c, err := p.Config()
		return c.keeperSocket(), err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		log, err := p.Logger(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		path, err := where()
		if err != nil {
			return err
		}
		return keeper.Run(cmd.Context(), keeper.Config{Socket: path, Relay: relay, Detach: detach, Log: log})
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "abort",
		Short: "Free readers that hang because no daemon comes back: they get ENOTCONN",
		Args:  daemon.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := p.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			path, err := where()
			if err != nil {
				return err
			}
			names, err := keeper.Abort(cmd.Context(), path, log)
			for _, n := range names {
				fmt.Fprintln(cmd.OutOrStdout(), "aborted", n)
			}
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
				return fmt.Errorf("%w\nNo keeper runs there. Is this its --socket, or the daemon's --config?", err)
			}
			return err
		},
	})
	return cmd
}
