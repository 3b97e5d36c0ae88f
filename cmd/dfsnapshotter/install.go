package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/install"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// installer is the command that configures runtimes.
type installer struct {
	install.Config
	write, undo, restart bool
	out                  io.Writer
}

func installCommand(p *program) *cobra.Command {
	i := &installer{Config: install.Config{
		Containerd: "containerd", ContainerdConfig: "/etc/containerd/config.toml", CRI: true,
		DockerConfig: "/etc/docker/daemon.json", Registries: "/etc/containers/registries.conf",
		State: "/etc/dfsnapshotter/install",
	}}
	cmd := &cobra.Command{
		Use:   "install [containerd|docker|cri-o]...",
		Short: "Make containerd, Docker, CRI-O and podman on this machine use dfsnapshotter",
		Long: `Shows what has to be changed in the configuration of what runs containers here,
of all that is found or of those that are named, and with --write changes it.
containerd gets a drop-in with the snapshotter, and the registry mirror in
hosts.toml files; Docker the mirror in daemon.json; CRI-O, podman, skopeo and
buildah in registries.conf. Comments and other settings stay. What containerd
would make of it is looked at first (containerd config dump): if anything else
would change, nothing is written. What there was is kept, and --undo --write puts
it back. Nothing is restarted without --restart.`,
		Args: daemon.Args(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.Config()
			if err != nil {
				return err
			}
			i.out = cmd.OutOrStdout()
			i.Address, i.Root, i.HostsDir = c.Address, c.Root, c.Registry.HostsDir
			i.Mirror, i.Upstream = c.Mirror.Listen, c.Mirror.Upstream
			return i.run(cmd.Context(), args)
		},
		ValidArgs: []string{string(install.Containerd), string(install.Docker), string(install.CRIO)},
	}
	f := cmd.Flags()
	f.BoolVar(&i.write, "write", false, "change the files; without it they are shown")
	f.BoolVar(&i.undo, "undo", false, "put back what there was")
	f.BoolVar(&i.restart, "restart", false, "make the services take notice (containerd restarts, containers go on)")
	f.BoolVar(&i.CRI, "cri", i.CRI, "Kubernetes' images use the snapshotter")
	f.StringVar(&i.Containerd, "containerd", i.Containerd, "containerd's program")
	f.StringVar(&i.ContainerdConfig, "containerd-config", i.ContainerdConfig, "containerd's configuration")
	f.StringVar(&i.DockerConfig, "docker-config", i.DockerConfig, "Docker's configuration")
	f.StringVar(&i.Registries, "registries-conf", i.Registries, "configuration of CRI-O, podman, skopeo and buildah")
	f.StringVar(&i.State, "state", i.State, "folder for what there was")
	return cmd
}

func (i *installer) run(ctx context.Context, args []string) error {
	for _, path := range []*string{&i.ContainerdConfig, &i.DockerConfig, &i.Registries, &i.State} {
		abs, err := filepath.Abs(*path) // it stands in what is written
		if err != nil {
			return err
		}
		*path = abs
	}
	runtimes, err := i.runtimes(args)
	if err != nil {
		return err
	}
	if i.undo {
		plan, err := i.Undo(runtimes)
		if err != nil {
			return err
		}
		return i.finish(ctx, plan, func() error { return i.Revert(plan) })
	}
	var plans []*install.Plan
	for _, r := range runtimes { // all are planned before anything is written
		plan, err := i.Plan(ctx, r)
		if err != nil && len(runtimes) > 1 {
			return fmt.Errorf("%w\nNothing was changed; the others can be named: dfsnapshotter install %s", err, other(runtimes, r))
		}
		if err != nil {
			return err
		}
		plans = append(plans, plan)
	}
	for _, plan := range plans {
		if err := i.finish(ctx, plan, func() error { return i.Apply(ctx, plan) }); err != nil {
			return err
		}
	}
	return nil
}

// other returns one of runtimes that is not r.
func other(runtimes []install.Runtime, r install.Runtime) install.Runtime {
	return runtimes[slices.IndexFunc(runtimes, func(o install.Runtime) bool { return o != r })]
}

// runtimes are those that were asked for, or else those that are here.
func (i *installer) runtimes(args []string) (all []install.Runtime, err error) {
	for _, a := range args {
		if a == "podman" || a == "crio" {
			a = string(install.CRIO)
		}
		if !slices.Contains(install.Runtimes, install.Runtime(a)) {
			return nil, fmt.Errorf("%q is none of containerd, docker and cri-o", a)
		}
		all = append(all, install.Runtime(a))
	}
	switch {
	case len(all) > 0:
		return all, nil
	case i.undo:
		return install.Runtimes, nil
	}
	if all = i.Found(); len(all) == 0 {
		return nil, errors.New("neither containerd nor Docker, CRI-O or podman is here: name one, and where its files are (--help)")
	}
	return all, nil
}

// finish shows a plan, and carries it out if that is wished.
func (i *installer) finish(ctx context.Context, plan *install.Plan, do func() error) error {
	for _, c := range plan.Changes {
		diff, err := c.Diff()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprint(i.out, diff); err != nil {
			return err
		}
	}
	for _, n := range plan.Notes {
		fmt.Fprintln(i.out, "note:", n)
	}
	switch {
	case len(plan.Changes) == 0:
		fmt.Fprintln(i.out, "nothing to change")
		if i.undo && i.write {
			return do() // forgets what others have undone
		}
		i.unchanged(plan.Units)
		return nil
	case !i.write:
		fmt.Fprintln(i.out, "nothing was changed: --write does it")
		return nil
	}
	if err := do(); err != nil {
		return err
	}
	for _, c := range plan.Changes {
		fmt.Fprintln(i.out, "wrote", c.Path)
	}
	return i.notify(ctx, plan.Units)
}

// unchanged tells who wanted services to take notice that none was made to: they have
// done it, or an earlier call changed the files and did not restart them.
func (i *installer) unchanged(units []install.Unit) {
	for _, u := range units {
		if i.restart && u.Here() {
			fmt.Fprintf(i.out, "%s was left alone; if it has not taken notice of its files yet: systemctl %s %s\n", u.Name, u.Verb, u.Name)
		}
	}
}

// notify makes services take notice, or says how that is done. One that does not is no
// reason to leave out the others.
func (i *installer) notify(ctx context.Context, units []install.Unit) error {
	var failed []error
	for _, u := range units {
		if !u.Here() {
			continue
		}
		if !i.restart {
			fmt.Fprintf(i.out, "to make it hold: systemctl %s %s\n", u.Verb, u.Name)
			continue
		}
		if err := install.Notify(ctx, u); err != nil {
			failed = append(failed, i.advise(u, err))
			continue
		}
		fmt.Fprintf(i.out, "systemctl %s %s: done\n", u.Verb, u.Name)
	}
	return errors.Join(failed...)
}

// advise says what can be done about a service that did not take notice.
func (i *installer) advise(u install.Unit, err error) error {
	if i.undo {
		return fmt.Errorf("%w\nIts files are as they were before. See journalctl -u %s, then: systemctl %s %s", err, u.Name, u.Verb, u.Name)
	}
	return fmt.Errorf(`%w
What was written stays. See journalctl -u %s, then try again:
  systemctl %s %s
or put back what there was, with the options of this call:
  dfsnapshotter install %s --undo --write --restart`, err, u.Name, u.Verb, u.Name, u.Name)
}
