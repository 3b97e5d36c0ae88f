// Command onenode measures container starts and reads on one node, by
// containerd's overlayfs and by dfsnapshotter, side by side in one run.
//
//	onenode bench [-rounds N] [-json FILE]   all figures
//	onenode demo [IMAGE [COMMAND...]]        one start each, with a small table
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

func main() {
	defer lab.CloseOnSignal()()
	if err := run(context.Background(), os.Args[1:]); err != nil {
		lab.CloseAll()
		fmt.Fprintln(os.Stderr, "onenode:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("bench or demo?")
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	link := flags.String("link", "200mbit", "rate of the registry's link")
	rounds := flags.Int("rounds", 3, "repetitions of each start; reads are repeated at least 7 times")
	only := flags.String("only", "", "start, tree, file, big or hang: measure nothing else")
	jsonFile := flags.String("json", "", "write the figures to this file, too")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	root, err := projectRoot()
	if err != nil {
		return err
	}
	n, err := openNode(ctx, root, *link)
	if err != nil {
		return err
	}
	switch args[0] {
	case "demo":
		err = n.demo(ctx, flags.Args())
	case "bench":
		err = n.bench(ctx, *link, *rounds, *only, *jsonFile)
	default:
		err = fmt.Errorf("bench or demo, not %q", args[0])
	}
	if err != nil {
		return err
	}
	return n.Close()
}

func (n *node) bench(ctx context.Context, link string, rounds int, only, jsonFile string) error {
	python := func(measure func(context.Context, map[imagetest.Form]string, int) (*table, error)) (*table, error) {
		refs, err := n.push(ctx, "python", imagetest.Gzip, imagetest.EStargz)
		if err != nil {
			return nil, err
		}
		return measure(ctx, refs, rounds)
	}
	var all []*table
	for _, part := range []struct {
		name string
		run  func() (*table, error)
	}{
		{"start", func() (*table, error) { return python(n.benchStart) }},
		{"tree", func() (*table, error) { return python(n.benchTree) }},
		{"file", func() (*table, error) { return n.benchFile(ctx, rounds) }},
		{"big", func() (*table, error) { return n.benchBig(ctx, link, rounds) }},
		{"hang", func() (*table, error) { return n.benchHang(ctx, rounds) }},
	} {
		if only != "" && only != part.name {
			continue
		}
		t, err := part.run()
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		all = append(all, t)
		fmt.Println(t)
	}
	if jsonFile == "" {
		return nil
	}
	data, err := json.MarshalIndent(map[string]any{"time": time.Now().UTC(), "tables": all}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(jsonFile, append(data, '\n'), 0o644)
}

func (n *node) benchStart(ctx context.Context, refs map[imagetest.Form]string, rounds int) (*table, error) {
	t := newTable("start of the python image (" + fmt.Sprint(rounds) + " rounds)")
	for i := range rounds {
		progress("start: round %d of %d", i+1, rounds)
		err := n.round(ctx, refs, func(m mode, s start) {
			t.add("time to ready", "s", m.name, s.Ready)
			t.add("  pull", "s", m.name, s.Pull)
			t.add("  create", "s", m.name, s.Create)
			t.add("  run", "s", m.name, s.Run)
			t.add("from the registry", "MiB", m.name, s.MiB)
			t.add("requests", "", m.name, s.Requests)
			if m.snapshotter == ours {
				t.add("daemon, peak resident", "MiB", m.name, s.PeakMiB)
				t.add("daemon, CPU", "s", m.name, s.CPU)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func progress(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
