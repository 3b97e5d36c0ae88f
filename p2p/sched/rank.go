package sched

import (
	"cmp"
	"slices"
)

// choose finds the first parent of p in a stripe, best kind first:
//
//  1. hosts that have everything, with a free slot;
//  2. for nodes, in their home stripe: the owner seed, or else the origin (a
//     lease), also in the place of a child that is no node;
//  3. nodes whose home the stripe is, with a free slot; for another such node also
//     in the place of a child that is none, so that the tree grows in breadth;
//  4. seeds, or the origin;
//  5. in a swarm of many, nodes whose home the stripe is, with one child more than they
//     have slots: who comes next brings the slot that is missing;
//  6. nodes of other stripes that still have free slots;
//  7. hosts that have everything and nodes, beyond their slots but not twice;
//  8. seeds beyond theirs, then who has something although it is slow or wants nothing.
//
// Within a kind those nearby come first, then by rank. If the parent is found
// in a child's place, that child is returned, too, and is to become p's.
func (s *State) choose(p *peer, st int) (parent, displaced *peer) {
	if p.swarm.narrow() > 0 {
		if q := s.line(p, st); q != nil {
			p.lined = true
			return q, nil
		}
	}
	inner := p.role == node && int(p.home) == st && p.swarm.stripes > 1
	f := search{s: s, p: p, st: st, fresh: p.have.Count() == 0, far: beyond}
	if q := f.queues(func(g *group) *queue { return &g.full }, 0); q != nil {
		return q, nil
	}
	if inner {
		if q, k := f.roots(); q != nil {
			return q, k
		}
		if q, k := f.inner(); q != nil {
			return q, k
		}
	}
	lane := func(g *group) *queue { return &g.lanes[st] }
	if q := f.queues(lane, 0); q != nil {
		return q, nil
	}
	for _, q := range f.sources() {
		f.consider(q, s.spare(q, st) > 0)
	}
	if f.best != nil {
		return f.best, nil
	}
	if len(p.swarm.peers) > broad { // where few are on the way of a piece, one that is slower costs more
		if q := f.queues(lane, crowded); q != nil {
			return q, nil
		}
	}
	if q := f.others(0); q != nil {
		return q, nil
	}
	if q := f.queues(func(g *group) *queue { return &g.full }, 1); q != nil {
		return q, nil
	}
	if q := f.queues(lane, 1); q != nil {
		return q, nil
	}
	if q := f.others(1); q != nil {
		return q, nil
	}
	return f.last(), nil
}

// line finds the first parent of p in a narrow stripe: who has everything, else
// the node that came first and has a place, else a seed or the origin.
func (s *State) line(p *peer, st int) *peer {
	f := search{s: s, p: p, st: st}
	free := func(q *peer) bool { return s.spare(q, st) > 0 && f.allowed(q) }
	if q := f.queues(func(g *group) *queue { return &g.full }, 0); q != nil {
		return q
	}
	for _, q := range f.sources() {
		if free(q) {
			return q
		}
	}
	var best *peer
	for _, g := range p.swarm.groups {
		for l := range g.lanes {
			for _, q := range g.lanes[l].peers {
				if best != nil && q.seq > best.seq {
					break
				}
				if (q.root() || q.links != nil && q.links[st].parents[0] != nil) && free(q) {
					best = q
				}
			}
		}
	}
	return best
}

// A search compares parents for one peer and stripe.
type search struct {
	s     *State
	p     *peer
	st    int
	fresh bool // p has nothing yet, so that everyone is ahead of it
	best  *peer
	far   int    // how many parents of one queue are looked at
	below uint32 // the epoch of the walk that marked who is below p; 0: none did
	many  bool   // are below p, too many to mark
}

// last considers everyone who could serve at all.
func (f *search) last() *peer {
	w := f.p.swarm
	for _, q := range w.sources {
		f.consider(q, f.s.spare(q, f.st) > -4*f.s.cfg.Fanout)
	}
	if f.best == nil {
		for _, q := range w.others[:min(len(w.others), 4*window)] {
			f.consider(q, q.have.Offers(&f.p.have, f.st) > 0 && int(q.prim) < f.s.cfg.Fanout)
		}
	}
	if f.best == nil && len(w.sources) == 0 && !f.s.aside(f.p) {
		f.consider(w.origin, f.s.spare(w.origin, f.st) > 0)
	}
	return f.best
}

// sources returns the seeds that have, or fetch, the blob; the origin if there
// is neither such a seed nor any complete host.
func (f *search) sources() []*peer {
	w := f.p.swarm
	if len(w.sources) == 0 && w.fulls == 0 && !f.s.aside(f.p) {
		return []*peer{w.origin}
	}
	return w.sources
}

