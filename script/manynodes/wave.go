package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

const (
	silence = 15 * time.Minute // after which a container without output is given up
	grace   = 3 * time.Second  // for a container to end by itself, once it is ready
)

// row is what one wave of starts took.
type row struct {
	Rate, Way string
	Wave      int
	Hosts     int
	Slowest   float64 // seconds to ready
	Median    float64
	Pull      float64 // seconds, of the slowest
	Egress    float64 // MiB over the registry's link until all are ready
	Layers    float64 // MiB of layers that the registry sent until then
	To        string  // to whom
	Whole     float64 // MiB over the registry's link until all layers are complete; only with P2P
	Size      float64 // MiB of the image's layers
	CPU       float64 // seconds per host, of the snapshotter
	Theirs    float64 // seconds per host, of containerd
	Others    float64 // seconds per host, of all that runs on this machine but snapshotters, seeds among them
	Received  float64 // MiB that each of the wave's hosts received, on the average
	SeedCPU   float64 // seconds, of all seeds
	SeedSent  float64 // MiB
	PeerSent  float64 // MiB that the wave's host sent that sent most
	Profiled  float64 // lazy layers per host of which the cluster knew what is read first
	Reads     float64 // per host, of lazy layers from the container's start until it is ready
	Prompt    float64 // part of them that waited less than 20 ms for bytes
	Complete  float64 // seconds in which as many containers are ready that start from complete layers; only of the last of several waves
}

// measure measures each way at each rate, and shows the figures at the end.
func (c *cluster) measure(ctx context.Context, rates []string, rounds, waves int) error {
	for _, rate := range rates {
		if err := c.SetLinks(rate); err != nil {
			return err
		}
		for _, w := range c.ways {
			if err := c.Registry.SetRate(c.registryRate(w, rate)); err != nil {
				return err
			}
			for range rounds {
				if err := c.try(ctx, rate, w, waves); err != nil {
					return fmt.Errorf("%s at %s: %w", w.name, rate, err)
				}
			}
		}
	}
	fmt.Println(table(c.rows))
	return nil
}

// registryRate is how fast the registry sends where hosts' links have a rate, such as
// 20mbit.
func (c *cluster) registryRate(w way, rate string) string {
	unit := strings.TrimLeft(rate, "0123456789")
	n, err := strconv.Atoi(strings.TrimSuffix(rate, unit))
	if err != nil || !w.wide {
		return rate
	}
	return strconv.Itoa(n*c.count) + unit
}

// try measures a way from nothing: one wave and, with P2P, a second one on other
// hosts.
func (c *cluster) try(ctx context.Context, rate string, w way, waves int) error {
	if err := c.use(ctx, w); err != nil {
		return err
	}
	count := c.count
	if w.alone {
		count = 1
	}
	if w.alone || !w.p2p {
		waves = 1
	}
	for i := range waves {
		nodes := c.Nodes[i*count : (i+1)*count]
		if i > 1 {
			if err := c.recorded(ctx, c.Nodes[(i-1)*count:i*count], c.images[w.form].lazy); err != nil {
				return err
			}
		}
		r, whole, err := c.wave(ctx, w, nodes)
		if err != nil {
			return err
		}
		r.Rate, r.Way, r.Wave = rate, w.name, i+1
		progress("%s, %s, wave %d: slowest %.2f s, median %.2f s, registry %.1f MiB: %s", rate, w.name, i+1, r.Slowest, r.Median, r.Egress, r.To)
		if waves > 1 {
			if r.Whole, err = whole(); err != nil {
				return err
			}
		}
		if waves > 1 && i == waves-1 {
			if r.Complete, err = c.fromComplete(ctx, w, nodes); err != nil {
				return err
			}
		}
		c.rows = append(c.rows, r)
	}
	return c.Collect(ctx, c.Nodes[:waves*count], c.images[w.form].ref)
}

