package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfget/containerd"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfget/doctor"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
)

// Exit codes of dfget doctor.
const (
	exitSick   = 8 // something does not work
	exitUneasy = 9 // something should be looked at
)

func doctorCommand() *cobra.Command {
	d := doctor.Doctor{}
	var at agentFlag
	var account accountFlag
	var asJSON, noPull, strict bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Find out what does not work on this host, and say what to change", Args: daemon.NoArgs,
		Long: `dfget doctor looks at the agent, its disk, registry mirror, schedulers, manager and
certificate, at the clock, and at containerd: its version, the settings of the transfer
service and of CRI, the socket, whether it sees the mounts, and whether an image that it
pulls is served. For that it pulls a tiny image, from a registry on 127.0.0.1 that lives
as long, and removes it.

The exit code is 0 when all works, 8 when something does not, and with --strict 9 when
there are warnings.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.Socket, d.Pull = at.socket, !noPull
			if a, err := account.load(); err == nil { // without one there is a clock less to compare with
				d.Manager = a.URL
			}
			all := d.Check(cmd.Context())
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			show := printFindings
			if asJSON {
				show = func(w io.Writer, all []doctor.Finding) error { return terminal.JSON(w, all) }
			}
			if err := show(cmd.OutOrStdout(), all); err != nil {
				return err
			}
			switch worst := doctor.Worst(all); {
			case worst == doctor.Failed:
				return daemon.ExitError{Code: exitSick, Err: errors.New("something does not work")}
			case worst == doctor.Warning && strict:
				return daemon.ExitError{Code: exitUneasy, Err: errors.New("there are warnings")}
			}
			return nil
		},
	}
	at.add(cmd)
	f := cmd.Flags()
	f.StringVar(&d.Containerd, "containerd", containerd.Socket, `socket of containerd; "" if there is none`)
	f.StringVar(&d.Snapshotter, "snapshotter", "dfsnapshotter", "name of the snapshotter in containerd's configuration")
	f.BoolVar(&d.Kubernetes, "kubernetes", false, "kubelets use this containerd: what keeps them from lazy images is a failure")
	f.BoolVar(&noPull, "no-pull", false, "pull no test image")
	f.BoolVar(&strict, "strict", false, "have warnings, too, make the exit code one of a failure")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printFindings(w io.Writer, all []doctor.Finding) error {
	for _, f := range all {
		if _, err := fmt.Fprintf(w, "%-8s %-13s %s\n", f.State, f.Check, f.Text); err != nil {
			return err
		}
		for line := range strings.Lines(f.Fix) {
			if _, err := fmt.Fprintf(w, "%22s   %s\n", "", strings.TrimRight(line, "\n")); err != nil {
				return err
			}
		}
	}
	return nil
}
