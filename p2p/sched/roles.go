package sched

import (
	"cmp"
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A group is the peers of one data centre in one swarm, in the order in which
// they became what they are.
type group struct {
	lanes   []queue // per stripe: the nodes whose home it is
	full    queue
	readers queue
	first   uint32 // the stripe that is home to its first node; to the next one it is the next stripe
	homes   uint32 // nodes that got a home stripe
}

// A roster is peers by their time of joining.
type roster []*peer

func (r roster) find(p *peer) (int, bool) {
	return slices.BinarySearchFunc(r, p, func(a, b *peer) int { return cmp.Compare(a.seq, b.seq) })
}

func (r *roster) add(p *peer) {
	if i, ok := r.find(p); !ok {
		*r = slices.Insert(*r, i, p)
	}
}

func (r *roster) remove(p *peer) {
	if i, ok := r.find(p); ok {
		*r = slices.Delete(*r, i, i+1)
	}
}

// first returns the first n that fit, and drops those before that do not.
func (r *roster) first(n int, fits func(*peer) bool) []*peer {
	i, kept := 0, 0
	for ; i < len(*r) && kept < n; i++ {
		if p := (*r)[i]; fits(p) {
			(*r)[kept] = p
			kept++
		}
	}
	*r = slices.Delete(*r, kept, i)
	return (*r)[:kept]
}

// A queue holds peers. Those that are not in open have no free slot, those not
// in inner neither that nor a child that a node could take the place of.
type queue struct {
	peers, open, inner roster
}

func (q *queue) add(p *peer) {
	q.peers.add(p)
	q.open.add(p)
	q.inner.add(p)
}

func (q *queue) remove(p *peer) {
	q.peers.remove(p)
	q.open.remove(p)
	q.inner.remove(p)
}

// reopen says that p got a free slot or a child.
func (q *queue) reopen(p *peer) {
	q.open.add(p)
	q.inner.add(p)
}

// review has all looked at again: some may have become able to serve more.
func (q *queue) review() {
	q.open = append(q.open[:0], q.peers...)
	q.inner = append(q.inner[:0], q.peers...)
}

// review has those looked at again whose home is a stripe, and with the first one all others.
func (w *swarm) review(st int) {
	for _, g := range w.groups {
		g.lanes[st].review()
		if st == 0 {
			g.full.review()
			g.readers.review()
		}
	}
}

func (w *swarm) groupOf(idc string) *group {
	if g := w.byIDC[idc]; g != nil {
		return g
	}
	if len(w.groups) >= maxGroups {
		return w.groups[0]
	}
	g := &group{lanes: make([]queue, w.stripes), first: uint32(len(w.groups))}
	w.byIDC[idc] = g
	w.groups = append(w.groups, g)
	return g
}

// roleOf says how a peer may serve now.
func (s *State) roleOf(p *peer) role {
	banned, slow := s.outcast(p.host.ID)
	switch {
	case banned || p.host.left != "" || !p.host.Share || s.now.Before(p.doubted):
		return idle
	case p.host.Seed && !slow && (p.have.Full() || p.swarm.owner == p):
		return source
	case slow || p.host.Seed || !p.have.Full() && !p.wants:
		if p.have.Count() > 0 {
			return other
		}
		return idle
	case p.have.Full():
		return full
	case s.aside(p):
		return reader
	}
	return node
}

// aside reports whether a peer reads lazily while others want all of the blob. It gets
// nothing by itself, so none of those hangs on it, nor does it stand between them and
// the origin. Those who want all begin by reading: while a swarm is new, and where most
// want all, who comes is taken for one of them at first, so that it has its place in the
// broad graph when it says so.
func (s *State) aside(p *peer) bool {
	w := p.swarm
	if !p.lazy || w.fillers == 0 {
		return false
	}
	filling := s.now.Sub(w.since) < staysLazy || 2*w.fillers > w.wanting
	return !filling || s.now.Sub(p.lazySince) >= staysLazy
}

// relist gives a peer the role that it can fill now. Peers that were waiting
// for a new root are attached to it.
func (s *State) relist(p *peer) {
	r := s.roleOf(p)
	if r == p.role {
		return
	}
	s.setRole(p, r)
	switch r {
	case full, source:
		s.rooted(p)
		s.noteHungry(p.swarm)
	case node, reader, other:
		s.noteHungry(p.swarm)
	}
}

func (s *State) setRole(p *peer, r role) {
	w := p.swarm
	switch p.role {
	case node:
		p.group.lanes[p.home].remove(p)
	case full:
		p.group.full.remove(p)
		w.fulls--
	case reader:
		p.group.readers.remove(p)
	case source:
		w.sources = without(w.sources, p)
	case other:
		w.others = without(w.others, p)
	}
	if r == node && p.home < 0 {
		p.home = int8((p.group.first + p.group.homes) % uint32(w.stripes))
		p.group.homes++
		w.homes++
	}
	home, leaf := p.homeLink()
	p.role = r
	p.recount(home, leaf)
	switch r {
	case node:
		p.group.lanes[p.home].add(p)
	case full:
		p.group.full.add(p)
		w.fulls++
	case reader:
		p.group.readers.add(p)
	case source:
		w.sources = append(w.sources, p)
	case other:
		w.others = append(w.others, p)
	}
}

// homeLink returns the place where p counts as a leaf, or does not as long as it
// is a node, and whether it does so now.
func (p *peer) homeLink() (l *link, leaf bool) {
	if p.links == nil || p.home < 0 {
		return nil, false
	}
	if q := p.links[p.home].parents[0]; q != nil {
		return &q.links[p.home], !p.homeIn(int(p.home))
	}
	return nil, false
}

// recount notes that p has become, or is no more, a leaf in its home stripe.
func (p *peer) recount(l *link, was bool) {
	switch is := l != nil && !p.homeIn(int(p.home)); {
	case l == nil || is == was:
	case is:
		l.leaves++
	default:
		l.leaves--
	}
}

// root reports whether a peer needs no parents: every stripe is, or will be, there.
func (p *peer) root() bool { return p.role == full || p.role == source }

// served reports whether somebody gives p a stripe.
func (p *peer) served(st int) bool { return p.links != nil && p.links[st].parents[0] != nil }

// budget returns how many children a peer may have as their first parent.
func (p *peer) budget(cfg *Config) int {
	if k := p.width(); k > 0 {
		return p.able(cfg, max(2, k*p.swarm.stripes))
	}
	return p.able(cfg, cfg.Fanout)
}

// able returns how many of n children a peer can have: less when those it has measure
// that it is slow.
func (p *peer) able(cfg *Config, n int) int {
	limit := 4 * cmp.Or(p.host.Slots, cfg.Fanout)
	return max(1, min(p.host.up.scale(n), limit))
}

// spare returns how many more children a peer may have in a stripe. A seed
// takes few in each, so that it sends each byte once as long as peers pass it on.
func (s *State) spare(p *peer, st int) int {
	if p == p.swarm.origin {
		return 1 - p.prims(st)
	}
	k := p.width()
	if p.role == source {
		n := max(1, p.able(&s.cfg, s.cfg.Fanout)/p.swarm.stripes)
		if k > 0 {
			n = min(n, k)
		}
		return n - p.prims(st)
	}
	n := p.budget(&s.cfg) - int(p.prim)
	if k > 0 {
		n = min(n, k-p.prims(st))
	}
	return n
}

// width returns how many children a peer has in each stripe of a narrow graph; 0: its
// slots say how many. A host that serves eight children at once
// gives each an eighth of its line. That is right where it does so in one of eight
// stripes, and others in theirs. But what is read lazily is read by all at the
// same time, a range of one stripe after the other, and passed on as it comes; and
// a small blob has one stripe only. There few children, or one, are better.
func (p *peer) width() int {
	if p.role != reader && !p.swarm.narrow() {
		return 0
	}
	return p.swarm.width()
}

// width returns the same for all who only read.
func (w *swarm) width() int {
	if w.wanting <= chained {
		return 1
	}
	return 2
}

// narrow reports whether nobody wants all of a blob that has several stripes.
func (w *swarm) narrow() bool { return !w.whole || w.stripes == 1 }

func (p *peer) prims(st int) int {
	if p.links == nil {
		return 0
	}
	return int(p.links[st].prim)
}

// avoids reports whether p had trouble with q a short while ago.
func (s *State) avoids(p, q *peer) bool {
	for _, a := range p.avoid {
		if a.id == q.host.ID && s.now.Before(a.until) {
			return true
		}
	}
	return false
}

func (s *State) shun(p *peer, id p2p.HostID) {
	s.forgive(p, id)
	if len(p.avoid) >= maxWitnesses {
		p.avoid = slices.Delete(p.avoid, 0, 1)
	}
	p.avoid = append(p.avoid, avoided{id, s.now.Add(s.cfg.SlowFor)})
}

func (s *State) forgive(p *peer, id p2p.HostID) {
	p.avoid = slices.DeleteFunc(p.avoid, func(a avoided) bool { return a.id == id || !s.now.Before(a.until) })
}
