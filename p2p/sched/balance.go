package sched

import "slices"

// balance improves a swarm a little: leases and owners without progress are
// passed on, peers without parents get some, and some peers in turn get a better
// one.
func (s *State) balance(w *swarm) {
	for _, g := range w.groups {
		for st := range g.lanes {
			g.lanes[st].open, g.lanes[st].inner = 0, 0
		}
		g.full.open = 0
	}
	if o := w.owner; o != nil && w.whole && !o.have.Full() && s.now.Sub(o.progressAt) >= s.cfg.LeaseFor {
		s.resign(w)
	}
	s.own(w)
	s.expire(w)
	s.feed(w)
	for range min(len(w.peers), max(fairly, balanced/max(1, len(s.active)))) {
		w.cursor++
		p := w.peers[w.cursor%len(w.peers)]
		s.unload(p)
		s.better(p)
	}
}

// expire passes on the leases of who makes no progress, and renews the others.
func (s *State) expire(w *swarm) {
	for st := range w.origin.links {
		for _, k := range slices.Clone(w.origin.links[st].kids) {
			switch {
			case s.now.Sub(k.progressAt) >= s.cfg.LeaseFor && !k.lazy:
				k.progressAt = s.now
				s.unlease(k)
			case s.now.Sub(k.leasedAt) >= s.cfg.LeaseFor/2:
				s.renew(k)
			}
		}
	}
}

// unload moves a child of a peer that has more than twice what it can serve.
func (s *State) unload(q *peer) {
	if int(q.prim) <= 2*q.budget(&s.cfg) {
		return
	}
	for st := range q.links {
		for _, k := range q.links[st].kids {
			if k.links[st].parents[0] == q {
				s.fill(k, st)
				s.settle(k)
				return
			}
		}
	}
}

// better moves a peer whose parent in a stripe has nothing for it to a host that
// has all, and one that hangs on a node of another stripe to one of this.
func (s *State) better(p *peer) {
	if !p.wants {
		return
	}
	for st := range p.links {
		q := p.links[st].parents[0]
		if q == nil || q.role != node || p.have.CountStripe(st) == stripeLen(p, st) {
			continue
		}
		f := search{s: s, p: p, st: st}
		var r *peer
		if q.have.Offers(&p.have, st) == 0 {
			r = f.queues(func(g *group) *queue { return &g.full }, 0)
		}
		if r == nil && int(q.home) != st {
			r = f.queues(func(g *group) *queue { return &g.lanes[st] }, 0)
		}
		if r != nil {
			s.detach(p, st)
			s.attach(p, r, st, 0)
			s.back(p, st)
		}
	}
}

// stripeLen returns the number of pieces in a stripe.
func stripeLen(p *peer, st int) int {
	return (p.have.Len() - st + p.swarm.stripes - 1) / p.swarm.stripes
}
