package sched

import "slices"

// balance improves a swarm a little: leases and owners without progress are
// passed on, peers without parents get some, and some peers in turn get a better
// one.
func (s *State) balance(w *swarm) {
	w.turn++
	w.review(w.turn % w.stripes) // one stripe at a time: there are many queues, and long ones
	if o := w.owner; o != nil && w.whole && !w.rests && !o.have.Full() && s.now.Sub(o.progressAt) >= s.cfg.LeaseFor {
		s.resign(w)
	}
	s.believe(w)
	s.hurry(w)
	s.own(w)
	s.expire(w)
	s.feed(w)
	left := max(fairly, balanced/max(1, len(s.active)))
	looks := max(1, left/moved)
	for i := 0; i < len(w.peers) && left > 0; i++ {
		w.cursor++
		p := w.peers[w.cursor%len(w.peers)]
		s.reform(p)
		looks -= s.unload(p, looks)
		if p.wants {
			if p.thin {
				p.thin = false
				s.settle(p)
			}
			s.better(p)
			s.lend(p)
			left--
		}
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

// unload moves a child of a peer that has more than twice what it can serve (in a swarm
// of many, where there are better places, more than one child too many), or of a seed that
// has more in some stripe than it should: all others wait for what comes from there. It
// looks for better places at most so many times, and returns how many times it did.
func (s *State) unload(q *peer, most int) (looks int) {
	kids := 2 * q.budget(&s.cfg)
	if len(q.swarm.peers) > broad {
		kids = q.budget(&s.cfg) + 1
	}
	for i := range q.links { // another stripe is the first one at each balance
		st := (i + q.swarm.turn) % len(q.links)
		if looks == most || q.prims(st) == 0 || int(q.prim) <= kids && (q.role != source || s.spare(q, st) >= 0) {
			continue
		}
		k := q.leaf(st, nil)
		if k == nil {
			k, _ = q.lowest(st, nil, maxHeight)
		}
		if k == nil {
			continue
		}
		looks++
		if r, _ := s.choose(k, st); r == nil || r == q || r.role == node && q.role == node && s.spare(r, st) <= s.spare(q, st)+1 {
			continue // there is no better place
		}
		s.fill(k, st)
		s.settle(k)
		break
	}
	return looks
}

// better moves a peer whose parent in a stripe has nothing for it to a host that
// has all, and one that hangs on a node of another stripe to one of this. When
// most hosts have all, they serve the others directly.
func (s *State) better(p *peer) {
	for st := range p.links {
		q := p.links[st].parents[0]
		if q == nil || q.role != node || p.have.CountStripe(st) == stripeLen(p, st) {
			continue
		}
		f := search{s: s, p: p, st: st, far: beyond}
		var r *peer
		if p.swarm.fulls >= p.swarm.wanting || q.have.Offers(&p.have, st) == 0 {
			r = f.queues(func(g *group) *queue { return &g.full }, 0)
		}
		strange := int(q.home) != st && !p.lined
		if r == nil && strange {
			r = f.queues(func(g *group) *queue { return &g.lanes[st] }, 0)
		}
		if r == nil && strange && f.leads(q) > 1 {
			if r = f.others(0); r != nil && f.leads(r) > 0 {
				r = nil
			}
		}
		if r != nil {
			s.detach(p, st)
			s.attach(p, r, st, 0)
			s.back(p, st)
		}
	}
}

// lend gives a peer hosts that have all for its other parents: one, or when
// there are as many as want the blob, two.
func (s *State) lend(p *peer) {
	w, f := p.swarm, search{s: s, p: p}
	if w.fulls == 0 || p.role == source {
		return
	}
	most := 1
	if w.fulls >= w.wanting {
		most = backups
	}
	for st := range p.links {
		l := &p.links[st]
		if l.parents[0] == nil || l.parents[0] == w.origin || p.have.CountStripe(st) == stripeLen(p, st) {
			continue
		}
		for at := backups; at > backups-most; at-- {
			if q := l.parents[at]; q != nil && (q.role == full || q.role == source && w.wanting <= chained) {
				continue
			}
			if q := f.idle(st); q != nil {
				s.unlink(p, st, at)
				s.attach(p, q, st, at)
			}
		}
	}
}

// idle returns a host that has all, is no parent of p in the stripe and has a
// place for another child that may need it.
func (f *search) idle(st int) *peer {
	f.st = st
	for _, g := range f.p.swarm.groups {
		all := g.full.peers
		for i := range min(len(all), window) {
			q := all[(int(f.p.seq)+st+i)%len(all)]
			if int(q.backs) < 2*q.budget(&f.s.cfg) && !slices.Contains(f.p.links[st].parents[:], q) && f.stands(q) {
				return q
			}
		}
	}
	return nil
}

// stripeLen returns the number of pieces in a stripe.
func stripeLen(p *peer, st int) int {
	return (p.have.Len() - st + p.swarm.stripes - 1) / p.swarm.stripes
}
