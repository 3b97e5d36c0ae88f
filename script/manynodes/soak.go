package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

// usage is what a daemon that lives as long as the soak uses.
type usage struct{ goroutines, heap, resident float64 }

// soak starts images again and again for a time: each round half of the nodes
// have nothing, the others, the seed and the scheduler go on. It is an error if
// one of those needs more and more.
func (c *cluster) soak(ctx context.Context, rate string, limit time.Duration) error {
	if err := c.SetLinks(rate); err != nil {
		return err
	}
	if err := c.Use(ctx, true, 1); err != nil {
		return err
	}
	var early, late map[string]usage
	end := time.Now().Add(limit)
	for i := 0; time.Now().Before(end); i++ {
		for _, form := range []imagetest.Form{imagetest.Gzip, imagetest.EStargz} {
			r, whole, err := c.wave(ctx, way{string(form), ours, form, false, true, 1, false, false}, c.Nodes)
			if err == nil {
				r.Whole, err = whole()
			}
			if err != nil {
				return fmt.Errorf("round %d: %w", i+1, err)
			}
			progress("round %d, %s: slowest %.2f s, registry %.1f MiB", i+1, form, r.Slowest, r.Whole)
			if err := c.Collect(ctx, c.Nodes, c.images[form].ref); err != nil {
				return err
			}
		}
		for _, n := range c.Nodes[len(c.Nodes)/2:] {
			if err := n.Daemon.Reset(ctx); err != nil {
				return err
			}
		}
		var err error
		if late, err = c.usage(ctx); err != nil {
			return err
		}
		if i == 1 { // caches and pools are as full as they get
			early = late
		}
	}
	return grown(early, late)
}

// usage asks the daemons that are never restarted.
func (c *cluster) usage(ctx context.Context) (map[string]usage, error) {
	all := map[string]usage{}
	ask := func(name string, metrics func(context.Context) (map[string]float64, error)) error {
		m, err := metrics(ctx)
		all[name] = usage{m["go_goroutines"], m["go_memstats_heap_inuse_bytes"], m["process_resident_memory_bytes"]}
		u := all[name]
		progress("  %-10s %4.0f goroutines, heap %5.1f MiB, resident %5.1f MiB", name, u.goroutines, u.heap/(1<<20), u.resident/(1<<20))
		return err
	}
	err := ask("scheduler", c.Scheduler.Metrics)
	for _, n := range append([]*lab.Node{c.Seeds[0]}, c.Nodes[:len(c.Nodes)/2]...) {
		err = errors.Join(err, ask(n.Name, n.Daemon.Metrics))
	}
	return all, err
}

// grown says what has grown by more than chance. Resident memory is left to
// the eye: it follows the page cache of what is mapped.
func grown(early, late map[string]usage) error {
	if early == nil {
		return errors.New("soak: too short to tell")
	}
	var err error
	for name, e := range early {
		l := late[name]
		if l.goroutines > 1.3*e.goroutines+20 {
			err = errors.Join(err, fmt.Errorf("soak: %s has %.0f goroutines, early on %.0f", name, l.goroutines, e.goroutines))
		}
		if l.heap > 1.5*e.heap+(16<<20) {
			err = errors.Join(err, fmt.Errorf("soak: %s has a heap of %.1f MiB, early on %.1f", name, l.heap/(1<<20), e.heap/(1<<20)))
		}
	}
	return err
}
