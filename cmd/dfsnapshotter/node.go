package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/daemonset"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// nodeCommand is what the DaemonSet's pods run.
func nodeCommand(p *program) *cobra.Command {
	var c daemonset.Config
	cmd := &cobra.Command{
		Use: "node --host FOLDER", Short: "Put dfsnapshotter onto the machine of this container, as systemd services, and watch it",
		Long: `For pods of a DaemonSet that have the machine's root folder mounted: writes the
programs, units and configuration there, has systemd run them, calls
dfsnapshotter install there with the arguments behind --, and then watches the
agent. Nothing ends when the pod does; a newer pod replaces the program and starts
the agent anew, while the keeper holds the mounts.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := p.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			conf, err := p.Config()
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			c.Config, c.Install, c.Log = p.Used(), args, log
			c.Programs = []string{self}
			if dfget := filepath.Join(filepath.Dir(self), "dfget"); exists(dfget) {
				c.Programs = append(c.Programs, dfget)
			}
			if err := c.Put(cmd.Context()); err != nil {
				return err
			}
			return watch(cmd.Context(), conf.Debug.Listen, log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Host, "host", "/host", "where the machine's root folder is mounted")
	f.StringVar(&c.Bin, "bin-dir", "/usr/local/bin", "folder on the machine for the programs")
	f.StringVar(&c.Token, "join-token", "", "file with a join token, for the agent")
	return cmd
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// watch tells when the agent becomes ready or stops being so, until ctx ends.
func watch(ctx context.Context, addr string, log *slog.Logger) error {
	said := "unknown"
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		now := "ready"
		if err := daemon.CheckReady(ctx, addr); err != nil {
			now = fmt.Sprint("not ready: ", err)
		}
		if ctx.Err() != nil {
			log.Info("stopping; the agent goes on")
			return nil
		}
		if now != said {
			said = now
			log.Info("the agent", "is", now)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
