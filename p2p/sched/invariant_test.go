package sched

import (
	"fmt"
	"slices"
	"testing"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// check fails the test if anything is not as it always must be.
func check(t testing.TB, s *State) {
	t.Helper()
	if err := invariants(s); err != nil {
		t.Fatal(err)
	}
}

func invariants(s *State) error {
	peers := 0
	for d, w := range s.swarms {
		peers += len(w.peers)
		if w.blob.Digest != d || len(w.peers) == 0 {
			return fmt.Errorf("swarm %s of %d peers under %s", w.blob.Digest, len(w.peers), d)
		}
		if err := swarmInvariants(s, w); err != nil {
			return fmt.Errorf("swarm %s: %w", d, err)
		}
	}
	for id, h := range s.hosts {
		if h.ID != id || h.left != "" {
			return fmt.Errorf("host %s under %s, left %q", h.ID, id, h.left)
		}
		peers -= len(h.peers)
	}
	if err := backlogInvariants(s); err != nil {
		return err
	}
	peers -= len(s.leaving)
	if peers != 0 || len(s.dirty)+len(s.hungry)+len(s.out) != 0 {
		return fmt.Errorf("%d peers without host, %d dirty, %d hungry, %d unsent", peers, len(s.dirty), len(s.hungry), len(s.out))
	}
	return trialInvariants(s)
}

func trialInvariants(s *State) error {
	checks := map[p2p.HostID]int{}
	for k, tr := range s.trials {
		if s.hosts[k.accused] == nil || tr.witness != "" && s.hosts[tr.witness] == nil {
			return fmt.Errorf("trial of %s by %s", k.accused, tr.witness)
		}
		checks[tr.witness]++
	}
	for _, h := range s.hosts {
		if h.checks != checks[h.ID] || h.Seed && h.checks > atOnce {
			return fmt.Errorf("%s is a witness in %d trials, and counted in %d", h.ID, checks[h.ID], h.checks)
		}
	}
	return nil
}

// backlogInvariants looks at what calls have left to ticks.
func backlogInvariants(s *State) error {
	for i, p := range s.leaving {
		if p.host.left == "" || s.hosts[p.host.ID] != nil || p.host.peers[p.swarm] != p || p.role != idle || slices.Contains(s.leaving[:i], p) {
			return fmt.Errorf("%s is to leave swarm %s as %v, left %q", p.host.ID, p.swarm.blob.Digest, p.role, p.host.left)
		}
	}
	if s.heads < 0 || s.heads > len(s.orphans) {
		return fmt.Errorf("%d of %d orphans head others", s.heads, len(s.orphans))
	}
	for i, p := range s.orphans {
		if !p.orphan || p.host.peers[p.swarm] != p || slices.Contains(s.orphans[:i], p) {
			return fmt.Errorf("%s is to get parents in swarm %s", p.host.ID, p.swarm.blob.Digest)
		}
	}
	if (len(s.leaving)+len(s.orphans) > 0) != (!s.Next().IsZero() && !s.Next().After(s.now)) && len(s.untold)+len(s.standing)+len(s.active) == 0 {
		return fmt.Errorf("%d are to leave, %d to get parents, next tick at %v", len(s.leaving), len(s.orphans), s.Next())
	}
	return nil
}

func swarmInvariants(s *State, w *swarm) error {
	wanting, fulls, starving, alone, listed := 0, 0, 0, 0, 0
	words := map[word]int{}
	for i, p := range w.peers {
		if int(p.index) != i || p.host.peers[w] != p || s.hosts[p.host.ID] != p.host && !slices.Contains(s.leaving, p) {
			return fmt.Errorf("peer %s is misplaced", p.host.ID)
		}
		if err := peerInvariants(s, p); err != nil {
			return fmt.Errorf("peer %s: %w", p.host.ID, err)
		}
		for n, is := range map[*int]bool{&wanting: p.wants, &fulls: p.role == full, &starving: p.starves, &alone: p.alone, &listed: p.role == node} {
			if is {
				*n++
			}
		}
		words[p.word]++
		if held := count(w.book, p); held != p.holds {
			return fmt.Errorf("peer %s holds %d pieces, and %d in the book", p.host.ID, p.holds, held)
		}
		if p.orphan != slices.Contains(s.orphans, p) {
			return fmt.Errorf("peer %s is an orphan: %v", p.host.ID, p.orphan)
		}
		if p.starves != slices.Contains(w.starving, p) {
			return fmt.Errorf("peer %s starves %v", p.host.ID, p.starves)
		}
	}
	nodes, full := 0, 0
	for _, g := range w.groups {
		full += len(g.full.peers)
		for st := range g.lanes {
			nodes += len(g.lanes[st].peers)
		}
	}
	if wanting != w.wanting || fulls != w.fulls || full != fulls || starving != len(w.starving) || alone != w.alone || nodes != listed {
		return fmt.Errorf("%d/%d wanting, %d/%d/%d full, %d/%d starving, %d/%d alone, %d/%d nodes",
			wanting, w.wanting, fulls, w.fulls, full, starving, len(w.starving), alone, w.alone, nodes, listed)
	}
	if err := sumInvariants(s, w, words); err != nil {
		return err
	}
	if slices.Contains(s.active, w) != (wanting > 0) {
		return fmt.Errorf("active with %d wanting", wanting)
	}
	if w.owner != nil && (w.owner.role != source || w.owner.host.peers[w] != w.owner) {
		return fmt.Errorf("owner %s is %v", w.owner.host.ID, w.owner.role)
	}
	for st := range w.stripes {
		if err := acyclic(w, st); err != nil {
			return err
		}
	}
	return nil
}

func sumInvariants(s *State, w *swarm, words map[word]int) error {
	u := &w.sums
	if words[matched] != u.vouchers || words[spoilt] != u.spoilers || u.turned {
		return fmt.Errorf("%d/%d vouchers, %d/%d spoilers, turned %v", words[matched], u.vouchers, words[spoilt], u.spoilers, u.turned)
	}
	known := 0
	for i := range u.claims {
		c, r := &u.claims[i], u.rivals[i]
		if c.weight() > 0 {
			known++
		}
		if r.weight() > c.weight() || c.first.weight < c.second.weight || (c.first.by == "") != (c.weight() == 0) {
			return fmt.Errorf("piece %d: claim %+v, rival %+v", i, c, r)
		}
	}
	if known != u.known {
		return fmt.Errorf("%d sums, counted %d", known, u.known)
	}
	if a := u.audit; a != nil && (a.left.Count() == 0 || !slices.Contains(s.audited, w) || slices.ContainsFunc(a.sent, func(x auditing) bool { return x.by.host.peers[w] != x.by })) {
		return fmt.Errorf("audit %+v", a)
	}
	return nil
}

func peerInvariants(s *State, p *peer) error {
	prim, backs := 0, 0
	for st := range p.links {
		l := &p.links[st]
		here, leaves := 0, 0
		for _, k := range l.kids {
			at := slices.Index(k.links[st].parents[:], p)
			if at < 0 || k.swarm != p.swarm {
				return fmt.Errorf("%s is no child", k.host.ID)
			}
			if at == 0 {
				here++
				if !k.homeIn(st) {
					leaves++
				}
			} else {
				backs++
			}
		}
		prim += here
		if leaves != int(l.leaves) {
			return fmt.Errorf("stripe %d: %d leaves, counted %d", st, leaves, l.leaves)
		}
		if here != int(l.prim) {
			return fmt.Errorf("stripe %d: %d first children, counted %d", st, here, l.prim)
		}
		for at, q := range l.parents {
			if q == nil {
				continue
			}
			if !slices.Contains(q.links[st].kids, p) || slices.Contains(l.parents[:at], q) {
				return fmt.Errorf("stripe %d: parent %s", st, q.host.ID)
			}
			if q.links[st].level >= l.level {
				return fmt.Errorf("stripe %d: level %d below %s with %d", st, l.level, q.host.ID, q.links[st].level)
			}
			if q == p.swarm.origin {
				continue
			}
			if q.host.left != "" {
				continue // for as long as it is in State.leaving
			}
			if banned, _ := s.outcast(q.host.ID); banned || s.hosts[q.host.ID] != q.host || !q.host.Share || q.role == idle {
				return fmt.Errorf("stripe %d: parent %s must not be one", st, q.host.ID)
			}
		}
		if !p.wants && l.parents[0] != nil {
			return fmt.Errorf("has parents and wants nothing")
		}
		if st > 0 && p.links[st].parents[0] == nil != p.starves && p.wants && p.role != source && !p.starves && !p.orphan {
			return fmt.Errorf("lacks a parent in stripe %d", st)
		}
	}
	if prim != int(p.prim) || backs != int(p.backs) {
		return fmt.Errorf("%d and %d children, counted %d and %d", prim, backs, p.prim, p.backs)
	}
	if limit := 16*s.cfg.Fanout + 4*4*max(p.host.Slots, s.cfg.Fanout); prim > limit {
		return fmt.Errorf("%d first children, limit %d", prim, limit)
	}
	if p.have.Full() && p.wants {
		return fmt.Errorf("has everything and wants it")
	}
	return nil
}

// acyclic removes those without parents until nobody is left.
func acyclic(w *swarm, st int) error {
	above := map[*peer]int{}
	var free []*peer
	for _, p := range append([]*peer{w.origin}, w.peers...) {
		n := 0
		if p.links != nil {
			for _, q := range p.links[st].parents {
				if q != nil {
					n++
				}
			}
		}
		if above[p] = n; n == 0 {
			free = append(free, p)
		}
	}
	for len(free) > 0 {
		p := free[len(free)-1]
		free = free[:len(free)-1]
		delete(above, p)
		if p.links == nil {
			continue
		}
		for _, k := range p.links[st].kids {
			if above[k]--; above[k] == 0 {
				free = append(free, k)
			}
		}
	}
	if len(above) > 0 {
		return fmt.Errorf("stripe %d: %d peers in cycles", st, len(above))
	}
	return nil
}

func count(book []*peer, p *peer) int {
	n := 0
	for _, q := range book {
		if q == p {
			n++
		}
	}
	return n
}
