package p2ptest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A Report is what came of a simulation.
type Report struct {
	Config
	Bound       time.Duration   // below which nobody can be
	Seeded      time.Duration   // until the first piece was on a seed
	First       time.Duration   // until one was on another host
	Makespan    time.Duration   // until the last host that counts had the blob
	Done        []time.Duration // of the hosts that count, in order
	Unfinished  int             // hosts that count and do not have it
	Wrong       int             // pieces stored by honest hosts that are not right
	OriginBytes int64
	ReadBytes   int64 // of those, for what lazy hosts read
	SeedBytes   int64
	Gave        []float64 // blobs that each host sent, in order
	Pieces      int       // that arrived
	Twice       int       // of those, for nothing
	Requests    int
	Messages    int // of schedulers
	Events      int // at schedulers
	Spent       time.Duration
	Failures    map[p2p.Failure]int
	Refused     map[string]int // by schedulers
}

// lowerBound is what no distribution can beat: the blob leaves the origin once,
// enters each host once, and all uplinks together send it to all.
func (s *Sim) lowerBound() time.Duration {
	size, c := float64(s.cfg.Size), s.cfg
	all := c.Origin + float64(c.Hosts+c.Full)*c.Up + float64(c.Seeds)*c.SeedUp
	t := max(size/c.Origin, size/c.Down, float64(c.Hosts)*size/all)
	return time.Duration(t * float64(time.Second))
}

func (s *Sim) report() Report {
	r := Report{
		Config: s.cfg, Bound: s.bound, OriginBytes: s.originBytes, ReadBytes: s.readBytes,
		Pieces: s.pieces, Twice: s.twice, Requests: s.requests, Messages: s.messages,
		Failures: s.failures, Refused: map[string]int{},
	}
	for _, n := range s.nodes {
		first := &r.First
		if n.host.Seed {
			first = &r.Seeded
		}
		if n.first > 0 && (*first == 0 || n.first < *first) {
			*first = n.first
		}
		if n.host.Seed {
			r.SeedBytes += n.gave
		} else {
			r.Gave = append(r.Gave, float64(n.gave)/float64(s.cfg.Size))
		}
		if n.nature <= doomed && !n.dead {
			for _, c := range n.content {
				if s.cfg.Fill && !c.match {
					continue // it goes on, and the whole will show them
				}
				for _, st := range c.state {
					if st == wrong {
						r.Wrong++
					}
				}
			}
		}
		switch {
		case !n.expected():
		case n.done == 0:
			r.Unfinished++
		default:
			r.Done = append(r.Done, n.done)
			r.Makespan = max(r.Makespan, n.done)
		}
	}
	slices.Sort(r.Done)
	slices.Sort(r.Gave)
	for _, c := range s.controls {
		r.Events += c.events
		r.Spent += c.spent
		for k, v := range c.refused {
			r.Refused[k] += v
		}
	}
	return r
}

// Ratio is the makespan in bounds.
func (r Report) Ratio() float64 { return r.Makespan.Seconds() / r.Bound.Seconds() }

// Blobs is how often the blob left the origin.
func (r Report) Blobs() float64 { return float64(r.OriginBytes) / float64(r.Size) }

// Quantile returns when a share of the hosts had the blob.
func (r Report) Quantile(q float64) time.Duration { return quantile(r.Done, q) }

func quantile[T any](sorted []T, q float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (r Report) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("hosts %d, seeds %d, blob %d MiB, seed of randomness %d", r.Hosts, r.Seeds, r.Size>>20, r.Seed)
	if r.Dying+r.Slow+r.Lying > 0 {
		line("of them dying %.1f %%, slow by %g %.1f %%, lying %.1f %%", 100*r.Dying, r.SlowBy, 100*r.Slow, 100*r.Lying)
	}
	line("makespan %.2f s, bound %.2f s, ratio %.3f", r.Makespan.Seconds(), r.Bound.Seconds(), r.Ratio())
	line("origin %.3f blobs, seeds sent %.2f blobs", r.Blobs(), float64(r.SeedBytes)/float64(r.Size))
	line("hosts sent at least %.2f, a tenth up to %.2f, half %.2f, nine tenths %.2f, at most %.2f blobs",
		quantile(r.Gave, 0), quantile(r.Gave, 0.1), quantile(r.Gave, 0.5), quantile(r.Gave, 0.9), quantile(r.Gave, 1))
	line("finished %d, unfinished %d, wrong pieces %d", len(r.Done), r.Unfinished, r.Wrong)
	line("pieces %d, for nothing %d; requests %d; scheduler took %d messages, sent %d", r.Pieces, r.Twice, r.Requests, r.Events, r.Messages)
	for _, f := range slices.Sorted(maps.Keys(r.Failures)) {
		line("failed as %s: %d", f, r.Failures[f])
	}
	keys := slices.SortedFunc(maps.Keys(r.Refused), func(x, y string) int {
		return cmp.Or(cmp.Compare(r.Refused[y], r.Refused[x]), cmp.Compare(x, y))
	})
	for _, k := range keys[:min(len(keys), 5)] {
		line("refused by a scheduler: %d × %s", r.Refused[k], k)
	}
	return b.String() + r.plot()
}

// plot draws how many hosts were done when.
func (r Report) plot() string {
	if len(r.Done) == 0 {
		return ""
	}
	const rows = 10
	var b strings.Builder
	first := r.Done[0]
	for i := range rows + 1 {
		t := first + (r.Makespan-first)*time.Duration(i)/rows
		k, _ := slices.BinarySearch(r.Done, t+1)
		share := float64(k) / float64(len(r.Done))
		fmt.Fprintf(&b, "%8.2f s %5.1f %% %s\n", t.Seconds(), 100*share, strings.Repeat("#", int(share*50)))
	}
	return b.String()
}
