package sched

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// crowd is hosts of which each wants each of some blobs, and a seed.
func crowd(t *testing.T, hosts, blobs int) *cluster {
	t.Helper()
	c := &cluster{s: New(Config{}), now: time.Unix(0, 0)}
	for j := range blobs {
		c.blobs = append(c.blobs, p2p.Blob{Digest: digest.FromString(fmt.Sprint(j)), Size: 94 << 20})
	}
	for i := range hosts {
		c.ids = append(c.ids, p2p.HostID(fmt.Sprintf("host-%05d", i)))
		c.announce(t, i, i == 0)
		for j := 0; i > 0 && j < blobs; j++ {
			c.want(t, i, j)
		}
	}
	check(t, c.s)
	return c
}

// drain does what calls have left, and returns in how many ticks and what was said.
func (c *cluster) drain(t *testing.T) (ticks int, said []Send) {
	t.Helper()
	for len(c.s.leaving)+len(c.s.orphans) > 0 {
		if next := c.s.Next(); next.IsZero() || next.After(c.now) {
			t.Fatalf("%d are to leave and %d have no parents, and the next tick is at %v", len(c.s.leaving), len(c.s.orphans), next)
		}
		if ticks++; ticks > 10_000 {
			t.Fatal("no end of ticks")
		}
		said = append(said, c.s.Tick(c.now)...)
		if ticks < 10 { // it takes long
			check(t, c.s)
		}
	}
	check(t, c.s)
	return ticks, said
}

// busiest returns the host that serves most.
func (c *cluster) busiest() (best int) {
	most := 0
	for i, id := range c.ids {
		n := 0
		for _, p := range c.s.hosts[id].peers {
			n += int(p.prim)
		}
		if n > most && i > 0 {
			best, most = i, n
		}
	}
	return best
}

// Whoever leaves, the call does little, and soon all have parents again, none of
// whom has left.
func TestLeaveBitByBit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ hosts, blobs int }{"broad": {broad + 20, 5}, "small": {40, 30}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := crowd(t, c.hosts, c.blobs)
			gone := c.ids[c.busiest()]
			sends := c.s.Disconnect(c.now, gone)
			check(t, c.s)
			if len(c.s.leaving) == 0 {
				t.Error("it left all of its swarms in one call")
			}
			ticks, said := c.drain(t)
			if ticks < 2 {
				t.Errorf("the rest was done in %d ticks", ticks)
			}
			told := 0
			for _, m := range append(sends, said...) {
				if m.To == gone {
					t.Errorf("it was told %T", m.Message)
				}
				if p, ok := m.Message.(p2p.Parents); ok {
					told++
					for st, list := range p.Stripes {
						if len(list) == 0 {
							t.Errorf("%s has no parent in stripe %d of %s", m.To, st, p.Digest)
						}
					}
				}
			}
			if told == 0 {
				t.Error("nobody was told of other parents")
			}
			for _, w := range c.s.swarms {
				for _, p := range w.peers {
					if p.host.ID == gone || p.wants && p.role != source && p.orphaned() {
						t.Fatalf("%s of swarm %s has no parent, or has left", p.host.ID, w.blob.Digest)
					}
				}
			}
		})
	}
}

// Who is back before it has left everywhere is in each swarm once.
func TestBackBeforeLeft(t *testing.T) {
	t.Parallel()
	c := crowd(t, 40, 30)
	i := c.busiest()
	c.s.Disconnect(c.now, c.ids[i])
	if len(c.s.leaving) == 0 {
		t.Fatal("it left everywhere at once")
	}
	c.announce(t, i, false)
	check(t, c.s)
	if len(c.s.leaving) > 0 || len(c.s.hosts[c.ids[i]].peers) > 0 {
		t.Errorf("it is to leave %d swarms, and in %d", len(c.s.leaving), len(c.s.hosts[c.ids[i]].peers))
	}
	for j := range c.blobs {
		c.want(t, i, j)
	}
	c.drain(t)
	if n := len(c.s.hosts[c.ids[i]].peers); n != len(c.blobs) {
		t.Errorf("it is in %d swarms of %d", n, len(c.blobs))
	}
}

// An orphan that leaves, or gets all it wants, before its turn has come is no
// orphan any more.
func TestOrphanGone(t *testing.T) {
	t.Parallel()
	c := crowd(t, broad+20, 1)
	w := c.s.swarms[c.blobs[0].Digest]
	c.s.Disconnect(c.now, c.ids[c.busiest()])
	if len(c.s.orphans) < 2 {
		t.Fatalf("%d orphans", len(c.s.orphans))
	}
	c.handle(t, c.s.orphans[0].host.ID, p2p.Unwant{Digest: w.blob.Digest})
	check(t, c.s)
	last := c.s.orphans[len(c.s.orphans)-1]
	c.handle(t, last.host.ID, p2p.Inventory{Blob: w.blob, Have: p2p.FullHave(w.blob.Pieces())})
	check(t, c.s)
	if _, said := c.drain(t); len(said) > 0 {
		for _, m := range said {
			if _, ok := m.Message.(p2p.Parents); ok && m.To == last.host.ID {
				t.Error("who has everything was told of parents")
			}
		}
	}
}

// Many die at once, as when a rack loses its power: all others have parents again
// after the ticks that this takes.
func TestManyDie(t *testing.T) {
	t.Parallel()
	c := crowd(t, broad+100, 2)
	sum := sha256.Sum256([]byte("who"))
	for k := range 60 {
		c.s.Disconnect(c.now, c.ids[1+(int(sum[k%32])*31+k*97)%(len(c.ids)-1)])
	}
	c.drain(t)
	for _, w := range c.s.swarms {
		for _, p := range w.peers {
			if p.wants && p.role != source && p.orphaned() {
				t.Fatalf("%s has no parent", p.host.ID)
			}
		}
	}
}