// crowded is a parent that has one child more than its budget.
const crowded = -1

// queues returns the best of a queue of each group, p's own group first. Over is
// how many times its budget a parent may be beyond it, or crowded.
func (f *search) queues(of func(*group) *queue, over int) *peer {
	f.queue(of(f.p.group), over)
	if f.best != nil {
		return f.best
	}
	for _, g := range f.p.swarm.groups {
		if g != f.p.group {
			f.queue(of(g), over)
		}
	}
	return f.best
}

// others returns the best node of another stripe.
func (f *search) others(over int) *peer {
	n := f.p.swarm.stripes
	f.far = window / 2 // there are many such queues
	defer func() { f.far = beyond }()
	for i := 1; i < n && f.best == nil; i++ {
		f.queues(func(g *group) *queue { return &g.lanes[(f.st+i)%n] }, over)
	}
	return f.best
}

func (f *search) queue(q *queue, over int) {
	from := q.peers[max(0, len(q.peers)-f.far):]
	if over == 0 {
		from = q.open.first(f.far, f.free)
	} else { // those that came last have the fewest below them, who would all wait
		from = slices.Clone(from)
		slices.Reverse(from)
	}
	seen := 0
	for _, c := range from {
		if seen >= window {
			return
		}
		least := -over * c.budget(&f.s.cfg)
		if over == crowded {
			least = -1
		}
		if f.s.spare(c, f.st) > least {
			f.consider(c, true)
			seen++
		}
	}
}

// inner finds the first node, in its home stripe, that has a free slot or a
// child whose place p can take.
func (f *search) inner() (parent, displaced *peer) {
	own := f.p.group
	if q, k := f.lane(own); q != nil {
		return q, k
	}
	for _, g := range f.p.swarm.groups {
		if g == own {
			continue
		}
		if q, k := f.lane(g); q != nil {
			return q, k
		}
	}
	return nil, nil
}

// roots finds the first root that has a free slot or a child whose place p can take.
func (f *search) roots() (parent, displaced *peer) {
	full := f.p.group.full.peers
	if q, k := f.place(full[:min(len(full), window)]); q != nil {
		return q, k
	}
	return f.place(f.sources())
}

func (f *search) lane(g *group) (parent, displaced *peer) {
	return f.place(g.lanes[f.st].inner.first(beyond/2, func(c *peer) bool { return f.free(c) || c.leaf(f.st, nil) != nil }))
}

// free reports whether a peer has a free slot, in some stripe.
func (f *search) free(c *peer) bool { return int(c.prim) < c.budget(&f.s.cfg) }

// place returns the first of some parents with a free slot, or with a child
// whose place p can take.
func (f *search) place(from []*peer) (parent, displaced *peer) {
	vain := 0 // searches for such a child
	for _, q := range from {
		var k *peer
		if f.s.spare(q, f.st) <= 0 {
			if vain == maxVain {
				continue
			}
			if k = q.leaf(f.st, f.p); k == nil {
				vain++
				continue
			}
		}
		if f.allowed(q) {
			return q, k
		}
	}
	return nil, nil
}

// leaf returns a child of q whose home the stripe is not; if p is given, one that is not ahead of it, and not in another data centre.
func (q *peer) leaf(st int, p *peer) *peer {
	if q.links == nil || q.links[st].leaves == 0 {
		return nil
	}
	for _, k := range q.links[st].kids {
		l := &k.links[st]
		if l.parents[0] != q || k.homeIn(st) || k == p {
			continue
		}
		if p == nil || k.have.Offers(&p.have, st) <= slack(p) && k.host.Near(p.host.Host) > 0 {
			return k
		}
	}
	return nil
}

// slack is how many pieces of a stripe one may be behind another and still
// count as level with it.
func slack(p *peer) int {
	return 1 + p.have.Len()/p.swarm.stripes/8
}

func (f *search) allowed(q *peer) bool {
	return q.host != f.p.host && q != f.p && !f.s.avoids(f.p, q) && !f.under(q)
}

// under reports whether q is below p. Mostly their levels say that it is not; else
// it is found out once who is below p, which mostly are few. Who has many below it
// is not to hang on somebody far deeper than it is now: all of them would wait
// longer, and must be looked at.
func (f *search) under(q *peer) bool {
	p, st := f.p, f.st
	if p.links == nil || len(p.links[st].kids) == 0 || q.links == nil || q.links[st].level < p.links[st].level {
		return false
	}
	if !f.many && (f.below == 0 || f.below != p.swarm.epoch) {
		f.many = !p.markBelow(st)
		f.below = p.swarm.epoch
	}
	if f.many {
		return q.links[st].level >= p.links[st].level+2*step || p.above(q, st)
	}
	return q.mark == f.below
}