// fromComplete returns the seconds in which containers are ready on nodes that have
// nothing to wait for any more, but for each other: they all start at once.
func (c *cluster) fromComplete(ctx context.Context, w way, nodes []*lab.Node) (slowest float64, err error) {
	began := time.Now()
	tasks := make([]*lab.Container, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() (err error) {
			tasks[i], err = c.startOn(ctx, w, n, "complete")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	slowest = time.Since(began).Seconds()
	for _, t := range tasks {
		err = errors.Join(err, t.Stop(ctx, grace))
	}
	return slowest, err
}

// startOn starts a container on a node that has pulled the image, and returns
// when it is ready.
func (c *cluster) startOn(ctx context.Context, w way, n *lab.Node, what string) (*lab.Container, error) {
	id := fmt.Sprintf("%s%d-%s", what, c.waves, n.Name) // cgroups are named by it
	t, err := c.clients[n].Start(ctx, w.snapshotter, c.images[w.form].ref, id, silence)
	if err == nil && t.Line != "ready" {
		err = fmt.Errorf("the container printed %q", t.Line)
	}
	return t, err
}

// recorded waits until it is known what the containers of nodes have read first of
// each layer.
func (c *cluster) recorded(ctx context.Context, nodes []*lab.Node, layers int) error {
	for _, n := range nodes {
		err := lab.Eventually(ctx, 2*time.Minute, func() error {
			m, err := n.Daemon.Metrics(ctx)
			if got := int(m["dfsnapshotter_profiles_recorded_total"]); err == nil && got < layers {
				err = fmt.Errorf("%s has recorded starts of %d layers of %d", n.Name, got, layers)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// wave starts the image on nodes at once. whole waits until all layers are
// complete, and says how much the registry has sent then.
func (c *cluster) wave(ctx context.Context, w way, nodes []*lab.Node) (_ row, whole func() (float64, error), _ error) {
	img := c.images[w.form]
	c.waves++
	syscall.Sync() // what earlier waves have written is no cost of this one
	before, err := c.counts(ctx, nodes, w.seeds, img)
	if err != nil {
		return row{}, nil, err
	}
	ready, pulled := make([]float64, len(nodes)), make([]float64, len(nodes))
	tasks := make([]*lab.Container, len(nodes))
	began := time.Now()
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() (err error) {
			if err := c.clients[n].Pull(ctx, w.snapshotter, img.ref); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			pulled[i] = time.Since(began).Seconds()
			if tasks[i], err = c.startOn(ctx, w, n, "w"); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			ready[i] = time.Since(began).Seconds()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return row{}, nil, err
	}
	after, err := c.counts(ctx, nodes, w.seeds, img)
	if err != nil {
		return row{}, nil, err
	}
	r := after.since(before)
	r.To = c.to(before, after)
	slices.Sort(ready)
	r.Hosts, r.Slowest, r.Median, r.Pull = len(nodes), ready[len(ready)-1], ready[len(ready)/2], slices.Max(pulled)
	r.Size = mib(img.size)
	for _, t := range tasks {
		err = errors.Join(err, t.Stop(ctx, grace))
	}
	return r, func() (float64, error) {
		for _, n := range nodes {
			if err := n.Daemon.Complete(ctx, 20*time.Minute); err != nil {
				return 0, fmt.Errorf("%s: %w", n.Name, err)
			}
		}
		whole, err := c.counts(ctx, nodes, w.seeds, img)
		progress("all layers complete: %s", c.to(before, whole))
		return whole.since(before).Egress, err
	}, err
}

// to says which hosts the registry has sent how many MiB of layers in between.
func (c *cluster) to(before, after counters) (text string) {
	for _, h := range append(append([]*lab.Node{}, c.Seeds...), c.Nodes...) {
		if n := after.to[h.IP] - before.to[h.IP]; n > 0 {
			text += fmt.Sprintf("%s %.1f ", h.Name, mib(n))
		}
	}
	return text
}

// counters are what has been used so far.
type counters struct {
	egress, layers int64
	to             map[string]int64 // of layers, by address
	machine        time.Duration    // by all that runs on it
	daemons        time.Duration
	containerds    time.Duration
	seeds          time.Duration
	seedSent       int64
	sent           []int64 // by node
	received       int64
	profiled       float64
	reads, late    float64
}

func (c *cluster) counts(ctx context.Context, nodes []*lab.Node, seeds int, img image) (n counters, err error) {
	n.to = map[string]int64{}
	if n.machine, err = lab.MachineCPU(); err != nil {
		return n, err
	}
	if n.egress, err = c.Registry.Received(); err != nil {
		return n, err
	}
	requests, err := c.Registry.Requests()
	if err != nil {
		return n, err
	}
	for _, q := range requests {
		if _, d, ok := strings.Cut(q.Path, "/blobs/"); ok && img.layers[d] {
			n.layers += q.Bytes
			n.to[q.From] += q.Bytes
		}
	}
	for _, s := range c.Seeds[:seeds] {
		cost, err := s.Daemon.Cost()
		if err != nil {
			return n, err
		}
		t, err := s.Traffic()
		if err != nil {
			return n, err
		}
		n.seeds += cost.CPU
		n.seedSent += t.Sent
	}
	for _, x := range nodes {
		ours, err := x.Daemon.Cost()
		if err != nil {
			return n, err
		}
		if s := c.stargz[x]; s != nil && s.Running() {
			cost, err := s.Cost()
			if err != nil {
				return n, err
			}
			ours.CPU += cost.CPU
		}
		theirs, err := x.Containerd.Cost()
		if err != nil {
			return n, err
		}
		t, err := x.Traffic()
		if err != nil {
			return n, err
		}
		n.daemons += ours.CPU
		n.containerds += theirs.CPU
		n.sent = append(n.sent, t.Sent)
		n.received += t.Received
		m, err := x.Daemon.Metrics(ctx)
		if err != nil {
			return n, err
		}
		n.profiled += m[`dfsnapshotter_profiles_total{from="cluster"}`]
		for _, wait := range []string{"none", "short", "long"} {
			n.reads += m[`dfsnapshotter_start_reads_total{wait="`+wait+`"}`]
		}
		n.late += m[`dfsnapshotter_start_reads_total{wait="long"}`]
	}
	return n, nil
}

// since returns what was used after an earlier count of the same nodes.
func (n counters) since(b counters) row {
	var most int64
	for i := range n.sent {
		most = max(most, n.sent[i]-b.sent[i])
	}
	hosts := float64(len(n.sent))
	reads := n.reads - b.reads
	ours := n.daemons - b.daemons + n.seeds - b.seeds
	return row{
		Egress: mib(n.egress - b.egress), Layers: mib(n.layers - b.layers),
		CPU: (n.daemons - b.daemons).Seconds() / hosts, Theirs: (n.containerds - b.containerds).Seconds() / hosts,
		Others:   (n.machine - b.machine - ours).Seconds() / hosts,
		Received: mib(n.received-b.received) / hosts,
		SeedCPU:  (n.seeds - b.seeds).Seconds(), SeedSent: mib(n.seedSent - b.seedSent), PeerSent: mib(most),
		Profiled: (n.profiled - b.profiled) / hosts, Reads: reads / hosts, Prompt: 1 - (n.late-b.late)/max(reads, 1),
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
