package sched

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// near is hosts of one data centre, and a seed, that come one after the other, read a
// blob lazily at first, and soon want all of it.
func near(t *testing.T, hosts int) (*cluster, *swarm) {
	t.Helper()
	const lag = 60 // hosts that come before one wants all
	c := &cluster{s: New(Config{}), now: time.Unix(0, 0), blobs: []p2p.Blob{{Digest: digest.FromString("blob"), Size: 1 << 30}}}
	for i := range hosts {
		c.ids = append(c.ids, p2p.HostID(fmt.Sprintf("host-%05d", i)))
		c.handle(t, c.ids[i], p2p.Announce{Host: p2p.Host{ID: c.ids[i], Addr: "10.0.0.1:65002", Share: true, Seed: i == 0}})
		if i > 0 {
			c.handle(t, c.ids[i], p2p.Want{Blob: c.blobs[0], Lazy: true})
		}
		if i > lag {
			c.want(t, i-lag, 0)
		}
	}
	for i := hosts - lag; i < hosts; i++ {
		c.want(t, i, 0)
	}
	check(t, c.s)
	return c, c.s.swarms[c.blobs[0].Digest]
}

// deepest returns how many hosts a piece passes at most on its way from the seed, and
// how many children, as their first parent, the busiest node has.
func (w *swarm) deepest() (depth, children int) {
	for _, p := range w.peers {
		if p.role == node {
			children = max(children, int(p.prim))
		}
		for st := range p.links {
			n := 0
			for q := p.links[st].parents[0]; q != nil && q.links != nil; q = q.links[st].parents[0] {
				n++
			}
			depth = max(depth, n)
		}
	}
	return depth, children
}

// Whoever fails of those through whom hundreds get a stripe, the others are hardly
// further from the seed than before, nobody serves many more, and the seed none.
func TestHeightKept(t *testing.T) {
	t.Parallel()
	for _, hosts := range []int{1000, 3000} {
		c, w := near(t, hosts)
		before, _ := w.deepest()
		for i := range hosts / 12 {
			p := w.peers[(1+i*7919)%len(w.peers)]
			if p.host.Seed {
				continue
			}
			if i%2 == 0 {
				c.s.ban(p.host, "wrong bytes")
				c.s.finish()
			} else {
				c.s.Disconnect(c.now, p.host.ID)
			}
			if i%8 == 0 {
				c.now = c.now.Add(c.s.cfg.Balance)
				c.s.Tick(c.now)
			}
			for len(c.s.leaving)+len(c.s.orphans) > 0 {
				c.s.Tick(c.now)
			}
		}
		check(t, c.s)
		after, children := w.deepest()
		if seed := w.sources[0]; after > before+1 || children > 8+2 || int(seed.prim) > w.stripes {
			t.Errorf("%d hosts: the last one was %d from the seed and is %d, some serve %d, and the seed %d", hosts, before, after, children, seed.prim)
		}
	}
}

// A seed that has several children in a stripe gets rid of those that it should not
// have, whoever hangs on them.
func TestSeedUnloaded(t *testing.T) {
	t.Parallel()
	c, w := near(t, 1000)
	seed := w.sources[0]
	root := seed.links[3].kids[slices.IndexFunc(seed.links[3].kids, func(k *peer) bool { return k.homeIn(3) })]
	for _, k := range slices.Clone(root.links[3].kids)[:3] {
		c.s.detach(k, 3)
		c.s.attach(k, seed, 3, 0)
		c.s.settle(k)
	}
	c.s.finish()
	before, _ := w.deepest()
	for range 8 {
		c.now = c.now.Add(c.s.cfg.Balance)
		c.s.Tick(c.now)
		c.drain(t)
	}
	if after, _ := w.deepest(); seed.prims(3) > 1 || after > before+1 {
		t.Errorf("the seed has %d children in the stripe, the last one was %d from it and is %d", seed.prims(3), before, after)
	}
}

// A parent for when another fails, that one is below by way of such parents only, is in
// the way of a better place no more once that is taken.
func TestLoosened(t *testing.T) {
	t.Parallel()
	c, w := near(t, 1000)
	for _, p := range w.peers {
		if p.role != node {
			continue
		}
		st := int(p.home)
		for _, k := range p.links[st].kids { // a backup edge: p is above k's first parent
			q := k.links[st].parents[0]
			f := search{s: c.s, p: p, st: st}
			if q == p || !p.above(q, st) && k.prims(st) == 0 || f.under(k) {
				continue
			}
			c.s.detach(p, st)
			c.s.attach(p, k, st, 0)
			if slices.Contains(k.links[st].parents[:], p) || p.links[st].parents[0] != k {
				t.Fatalf("%s is above and below %s", p.host.ID, k.host.ID)
			}
			c.s.finish()
			if check(t, c.s); !k.thin {
				t.Errorf("%s does not get another parent", k.host.ID)
			}
			return
		}
	}
	t.Fatal("nobody is a parent for when another fails")
}

// In each data centre there are nodes at home in every stripe, in whatever order hosts
// come: those of another one do not keep each other from the places near to the root.
func TestDataCentres(t *testing.T) {
	t.Parallel()
	c := crowd(t, 1000, 1) // they come from four data centres in turn
	w := c.s.swarms[c.blobs[0].Digest]
	for _, g := range w.groups {
		for st := range g.lanes {
			if n := len(g.lanes[st].peers); n < 1000/4/8-1 {
				t.Errorf("stripe %d is home to %d nodes of a data centre", st, n)
			}
		}
	}
	if deepest, _ := w.deepest(); deepest > 12 {
		t.Errorf("the last one is %d from the seed", deepest)
	}
}
