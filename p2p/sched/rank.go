package sched

import (
	"cmp"
	"iter"
	"slices"
)

// choose finds the first parent of p in a stripe, best kind first:
//
//  1. hosts that have everything, with a free slot;
//  2. for nodes, in their home stripe: the owner seed, or else the origin (a
//     lease), also in the place of a child that is no node;
//  3. nodes whose home the stripe is, with a free slot; for another such node also
//     in the place of a child that is none, so that the tree grows in breadth, and if it
//     has some below it, of one that has fewer generations below it (see descend);
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
	if p.width() > 0 {
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
		if q, k := f.descend(); q != nil {
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

// line finds the first parent of p in a narrow stripe: who has everything, else a seed or
// the origin, else who came first, nearby if anybody is.
func (s *State) line(p *peer, st int) *peer {
	f := search{s: s, p: p, st: st, far: beyond}
	if q := f.queues(func(g *group) *queue { return &g.full }, 0); q != nil {
		return q
	}
	for _, q := range f.sources() {
		if s.spare(q, st) > 0 && f.allowed(q) {
			return q
		}
	}
	if q := f.oldest(p.group); q != nil {
		return q
	}
	for _, g := range p.swarm.groups {
		if q := f.oldest(g); q != nil {
			return q
		}
	}
	return nil
}

// oldest finds the one of a group that came first and has a place in a narrow graph,
// one of those who only read if p does.
func (f *search) oldest(g *group) (best *peer) {
	look := func(q *queue) {
		for _, c := range q.open.first(f.far, f.free) {
			if best != nil && c.seq > best.seq {
				return
			}
			if c.served(f.st) && c.prims(f.st) < f.p.width() && f.s.spare(c, f.st) > 0 && f.allowed(c) {
				best = c
				return
			}
		}
	}
	for l := range g.lanes {
		look(&g.lanes[l])
	}
	if f.p.role == reader {
		look(&g.readers)
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
	far   int // how many parents of one queue are looked at
}

// last considers everyone who could serve at all.
func (f *search) last() *peer {
	w := f.p.swarm
	for _, q := range w.sources {
		f.consider(q, f.s.spare(q, f.st) > -4*f.s.cfg.Fanout)
	}
	something := func(peers []*peer) {
		for _, q := range peers[:min(len(peers), 4*window)] {
			f.consider(q, q.have.Offers(&f.p.have, f.st) > 0 && int(q.prim) < f.s.cfg.Fanout)
		}
	}
	if f.best == nil {
		something(w.others)
	}
	if f.best == nil {
		something(f.p.group.readers.peers)
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
	if over == 0 {
		f.among(slices.Values(q.open.first(f.far, f.free)), over)
		return
	}
	f.among(func(yield func(*peer) bool) { // from a place of its own, so that all are used
		for i := range min(len(q.peers), f.far) {
			if !yield(q.peers[(int(f.p.seq)+f.st+i)%len(q.peers)]) {
				return
			}
		}
	}, over)
}

// among considers the first of some parents that have a place. One child more than its
// budget nobody has on whom others whose home the stripe is hang: all below would wait.
func (f *search) among(from iter.Seq[*peer], over int) {
	seen := 0
	for c := range from {
		if seen >= window {
			return
		}
		least := -over * c.budget(&f.s.cfg)
		busy := false
		if over == crowded {
			least, busy = -1, c.links != nil && c.links[f.st].leaves < c.links[f.st].prim
		}
		if !busy && f.s.spare(c, f.st) > least {
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

// descend finds a place as near to the root as there is for a node that has others
// below it, from the root down: they all wait as much longer as it is deeper. It is a
// free slot, or that of a child whose place p can take, or of one which has fewer
// generations below it than p, and gets itself a place further down.
func (f *search) descend() (parent, displaced *peer) {
	st, high := f.st, f.p.height(f.st, maxHeight)
	if high == 0 {
		return nil, nil
	}
	full := f.p.group.full.peers
	queue := append(slices.Clone(full[:min(len(full), window)]), f.sources()...)
	for i := 0; i < len(queue) && i < maxDescent; i++ {
		q := queue[i]
		if q.links == nil {
			continue
		}
		if q.group == f.p.group || q.root() {
			if k, ok := f.step(q, high); ok && f.allowed(q) {
				return q, k
			}
		}
		for _, k := range q.links[st].kids {
			if k != f.p && k.links[st].parents[0] == q && k.homeIn(st) && k.prims(st) > 0 {
				queue = append(queue, k)
			}
		}
	}
	return nil, nil
}

// step reports whether p, that has so many generations below it, can be a child of q,
// and in whose place.
func (f *search) step(q *peer, high int) (displaced *peer, ok bool) {
	if f.s.spare(q, f.st) > 0 {
		return nil, true
	}
	if k := q.leaf(f.st, f.p); k != nil {
		return k, true
	}
	k, n := q.lowest(f.st, f.p, high)
	return k, n < high && k.host.Near(f.p.host.Host) > 0
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

// lowest returns the child of q, other than p, with the fewest generations below it, and
// how many those are, counted up to most.
func (q *peer) lowest(st int, p *peer, most int) (k *peer, least int) {
	least = most
	for _, x := range q.links[st].kids {
		if x == p || x.lined || x.links[st].parents[0] != q {
			continue
		}
		if n := x.height(st, least); k == nil || n < least {
			k, least = x, n
		}
	}
	return k, least
}

// height returns how many generations are below q in a stripe, along the children that
// have most children themselves, counted up to most.
func (q *peer) height(st, most int) (n int) {
	for n < most && q.prims(st) > 0 && !q.lined {
		n++
		next := q
		for _, k := range q.links[st].kids {
			if k.links[st].parents[0] == q && (next == q || k.prims(st) > next.prims(st)) {
				next = k
			}
		}
		q = next
	}
	return n
}

// slack is how many pieces of a stripe one may be behind another and still
// count as level with it.
func slack(p *peer) int {
	return 1 + p.have.Len()/p.swarm.stripes/8
}

func (f *search) allowed(q *peer) bool {
	return q.host != f.p.host && q != f.p && !f.s.avoids(f.p, q) && !f.under(q)
}

// under reports whether q has p above it, from first parent to first parent. Where it
// is so only by way of other parents, those are in the way, and go: see loosen. Who is so
// far below the level of p's children that it takes long to find out is no parent either.
func (f *search) under(q *peer) bool {
	floor := f.p.floor(f.st)
	for range maxDeeper {
		if q == nil || q.links == nil || q.links[f.st].level < floor {
			return false
		}
		if q = q.links[f.st].parents[0]; q == f.p {
			return true
		}
	}
	return true
}

// stands reports whether q can be a parent of p for when the first one fails. Of a node
// on whom others hang in the stripe, or will, nobody is that is as deep as it is: ways to
// the root stay short, and such parents are seldom in the way of a better first one.
func (f *search) stands(q *peer) bool {
	p, st := f.p, f.st
	if (p.homeIn(st) || len(p.links[st].kids) > 0) && q.links != nil && q.links[st].level >= p.links[st].level {
		return false
	}
	return q.host != p.host && !f.s.avoids(p, q)
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
	if !q.served(f.st) {
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
