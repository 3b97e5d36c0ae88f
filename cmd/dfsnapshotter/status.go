package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/fs"
)

func statusCommand(p *program) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show what each layer is doing", Args: daemon.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.Config()
			if err != nil {
				return err
			}
			list, err := askStatus(cmd.Context(), c.statusSocket())
			if err != nil {
				return err
			}
			if asJSON {
				return terminal.JSON(cmd.OutOrStdout(), list)
			}
			return printStatus(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func askStatus(ctx context.Context, socket string) ([]fs.Status, error) {
	list := []fs.Status{}
	err := ask(ctx, socket, "/v1/layers", &list)
	return list, err
}

// ask asks the daemon for what a path holds as JSON.
func ask(ctx context.Context, socket, path string, answer any) error {
	err := agent.Get(ctx, socket, path, answer)
	if errors.Is(err, agent.ErrAgent) {
		return fmt.Errorf("%w\nDoes the daemon run (systemctl status dfsnapshotter)? Does it have this configuration (--config)?", err)
	}
	return err
}

func printStatus(w io.Writer, list []fs.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "LAYER\tBLOB\tREPOSITORY\tKIND\tSIZE\tSTATE\tFILLED\tFROM ORIGIN\tFROM CACHE\tNOTE")
	for _, s := range list {
		part := 100.0
		if s.Chunks > 0 {
			part = 100 * float64(s.Filled) / float64(s.Chunks)
		}
		_, _ = fmt.Fprintf(t, "%d\t%.12s\t%s\t%s\t%s\t%s\t%.0f %%\t%s\t%s\t%s\n", s.ID, s.Blob.Encoded(), s.Repo, s.Kind,
			terminal.Size(s.Size), s.State, part, terminal.Size(s.Sources.Fetched["origin"]), terminal.Size(s.Sources.Stored), s.Reason)
	}
	return t.Flush()
}
