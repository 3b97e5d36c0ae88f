package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
)

func statusCommand() *cobra.Command {
	var at agentFlag
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show the agent on this host, its cluster and its cache", Args: daemon.NoArgs,
		Long: `dfget status shows the agent on this host: its version and sockets, its cluster and
whether it reaches its schedulers and manager, layers by their state, the cache,
and what it has read since it was started, by where that came from.

"dfsnapshotter status" lists the layers, "dfget cache ls" what is in the cache, and
"dfget doctor" says what is wrong.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s agent.Status
			if err := at.get(cmd.Context(), "/v1/status", &s); err != nil {
				return err
			}
			if asJSON {
				return terminal.JSON(cmd.OutOrStdout(), s)
			}
			return printStatus(cmd.OutOrStdout(), s)
		},
	}
	at.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(w io.Writer, s agent.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { _, _ = fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	line("agent", "%s, process %d, for %s", s.Version, s.PID, s.Time.Sub(s.Started).Round(time.Second))
	line("configuration", "%s", or(s.Config, "none: the defaults hold"))
	line("root", "%s", s.Root)
	line("snapshotter", "%s", or(s.Address, "off: it mounts nothing"))
	line("registry mirror", "%s", or(s.Mirror, "off"))
	line("image service", "%s", or(s.CRI, "off"))
	printCluster(line, s)
	line("layers", "%s", or(counts(s.Layers), "none"))
	line("cache", "%s of %s, %d blobs; %s of the disk are free", terminal.Size(s.Cache.Used), terminal.Size(s.Cache.Max), s.Cache.Blobs, terminal.Size(s.Cache.Free))
	line("read since then", "%s from origins, %s from peers, %s from the cache", terminal.Size(s.Moved.Origin), terminal.Size(s.Moved.Peers), terminal.Size(s.Moved.Cache))
	line("given to peers", "%s", terminal.Size(s.Moved.Sent))
	return t.Flush()
}

func printCluster(line func(name, format string, args ...any), s agent.Status) {
	c := s.Cluster
	if c == nil {
		line("cluster", "none: everything comes from origins")
		return
	}
	kind := "host"
	if c.Seed {
		kind = "seed"
	}
	line(kind, "%s, %s", c.Host, or(c.Address, "which gives nothing to others"))
	if c.Manager != "" {
		line("manager", "%s, %s", c.Manager, reachable(c.Linked))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Schedulers)) {
		line("scheduler", "%s, %s", name, reachable(c.Schedulers[name]))
	}
	switch {
	case !c.Expires.IsZero():
		line("certificate", "good until %s", c.Expires.Local().Format(time.DateTime))
	case c.TLS:
		line("certificate", "none yet")
	default:
		line("certificate", "none: plain text")
	}
}

func reachable(yes bool) string {
	if yes {
		return "reachable"
	}
	return "not reachable"
}

func counts(of map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%d %s", of[name], name))
	}
	return strings.Join(parts, ", ")
}

// or returns text, or what stands for its absence.
func or(text, without string) string {
	if text == "" {
		return without
	}
	return text
}
