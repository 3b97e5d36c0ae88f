package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

// demo starts an image once in each mode, and shows what that took.
func (n *node) demo(ctx context.Context, args []string) error {
	var refs map[imagetest.Form]string
	var err error
	var command []string
	if len(args) == 0 {
		progress("making a python image from Debian packages (the first time takes a minute)")
		refs, err = n.push(ctx, "python", imagetest.Gzip, imagetest.EStargz)
	} else {
		progress("copying %s into a registry of the demo", args[0])
		refs, err = n.copy(ctx, args[0])
		command = args[1:]
	}
	if err != nil {
		return err
	}
	t := newTable("\nOne container, started from nothing over a link of 200 Mbit/s:")
	began := time.Now()
	err = n.round(ctx, refs, func(m mode, s start) {
		name := m.name
		if m.snapshotter == ours {
			name = "dfsnapshotter, " + name
		}
		progress("%4.0f s  %-32s ready after %.2f s, %.1f MiB from the registry", time.Since(began).Seconds(), name, s.Ready, s.MiB)
		t.add(name, "s", "time to ready", s.Ready)
		t.add(name, "s", "from the registry", s.MiB)
	}, command...)
	if err != nil {
		return err
	}
	fmt.Println(t.title)
	fmt.Printf("  %-34s %-16s %s\n", "", "time to ready", "from the registry")
	for _, row := range t.rows {
		ready, _ := t.median(row, "time to ready")
		mib, _ := t.median(row, "from the registry")
		fmt.Printf("  %-34s %6.2f s         %6.1f MiB\n", row, ready, mib)
	}
	return nil
}

// copy copies an image of a public registry into the node's, as it is.
func (n *node) copy(ctx context.Context, ref string) (map[imagetest.Form]string, error) {
	local := n.registry.Host + "/demo/image:1"
	for _, args := range [][]string{
		{"content", "fetch", ref},
		{"images", "tag", ref, local},
		{"images", "push", "--hosts-dir", n.HostsDir(), "--platform", "linux/" + runtime.GOARCH, local},
		{"images", "rm", "--sync", ref, local},
	} {
		if _, err := n.containerd.Ctr(ctx, append([]string{"-n", namespace}, args...)...); err != nil {
			return nil, err
		}
	}
	return map[imagetest.Form]string{imagetest.Gzip: local}, nil
}
