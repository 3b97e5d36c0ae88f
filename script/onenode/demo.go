package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// demo starts an image once in each mode, and shows what that took. args are
// the name of an image of a public registry and a command for it; without any
// the image is one of Debian packages.
func (n *node) demo(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return n.demoPublic(ctx, args[0], args[1:])
	}
	progress("making a python image from Debian packages (the first time takes a minute)")
	refs, err := n.push(ctx, "python", imagetest.Gzip, imagetest.EStargz)
	if err != nil {
		return err
	}
	return n.compare(ctx, refs, func(m mode) string { return m.name })
}

func (n *node) demoPublic(ctx context.Context, image string, command []string) error {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return fmt.Errorf("IMAGE: %q is not the name of an image, such as docker.io/library/python:3.13-slim: %w", image, err)
	}
	progress("copying %s into a registry of the demo", named)
	refs, err := n.copy(ctx, named.String())
	if err != nil {
		return err
	}
	// Its layers may be of any kind.
	label := func(m mode) string { return strings.TrimPrefix(m.name, "gzip, ") }
	err = n.compare(ctx, refs, label, command...)
	if errors.Is(err, lab.ErrSilent) || errors.Is(err, lab.ErrFailed) {
		err = fmt.Errorf("%w\nPut a command that works by itself and prints a line behind the image: make demo IMAGE=\"%s echo hello\"", err, image)
	}
	return err
}

// compare starts a container in each mode that refs has an image for.
func (n *node) compare(ctx context.Context, refs map[imagetest.Form]string, label func(mode) string, command ...string) error {
	var rows []string
	began := time.Now()
	err := n.round(ctx, refs, func(m mode, s start) {
		name := label(m)
		if m.snapshotter == ours {
			name = "dfsnapshotter, " + name
			if layers, err := n.daemon.Layers(ctx); err == nil && len(layers) == 0 {
				name += " (left to containerd)"
			}
		}
		line := "it ended without a word"
		if s.Line != "" {
			line = fmt.Sprintf("it printed %.60q", s.Line)
		}
		progress("%4.0f s  %-33s ready after %.2f s: %s", time.Since(began).Seconds(), name, s.Ready, line)
		rows = append(rows, fmt.Sprintf("  %-40s %6.2f s         %6.1f MiB", name, s.Ready, s.MiB))
	}, command...)
	if err != nil {
		return err
	}
	fmt.Println("\nOne container, started from nothing over a link of 200 Mbit/s:")
	fmt.Printf("  %-40s %-16s %s\n", "", "time to ready", "from the registry")
	fmt.Println(strings.Join(rows, "\n"))
	return nil
}

// copy copies an image of a public registry into the node's: what it has for
// this machine's platform, as it is.
func (n *node) copy(ctx context.Context, ref string) (map[imagetest.Form]string, error) {
	platform := "linux/" + runtime.GOARCH
	local := n.registry.Host + "/demo/image:1"
	if _, err := n.containerd.Ctr(ctx, "-n", namespace, "content", "fetch", "--platform", platform, ref); err != nil {
		said := strings.Split(err.Error(), "ctr: ") // before it, a log
		return nil, fmt.Errorf("IMAGE: %s", said[len(said)-1])
	}
	for _, args := range [][]string{
		{"convert", "--platform", platform, ref, local}, // the list without what was not fetched
		{"push", "--hosts-dir", n.HostsDir(), local},
		{"rm", "--sync", ref, local},
	} {
		if _, err := n.containerd.Ctr(ctx, append([]string{"-n", namespace, "images"}, args...)...); err != nil {
			return nil, err
		}
	}
	return map[imagetest.Form]string{imagetest.Gzip: local}, nil
}