// consider compares a parent, if it has a slot, with the best so far.
func (f *search) consider(q *peer, open bool) {
	if open && f.serves(q) && (f.best == nil || f.better(q, f.best)) && f.allowed(q) {
		f.best = q
	}
}

// serves reports whether q gets the stripe, or has something of it that p lacks. A
// node whose home it is not must itself be a leaf below one whose home it is,
// or a root, if there are such: else such nodes would form long chains.
func (f *search) serves(q *peer) bool {
	if q.role != node {
		return true
	}
	if q.links == nil || q.links[f.st].parents[0] == nil {
		return q.have.Offers(&f.p.have, f.st) > 0
	}
	up := q.links[f.st].parents[0]
	return int(q.home) == f.st || up.role != node || int(up.home) == f.st || f.p.swarm.homes < uint32(f.p.swarm.stripes)
}

// better reports whether a is a better parent than b.
func (f *search) better(a, b *peer) bool {
	return cmp.Or(
		-cmp.Compare(f.p.host.Near(a.host.Host), f.p.host.Near(b.host.Host)),
		-cmp.Compare(f.offer(a), f.offer(b)),
		cmp.Compare(f.leads(a), f.leads(b)),
		-cmp.Compare(a.host.up.scale(8), b.host.up.scale(8)),
		-cmp.Compare(f.s.spare(a, f.st), f.s.spare(b, f.st)),
		cmp.Compare(a.seq, b.seq),
	) < 0
}

// leads returns in how many stripes a node is p's first parent. It gives p one
// share of its line for all of them, in which the rarest pieces go first: the
// others would come much later than from somebody else.
func (f *search) leads(q *peer) (n int) {
	if q.root() {
		return 0 // it has them all at the same time
	}
	for st := range f.p.links {
		if f.p.links[st].parents[0] == q {
			n++
		}
	}
	return n
}

// offer says whether a has more of the stripe than p (2), about as much (1) or
// less (0).
func (f *search) offer(a *peer) int {
	if a.root() {
		return 2
	}
	if f.fresh {
		return 1
	}
	n := a.have.Offers(&f.p.have, f.st)
	switch {
	case n > slack(f.p):
		return 2
	case n+slack(f.p) >= f.p.have.Offers(&a.have, f.st):
		return 1
	}
	return 0
}

// back gives p its other parents in a stripe: nodes beside its first parent, then
// that one's own, so that the way to the root stays short; else complete
// hosts, then other nodes at home there, and if there is nothing else, a seed.
func (s *State) back(p *peer, st int) {
	l := &p.links[st]
	first := l.parents[0]
	f := search{s: s, p: p, st: st}
	add := func(q *peer) {
		at := slices.Index(l.parents[:], nil)
		if at < 0 || q == nil || q == p.swarm.origin || q.role == idle || q.role == other ||
			slices.Contains(l.parents[:], q) || int(q.backs) >= 2*q.budget(&s.cfg) || !f.allowed(q) {
			return
		}
		s.attach(p, q, st, at)
	}
	if first.links != nil && !first.root() {
		if up := first.links[st].parents[0]; up != nil {
			for _, q := range up.links[st].kids {
				if q.role == node && int(q.home) == st && q.links[st].parents[0] == up {
					add(q)
				}
			}
			if up.role != source {
				add(up)
			}
		}
	}
	around := func(peers []*peer) { // from a place of its own, so that all are used
		for i := range min(len(peers), window) {
			if !slices.Contains(l.parents[:], nil) {
				return
			}
			add(peers[(int(p.seq)+st+i)%len(peers)])
		}
	}
	for _, g := range p.swarm.groups {
		around(g.full.peers)
	}
	if len(l.kids) == 0 { // else paths to the root would grow together
		around(p.group.lanes[st].peers)
	}
	if l.parents[1] == nil {
		for _, q := range p.swarm.sources {
			add(q)
		}
	}
	if st == max(0, int(p.home)) && p.swarm.wanting <= chained {
		s.offerSeed(p, st)
	}
}

// offerSeed makes a seed the last of p's parents in a stripe, if none is among its
// parents: p may find that it is much faster than all of them.
func (s *State) offerSeed(p *peer, st int) {
	for i := range p.links {
		for _, q := range p.links[i].parents {
			if q != nil && q.role == source {
				return
			}
		}
	}
	f := search{s: s, p: p, st: st}
	for _, q := range p.swarm.sources {
		if f.allowed(q) {
			s.unlink(p, st, backups)
			s.attach(p, q, st, backups)
			return
		}
	}
}
