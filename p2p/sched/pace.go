package sched

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	minSample  = 64 << 10 // bytes; what is smaller says more of delay than of rate
	hostMemory = 16       // samples that the pace of a host is of, and that it takes to judge it
	swarmWide  = 64       // the same of a swarm
	longRead   = 0.5      // seconds per MiB; what is shorter may be delay
	tooLong    = 6        // times what its parent takes for a MiB: the parent's line is thin
	tooSlow    = 4        // times the mean of its swarms: a host that is so slow is demoted

	// A swarm's first transfers come from an idle seed, one at a time. Whoever
	// then serves many children at once looks slow beside that.
	swarmWarm = 3 * time.Second
	hostWarm  = 2 * time.Second
)

// A pace is a moving mean and variance of how long transfers take: seconds per
// MiB in a swarm, multiples of the swarm's mean for a host.
type pace struct {
	n          int32
	mean, vari float64
	since      time.Time
}

// known reports whether the pace is of enough transfers, over some time.
func (p *pace) known(now time.Time, samples int32, warm time.Duration) bool {
	return p.n >= samples && now.Sub(p.since) >= warm
}

func (p *pace) add(x float64, memory int32, now time.Time) {
	if p.n == 0 {
		p.since = now
	}
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

// scale divides n by how much slower than others the host is, in powers of two,
// at most four. There is no scaling up: a host with few children looks fast.
func (p *pace) scale(n int) int {
	if p.n < hostMemory {
		return n
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
	case p2p.Missing:
		if u := &p.swarm.sums; s.now.Before(u.oldAt.Add(soon)) || u.audit.asked(q) {
			return // it may have dropped what was taken back, or is to ask the origin for
		}
		fallthrough
	case p2p.Unreachable, p2p.Stalled:
		s.fail(p, q, t.Failed)
		return
	case p2p.Mismatch:
		if p.lazy && p.host.open == 0 { // bytes of a read, of which there is no complaint
			s.fail(p, q, t.Failed)
		} else {
			s.replace(p, q) // what else follows from that, its complaint decides
		}
		return
	}
	if t.Bytes < minSample || t.Took <= 0 {
		return
	}
	w, x := p.swarm, t.Took.Seconds()*(1<<20)/float64(t.Bytes)
	if p.lazy {
		s.read(p, q, x)
		return
	}
	if !w.pace.known(s.now, swarmWide, swarmWarm) {
		w.pace.add(x, swarmWide, s.now)
		return
	}
	limit, ratio := w.pace.limit(), min(64, x/w.pace.mean)
	p.host.down.add(ratio, hostMemory, s.now)
	if x > limit {
		note(&p.host.slow, q.host.ID, s.now, s.cfg.SlowFor)
	}
	if len(p.host.slow) >= 3 && p.host.down.n >= hostMemory/4 && p.host.down.mean > 3 {
		return // it is slow itself, whoever serves it
	}
	w.pace.add(min(x, limit), swarmWide, s.now)
	q.host.up.add(ratio, hostMemory, s.now)
	if x > limit {
		s.slow(p, q)
	}
}

// read takes what reads of a lazy child took that its parent served, in seconds per MiB. It
// passes on what it reads itself, so all below one with a thin line wait as long. That one
// is known by what it takes much less time to read than its child.
func (s *State) read(p, q *peer, x float64) {
	if p.reads == 0 {
		p.reads = float32(x)
	}
	p.reads += (float32(x) - p.reads) / 4
	if q.reads == 0 {
		return
	}
	ratio := 1.0
	if x >= longRead {
		ratio = min(64, x/float64(q.reads))
	}
	if ratio > tooLong {
		if note(&p.host.slow, q.host.ID, s.now, s.cfg.SlowFor); len(p.host.slow) > 1 {
			if !s.now.Before(p.doubted) {
				s.rest(p) // it is slow itself, whoever serves it
			}
			return
		}
		s.slow(p, q)
	}
	q.host.up.add(ratio, hostMemory, s.now)
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
	if s.isBanned(p.host.ID) {
		return
	}
	if why == p2p.Missing {
		s.doubt(p, q)
	}
	if why == p2p.Mismatch && s.lastSeed(q.host) {
		return // a trial is to show it: without the seed all would go to the origin
	}
	st := s.record(q.host.ID)
	if n := note(&st.failing, p.host.ID, s.now, s.cfg.SlowFor); n >= min(maxWitnesses, max(2, kids/4)) {
		st.failing = nil
		s.demote(q.host, fmt.Sprintf("%v, say %d children", why, n))
	}
}

// doubt notes that a parent lacks what it said. Once two children say so, it is
// nobody's parent in the swarm for a while, longer each time: it may say that it
// has everything as often as it likes.
func (s *State) doubt(p, q *peer) {
	if q.host.Seed || note(&q.doubters, p.host.ID, s.now, s.cfg.SlowFor) < 2 {
		return
	}
	q.doubters = nil
	if q.word == matched {
		s.word(q, silent)
	}
	s.rest(q)
}

// rest makes a peer nobody's parent in its swarm for a while, longer each time.
func (s *State) rest(q *peer) {
	q.fibs++
	q.doubted = s.now.Add(grown(s.cfg.SlowFor, q.fibs, s.cfg.MaxSlow))
	if w := q.swarm; !slices.Contains(w.doubted, q) {
		w.doubted = append(w.doubted, q)
	}
	s.relist(q)
	s.orphan(q, "")
}

// believe gives those another chance whose time is over.
func (s *State) believe(w *swarm) {
	w.doubted = slices.DeleteFunc(w.doubted, func(q *peer) bool {
		if s.now.Before(q.doubted) {
			return false
		}
		s.relist(q)
		return true
	})
}

// slow counts a slow transfer. A child with three gets another parent, if there is
// one: at the root of a stripe everybody else is below it. If half of its children
// say so, two at least, and it is slow in the mean of all, the parent is demoted,
// unless it is the last seed.
func (s *State) slow(p, q *peer) {
	st, up := s.record(q.host.ID), &q.host.up
	n := note(&st.slowBy, p.host.ID, s.now, s.cfg.SlowFor)
	if n >= min(maxWitnesses, max(2, int(q.prim)/2)) && up.known(s.now, hostMemory, hostWarm) && up.mean >= tooSlow && !s.lastSeed(q.host) {
		st.slowBy = nil
		s.demote(q.host, fmt.Sprintf("slow, say %d children", n))
		return
	}
	if i := slices.IndexFunc(st.slowBy, func(m mark) bool { return m.by == p.host.ID }); i >= 0 && st.slowBy[i].times >= 3 {
		st.slowBy[i].times = 0
		s.replace(p, q)
		if p.orphaned() {
			s.forgive(p, q.host.ID)
			s.settle(p)
		}
	}
}

// lastSeed reports whether h is the only seed that serves. Without it hosts would go to
// the origin. It is easily slow beside hosts that pass on what it alone has.
func (s *State) lastSeed(h *host) bool {
	return h.Seed && !slices.ContainsFunc(s.seeds, func(other *host) bool {
		banned, slow := s.outcast(other.ID)
		return other != h && !banned && !slow
	})
}

// replace finds p other parents than q.
func (s *State) replace(p, q *peer) {
	s.shun(p, q.host.ID)
	for st := range p.links {
		s.drop(p, q, st)
	}
	s.settle(p)
}
