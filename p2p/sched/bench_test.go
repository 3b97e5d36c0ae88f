package sched

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// cluster is hosts in some data centres that all want some blobs of 94 MiB.
type cluster struct {
	s     *State
	now   time.Time
	ids   []p2p.HostID
	blobs []p2p.Blob
}

func (c *cluster) handle(b testing.TB, id p2p.HostID, m p2p.Message) []Send {
	sends, err := c.s.Handle(c.now, id, m)
	if err != nil {
		b.Fatal(err)
	}
	return sends
}

func (c *cluster) announce(b testing.TB, i int, seed bool) {
	c.handle(b, c.ids[i], p2p.Announce{Host: p2p.Host{
		ID: c.ids[i], Addr: "10.0.0.1:65002", IDC: fmt.Sprint("idc-", i%4), Share: true, Seed: seed,
	}})
}

func (c *cluster) want(b testing.TB, i, j int) []Send {
	return c.handle(b, c.ids[i], p2p.Want{Blob: c.blobs[j], Origin: p2p.Origin{Registry: "docker.io", Repository: "library/python"}})
}

func newCluster(b testing.TB, hosts, blobs int) *cluster {
	c := &cluster{s: New(Config{}), now: time.Unix(0, 0)}
	for i := range hosts {
		c.ids = append(c.ids, p2p.HostID(fmt.Sprintf("host-%05d", i)))
		c.announce(b, i, i < 3)
	}
	for j := range blobs {
		c.blobs = append(c.blobs, p2p.Blob{Digest: digest.FromString(fmt.Sprint(j)), Size: 94 << 20})
	}
	return c
}

// wanted is a cluster in which every host wants every blob, and time has passed.
func wanted(b testing.TB, hosts, blobs int) *cluster {
	c := newCluster(b, hosts, blobs)
	for i := 3; i < hosts; i++ {
		for j := range blobs {
			c.want(b, i, j)
		}
	}
	return c
}

