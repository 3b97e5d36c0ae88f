package sched

import (
	"fmt"
	"math"
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	minSample  = 64 << 10 // bytes; what is smaller says more of delay than of rate
	enough     = 4        // samples before a host is judged
	enoughHere = 16       // samples before a swarm is a measure
)

// A pace is a moving mean and variance of how long transfers take: seconds per
// MiB in a swarm, multiples of the swarm's mean for a host.
type pace struct {
	n          int32
	mean, vari float64
}

func (p *pace) add(x float64, memory int32) {
	p.n = min(p.n+1, memory)
	a := 1 / float64(p.n)
	d := x - p.mean
	p.mean += a * d
	p.vari = (1 - a) * (p.vari + a*d*d)
}

// limit is what a transfer takes at most that is not slow: the mean and three
// standard deviations, and in any case twice the mean.
func (p *pace) limit() float64 {
	return max(2*p.mean, p.mean+3*math.Sqrt(p.vari))
}

// scale multiplies n by how much faster than others the host is, in powers of
// two: from a quarter to four times, of a seed up to sixteen times.
func (p *pace) scale(n int, seed bool) int {
	if p.n < enough {
		return n
	}
	up := 4
	if seed {
		up = 16
	}
	for x := p.mean; x <= 0.5 && up > 1; x, up = x*2, up/2 {
		n *= 2
	}
	for x, down := p.mean, 4; x >= 2 && down > 1; x, down = x/2, down/2 {
		n = (n + 1) / 2
	}
	return n
}

// transfer takes what a child measured of a parent.
func (s *State) transfer(p *peer, t p2p.Transfer) {
	if t.Parent == "" {
		s.fromOrigin(p, t)
		return
	}
	q := s.hosts[t.Parent].peerOf(p.swarm)
	if q == nil || !p.childOf(q) {
		return // nobody may judge hosts that it was not sent to
	}
	switch t.Failed {
	case p2p.Unreachable, p2p.Stalled, p2p.Missing, p2p.Mismatch:
		s.fail(p, q, t.Failed)
		return
	}
	if t.Bytes < minSample || t.Took <= 0 {
		return
	}
	w, x := p.swarm, t.Took.Seconds()*(1<<20)/float64(t.Bytes)
	if w.pace.n < enoughHere {
		w.pace.add(x, 64)
		return
	}
	slow := x > w.pace.limit()
	ratio := x / w.pace.mean
	p.host.down.add(min(ratio, 64), 8)
	if p.host.down.n >= enough && p.host.down.mean > 3 {
		return // it is slow itself, whoever serves it
	}
	w.pace.add(min(x, w.pace.limit()), 64)
	q.host.up.add(min(ratio, 64), 8)
	if slow {
		s.slow(p, q)
	}
}

func (h *host) peerOf(w *swarm) *peer {
	if h == nil {
		return nil
	}
	return h.peer(w)
}

// childOf reports whether q is one of p's parents.
func (p *peer) childOf(q *peer) bool {
	for st := range p.links {
		if slices.Contains(p.links[st].parents[:], q) {
			return true
		}
	}
	return false
}

// fail takes a parent away from a child that had trouble with it. Trouble of
// several children demotes the parent.
func (s *State) fail(p, q *peer, why p2p.Failure) {
	kids := int(q.prim)
	s.replace(p, q)
	if banned, _ := s.outcast(p.host); banned {
		return
	}
	st := s.record(q.host.ID)
	if n := note(&st.failing, p.host.ID, s.now, s.cfg.SlowFor); n >= max(2, kids/4) {
		st.failing = nil
		s.demote(q.host, fmt.Sprintf("%v, say %d children", why, n))
	}
}

// slow counts a slow transfer. A child with three gets another parent; two
// children that say so demote the parent.
func (s *State) slow(p, q *peer) {
	st := s.record(q.host.ID)
	n := note(&st.slowBy, p.host.ID, s.now, s.cfg.SlowFor)
	if n >= 2 && q.host.up.n >= enough && q.host.up.mean >= 2 {
		st.slowBy = nil
		s.demote(q.host, fmt.Sprintf("slow, say %d children", n))
		return
	}
	if i := slices.IndexFunc(st.slowBy, func(m mark) bool { return m.by == p.host.ID }); i >= 0 && st.slowBy[i].times >= 3 {
		st.slowBy[i].times = 0
		s.replace(p, q)
	}
}

// replace finds p other parents than q.
func (s *State) replace(p, q *peer) {
	s.shun(p, q.host.ID)
	for st := range p.links {
		if slices.Contains(p.links[st].parents[:], q) {
			s.detach(p, st)
		}
	}
	s.settle(p)
}
