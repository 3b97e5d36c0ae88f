package sched

import (
	"cmp"
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A link is a peer's place in the graph of one stripe.
type link struct {
	parents [1 + backups]*peer // the first, and those to use when it fails
	kids    []*peer            // who have it among their parents
	prim    int16              // of those, who have it first
	leaves  int16              // and of those, for how many the stripe is not home
	level   int32              // more than that of each parent, see level.go
}

func (p *peer) grow() {
	if p.links == nil {
		p.links = make([]link, p.swarm.stripes)
	}
}

// parents returns what the peer is told.
func (p *peer) parents() [][]p2p.Host {
	all := make([]p2p.Host, 0, len(p.links)*(1+backups))
	out := make([][]p2p.Host, len(p.links))
	for st := range p.links {
		from := len(all)
		for _, q := range p.links[st].parents {
			if q != nil && q != p.swarm.origin {
				all = append(all, q.host.Host)
			}
		}
		out[st] = all[from:len(all):len(all)]
	}
	return out
}

// attach makes q a parent of p in a stripe, in the first free place from at.
func (s *State) attach(p, q *peer, st, at int) {
	p.grow()
	q.grow()
	if at == 0 {
		s.loosen(p, q, st)
	}
	p.links[st].parents[at] = q
	p.level(st)
	l := &q.links[st]
	l.kids = append(l.kids, p)
	if at == 0 {
		l.prim++
		q.prim++
		if !p.homeIn(st) {
			l.leaves++
		} else {
			p.placed = placed{s.now, p.have.CountStripe(st)}
		}
	} else {
		q.backs++
	}
	q.reopen()
	s.touch(p)
}

// homeIn reports whether a peer is a node whose home the stripe is.
func (p *peer) homeIn(st int) bool { return p.role == node && int(p.home) == st }

// detach takes a peer's parents in a stripe away.
func (s *State) detach(p *peer, st int) {
	if p.links == nil {
		return
	}
	for at := range p.links[st].parents {
		s.unlink(p, st, at)
	}
}

// unlink takes one of a peer's parents in a stripe away.
func (s *State) unlink(p *peer, st, at int) {
	q := p.links[st].parents[at]
	if q == nil {
		return
	}
	p.links[st].parents[at] = nil
	l := &q.links[st]
	l.kids = without(l.kids, p)
	if at == 0 {
		l.prim--
		q.prim--
		if !p.homeIn(st) {
			l.leaves--
		}
		s.noteHungry(p.swarm)
	} else {
		q.backs--
	}
	p.level(st)
	q.reopen()
	if q.prim+q.backs == 0 && !q.wants && q != q.swarm.origin {
		q.links = nil
	}
	s.touch(p)
}

// drop takes q from among p's parents in a stripe. If it was not the first, another
// takes its place; if it was, p has none until it is settled.
func (s *State) drop(p, q *peer, st int) {
	switch at := slices.Index(p.links[st].parents[:], q); {
	case at == 0:
		s.detach(p, st)
	case at > 0:
		s.unlink(p, st, at)
	}
}

func (p *peer) reopen() {
	switch p.role {
	case node:
		p.group.lanes[p.home].reopen(p)
	case full:
		p.group.full.reopen(p)
	case reader:
		p.group.readers.reopen(p)
	}
}

// settle gives a peer parents in every stripe in which it has none.
func (s *State) settle(p *peer) {
	if !p.wants {
		return
	}
	p.grow()
	starves := false
	for st := range p.links {
		if p.role == source {
			break // its parent is the origin
		}
		switch l := &p.links[st]; {
		case l.parents[0] == nil:
			s.fill(p, st)
		case slices.Contains(l.parents[:], nil) && l.parents[0] != p.swarm.origin:
			s.back(p, st)
		}
		starves = starves || p.links[st].parents[0] == nil
	}
	if starves && !p.alone && p.swarm.alone < maxSources {
		s.touch(p)
	}
	if starves != p.starves {
		p.starves = starves
		s.touch(p)
		if starves {
			p.swarm.starve(p)
		} else {
			p.swarm.starving = without(p.swarm.starving, p)
		}
	}
}

// starve queues a peer that has no parent in some stripe: behind those who wait
// for the blob as urgently.
func (w *swarm) starve(p *peer) {
	i := len(w.starving)
	for i > 0 && w.starving[i-1].priority > p.priority {
		i--
	}
	w.starving = slices.Insert(w.starving, i, p)
}

// fill gives a peer its parents in a stripe.
func (s *State) fill(p *peer, st int) {
	s.detach(p, st)
	q, out := s.choose(p, st)
	if q == nil {
		return
	}
	p.grow()
	if out != nil {
		s.detach(out, st)
	}
	s.attach(p, q, st, 0)
	if out != nil && out.homeIn(st) {
		s.back(p, st)
		s.resettle(out)
		return
	}
	if out != nil { // before p gets others, which must not be below out
		s.attach(out, p, st, 0)
	}
	s.back(p, st)
	if out != nil {
		s.back(out, st)
		if !out.lined {
			s.adopt(p, out, st)
		}
	}
}

// resettle gives a peer the parents that it lacks: now, or if the call under way has
// done enough, in one of the next ticks.
func (s *State) resettle(p *peer) {
	if s.afford(p.swarm) {
		s.settle(p)
	} else {
		s.wait(p)
	}
}

// adopt moves the children of k, and theirs, below p, as far as it has slots: k
// served them only because nobody whose home the stripe is was there.
func (s *State) adopt(p, k *peer, st int) {
	for queue := []*peer{k}; len(queue) > 0; queue = queue[1:] {
		for _, x := range slices.Clone(queue[0].links[st].kids) {
			if x.links[st].parents[0] != queue[0] || s.spare(p, st) <= 0 || s.avoids(x, p) || x.above(p, st) {
				continue
			}
			s.detach(x, st)
			s.attach(x, p, st, 0)
			s.back(x, st)
			queue = append(queue, x)
		}
	}
}

// orphan takes all children of p away and gives them other parents. A reason is
// one not to use its host any more, for any blob.
func (s *State) orphan(p *peer, reason string) {
	kids := s.disown(p)
	for _, k := range kids {
		if reason != "" {
			s.send(k.host.ID, p2p.Gone{Host: p.host.ID, Reason: reason})
		}
	}
	s.own(p.swarm)
	for _, k := range kids {
		if k.orphaned() {
			s.resettle(k)
		} else {
			k.thin = true // it gets another one at the next balance
		}
	}
}

// orphaned reports whether a peer lacks a first parent.
func (p *peer) orphaned() bool {
	for st := range p.links {
		if p.links[st].parents[0] == nil {
			return true
		}
	}
	return p.links == nil
}

// disown takes all children of p away and returns them.
func (s *State) disown(p *peer) []*peer {
	var kids []*peer
	for st := range p.links {
		if p.links == nil {
			break // the last link went
		}
		for _, k := range slices.Clone(p.links[st].kids) {
			s.drop(k, p, st)
			if !slices.Contains(kids, k) {
				kids = append(kids, k)
			}
		}
	}
	return kids
}

// rooted puts those who hold leases below a new root: the origin is not needed
// any more.
func (s *State) rooted(r *peer) {
	w := r.swarm
	for st := range w.origin.links {
		for _, k := range slices.Clone(w.origin.links[st].kids) {
			if s.avoids(k, r) || k.above(r, st) {
				continue
			}
			s.detach(k, st)
			s.attach(k, r, st, 0)
			s.back(k, st)
		}
	}
	s.closeBook(w)
}

func (s *State) noteHungry(w *swarm) {
	if !w.hungry && len(w.starving) > 0 {
		w.hungry = true
		s.hungry = append(s.hungry, w)
	}
}

// feed looks for parents of those that have none, some at a time.
func (s *State) feed(w *swarm) {
	n := min(len(w.starving), window)
	for _, p := range slices.Clone(w.starving[:n]) {
		s.settle(p)
	}
	if len(w.starving) > n { // who got nothing waits behind the others of its priority
		behind := slices.Clone(w.starving[:n])
		w.starving = slices.Delete(w.starving, 0, n)
		for _, p := range behind {
			w.starve(p)
		}
	}
}

// spread makes the graphs of a swarm anew that was narrow, as long as it is small;
// later, balancing does it bit by bit.
func (s *State) spread(w *swarm) {
	if w.stripes == 1 || w.wanting > chained {
		return
	}
	all := slices.Clone(w.peers)
	slices.SortFunc(all, func(a, b *peer) int { return cmp.Compare(a.seq, b.seq) })
	for _, p := range all {
		s.relist(p)
		p.lined = false
		for st := range p.links {
			s.detach(p, st)
		}
	}
	for _, p := range all {
		if p.role != reader {
			s.settle(p)
		}
	}
	for _, p := range all {
		s.settle(p)
	}
}