// cpu returns the processor's time that this thread has taken: what else runs on
// the machine does not count.
func cpu(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// measure runs what fn returns and reports the slowest of a hundred calls, and of
// all. What fn does itself is not measured.
func measure(b *testing.B, fn func(i int) func()) {
	took := make([]time.Duration, 0, b.N)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		call := fn(i)
		b.StartTimer()
		t := cpu(b)
		call()
		took = append(took, cpu(b)-t)
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-cpu-µs")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-cpu-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}

// Decisions in a cluster of 10,000 hosts that all want the same 100 blobs.
func BenchmarkDecisions(b *testing.B) {
	c := wanted(b, 10_000, 100)
	host := func(i int) int { return 3 + i*7919%(len(c.ids)-3) }
	b.Run("want", func(b *testing.B) {
		measure(b, func(i int) func() {
			j := i % len(c.blobs)
			c.handle(b, c.ids[host(i)], p2p.Unwant{Digest: c.blobs[j].Digest})
			return func() { c.want(b, host(i), j) }
		})
	})
	b.Run("leave", func(b *testing.B) { // its children get other parents
		measure(b, func(i int) func() {
			j := i % len(c.blobs)
			c.want(b, host(max(0, i-1)), max(0, i-1)%len(c.blobs))
			c.want(b, host(i), j) // it may be the one that a shorter run ended with
			return func() { c.handle(b, c.ids[host(i)], p2p.Unwant{Digest: c.blobs[j].Digest}) }
		})
	})
	b.Run("progress", func(b *testing.B) { // two pieces and what was measured of two parents
		w := c.s.swarms[c.blobs[0].Digest]
		measure(b, func(i int) func() {
			p := w.peers[i*31%len(w.peers)]
			m := p2p.Progress{Digest: w.blob.Digest, Got: []int{i % 90, i % 91}}
			if p.links != nil {
				for _, q := range p.links[i%8].parents[:2] {
					if q != nil {
						m.From = append(m.From, p2p.Transfer{Parent: q.host.ID, Bytes: 1 << 20, Took: time.Second})
					}
				}
			}
			return func() { c.handle(b, p.host.ID, m) }
		})
	})
	b.Run("failure", func(b *testing.B) { // a child that needs another parent
		w := c.s.swarms[c.blobs[1].Digest]
		measure(b, func(i int) func() {
			c.now = c.now.Add(time.Minute)
			p := w.peers[i*31%len(w.peers)]
			m := p2p.Progress{Digest: w.blob.Digest}
			if p.links != nil && p.links[i%8].parents[0] != nil {
				m.From = []p2p.Transfer{{Parent: p.links[i%8].parents[0].host.ID, Failed: p2p.Stalled}}
			}
			return func() { c.handle(b, p.host.ID, m) }
		})
	})
	b.Run("tick", func(b *testing.B) {
		measure(b, func(int) func() {
			c.now = c.s.Next()
			return func() { c.s.Tick(c.now) }
		})
	})
	b.Run("death", func(b *testing.B) { // of a host that wants all blobs, and the ticks that it takes
		dead := -1
		measure(b, func(i int) func() {
			if len(c.s.leaving)+len(c.s.orphans) > 0 {
				return func() { c.s.Tick(c.now) }
			}
			if dead >= 0 {
				c.announce(b, dead, false)
				for j := range c.blobs {
					c.want(b, dead, j)
				}
			}
			dead = host(i)
			return func() { c.s.Disconnect(c.now, c.ids[dead]) }
		})
	})
	b.Run("ban", func(b *testing.B) { // of a host that wants all blobs, and the ticks that it takes
		measure(b, func(i int) func() {
			if len(c.s.leaving)+len(c.s.orphans) > 0 {
				return func() { c.s.Tick(c.now) }
			}
			h := c.s.hosts[c.ids[host(i)]]
			return func() {
				c.s.ban(h, "wrong bytes")
				c.s.finish()
			}
		})
	})
	b.Run("tell", func(b *testing.B) { // the sum of a piece, to all who want the blob
		measure(b, func(i int) func() {
			c.now = c.now.Add(time.Second)
			m := p2p.Digests{Digest: c.blobs[3].Digest, First: i % c.blobs[3].Pieces(), Sums: []p2p.Sum{{byte(i), byte(i >> 8)}}}
			return func() { c.handle(b, c.ids[0], m) }
		})
	})
	b.Run("inventory", func(b *testing.B) { // one of the many blobs that a host announces when it comes
		measure(b, func(i int) func() {
			blob := p2p.Blob{Digest: digest.FromString(fmt.Sprint("kept ", i)), Size: 1 << 20}
			m := p2p.Inventory{Blob: blob, Have: p2p.FullHave(blob.Pieces())}
			return func() { c.handle(b, c.ids[host(i)], m) }
		})
	})
}

// All hosts of a cluster want the same blob, one after the other.
func BenchmarkJoin(b *testing.B) {
	for _, hosts := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) {
			c := newCluster(b, hosts, 0)
			measure(b, func(i int) func() {
				h := 3 + i%(hosts-3)
				if h == 3 { // the next blob
					c.blobs = []p2p.Blob{{Digest: digest.FromString(fmt.Sprint(i)), Size: 1 << 30}}
				}
				return func() { c.want(b, h, 0) }
			})
		})
	}
}

// Memory of a host that has, or wants, a blob.
func BenchmarkMemory(b *testing.B) {
	const hosts, blobs = 2_000, 50
	for _, complete := range []bool{false, true} {
		b.Run(map[bool]string{false: "wanting", true: "complete"}[complete], func(b *testing.B) {
			for b.Loop() {
				before := heap()
				c := wanted(b, hosts, blobs)
				if complete {
					for i := 3; i < hosts; i++ {
						for _, blob := range c.blobs {
							c.handle(b, c.ids[i], p2p.Inventory{Blob: blob, Have: p2p.FullHave(blob.Pieces())})
						}
					}
				}
				b.ReportMetric(float64(heap()-before)/(hosts*blobs), "B/(host,blob)")
				runtime.KeepAlive(c)
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
