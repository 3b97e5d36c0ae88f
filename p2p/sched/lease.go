package sched

import (
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// How many pieces a host may hold a lease of at a time. It begins with the
// least and gets more while it soon asks for more: others may come any moment and
// share the work, and what a host holds is not given to them.
const (
	leastLease = 4
	maxLease   = 256
	soon       = time.Second
)

// leases returns the stripes that a peer is to fetch from the origin, a bit each.
func (p *peer) leases() (bits uint8) {
	for st := range p.links {
		if p.links[st].parents[0] == p.swarm.origin {
			bits |= 1 << st
		}
	}
	return bits
}

// renew tells a peer what is leased to it: what it holds, and as much as it may
// hold of what its stripes lack, nobody else holds and none of its parents has.
// Who reads lazily holds nothing: the first thing it would do as soon as it wants all
// is to take that from the origin, whoever has it by then.
func (s *State) renew(p *peer) {
	w := p.swarm
	m := p2p.Lease{Digest: w.blob.Digest}
	p.more = false
	if p.lazy {
		p.leasedAt = s.now
		s.send(p.host.ID, m)
		return
	}
	w.open()
	p.pace(s.now)
	room := p.batch - p.holds
	known := p.known()
	var taken []*peer
	var late []*peer // who hold pieces of other peers' stripes for long, and begin with the first
	for i := range p.have.Len() {
		held := w.book[i] != nil
		if held && s.late(w.book[i], i) {
			if slices.Contains(late, w.book[i]) {
				held = p.lease&(1<<(i%w.stripes)) == 0 || room <= 0
			} else {
				late = append(late, w.book[i])
			}
		}
		switch {
		case held && w.book[i] == p && !p.have.Has(i):
			m.Pieces = append(m.Pieces, i)
			continue
		case held, p.lease&(1<<(i%w.stripes)) == 0, p.have.Has(i):
			continue
		case slices.ContainsFunc(known, func(q *peer) bool { return q.have.Has(i) }):
			continue
		case room <= 0:
			p.more = true
			continue
		}
		room--
		m.Pieces = append(m.Pieces, i)
		if q := w.book[i]; q != nil {
			q.holds--
			taken = append(taken, q)
		}
		w.book[i] = p
		p.holds++
	}
	if len(m.Pieces) > 0 {
		m.For = s.cfg.LeaseFor
	}
	p.leasedAt = s.now
	s.send(p.host.ID, m)
	for _, q := range slices.Compact(taken) {
		if q.leasedAt != s.now {
			s.renew(q)
		}
	}
}

// late reports whether q holds a piece of a stripe that another fetches by now, and
// takes its time.
func (s *State) late(q *peer, i int) bool {
	return q.lease&(1<<(i%q.swarm.stripes)) == 0 && s.now.Sub(q.leasedAt) >= soon
}

func (w *swarm) open() {
	if w.book == nil {
		w.book = make([]*peer, w.blob.Pieces())
	}
}

// pace says how much p may hold: twice as much if it was soon done with the last
// lease, half if that took long.
func (p *peer) pace(now time.Time) {
	switch took := now.Sub(p.leasedAt); {
	case p.batch == 0:
		p.batch = leastLease
	case p.holds > p.batch/2:
	case took < soon:
		p.batch = min(2*p.batch, maxLease)
	case took > 4*soon:
		p.batch = max(p.batch/2, leastLease)
	}
}

// known returns the parents of p, in any stripe: it hears of all they have.
func (p *peer) known() []*peer {
	var all []*peer
	for st := range p.links {
		for _, q := range p.links[st].parents {
			if q != nil && q != p.swarm.origin && q.role != idle && !slices.Contains(all, q) {
				all = append(all, q)
			}
		}
	}
	return all
}

// brought notes that p has pieces: nobody holds them any more. Who fetches their
// stripe may have left them to p; it is to fetch them, too, if it does not hear
// of what p has.
func (s *State) brought(p *peer, pieces []int) {
	w := p.swarm
	if w.book == nil {
		return
	}
	var behind []*peer
	for _, i := range pieces {
		q := w.book[i]
		if q == nil {
			continue
		}
		w.book[i] = nil
		q.holds--
		for _, k := range w.origin.links[i%w.stripes].kids {
			if k != p && !slices.Contains(behind, k) && !slices.Contains(k.known(), p) {
				behind = append(behind, k)
			}
		}
	}
	for _, k := range behind {
		s.again(k)
	}
}

// again renews a lease, unless that is going to happen anyway.
func (s *State) again(k *peer) {
	if k.lease != 0 && k.lease == k.leases() {
		s.renew(k)
	}
}

// letGo takes from a peer what it holds.
func (p *peer) letGo() {
	for i := 0; i < len(p.swarm.book) && p.holds > 0; i++ {
		if p.swarm.book[i] == p {
			p.swarm.book[i] = nil
			p.holds--
		}
	}
}

// release takes from a peer what it holds, and offers it to those who fetch.
func (s *State) release(p *peer) {
	if p.holds == 0 {
		return
	}
	p.letGo()
	w := p.swarm
	for st := range w.origin.links {
		for _, k := range slices.Clone(w.origin.links[st].kids) {
			if k != p {
				s.again(k)
			}
		}
	}
}

// closeBook ends what was leased: the origin is not needed any more.
func (s *State) closeBook(w *swarm) {
	var holders []*peer
	for _, p := range w.book {
		if p != nil && p.holds > 0 {
			p.holds = 0
			holders = append(holders, p)
		}
	}
	w.book = nil
	for _, p := range holders {
		if p.lease == p.leases() {
			s.renew(p)
		}
	}
}

// unlease gives a host's leases to another one.
func (s *State) unlease(p *peer) {
	w := p.swarm
	s.shun(p, "") // the origin
	p.letGo()
	for st := range p.links {
		if p.links[st].parents[0] != w.origin {
			continue
		}
		heir := s.heir(p, st)
		if heir == nil {
			continue // nobody else could do better
		}
		s.detach(p, st)
		s.detach(heir, st)
		s.attach(heir, w.origin, st, 0)
		s.settle(heir)
	}
	s.settle(p)
	s.again(p)
}

// heir returns who is to have a lease after p: who has most of the stripe.
func (s *State) heir(p *peer, st int) *peer {
	w := p.swarm
	var best *peer
	most := -1
	for _, q := range w.peers[:min(len(w.peers), maxLook)] {
		if q == p || !q.wants || q.role != node || q.links == nil || s.avoids(q, w.origin) {
			continue
		}
		if n := q.have.CountStripe(st); n > most || n == most && q.seq < best.seq {
			best, most = q, n
		}
	}
	return best
}
