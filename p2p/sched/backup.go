package sched

import "slices"

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
			slices.Contains(l.parents[:], q) || int(q.backs) >= 2*q.budget(&s.cfg) || !f.stands(q) {
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
		if f.stands(q) {
			s.unlink(p, st, backups)
			s.attach(p, q, st, backups)
			return
		}
	}
}
