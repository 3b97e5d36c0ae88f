package sched

import (
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// effort is of how many peers a call deals with the consequences, or with those of one
// in a broad swarm; what is left is done by the ticks that follow at once. So no message
// waits long for those before it, however many children a host had in however many swarms.
const effort = 16

// afford reports whether the call under way may deal with one more peer of a swarm,
// and counts that.
func (s *State) afford(w *swarm) bool {
	cost := 1
	if len(w.peers) > broad {
		cost = effort
	}
	if s.spent+cost > effort {
		return false
	}
	s.spent += cost
	return true
}

// depart takes the peers of hosts that have left out of their swarms.
func (s *State) depart() {
	n := 0
	for n < len(s.leaving) && s.afford(s.leaving[n].swarm) {
		s.leave(s.leaving[n], s.leaving[n].host.left)
		n++
	}
	s.leaving = slices.Delete(s.leaving, 0, n)
}

// hasten takes all peers of a host that left out of their swarms: it is back.
func (s *State) hasten(from p2p.HostID) {
	s.leaving = slices.DeleteFunc(s.leaving, func(p *peer) bool {
		if p.host.ID != from {
			return false
		}
		s.leave(p, p.host.left)
		return true
	})
}

// wait has an orphan wait for other parents. Those on whom others hang, who all wait for
// what those get, come first.
func (s *State) wait(p *peer) {
	if p.orphan {
		return
	}
	p.orphan = true
	at := len(s.orphans)
	if p.heads() {
		at = s.heads
		s.heads++
	}
	s.orphans = slices.Insert(s.orphans, at, p)
}

// heads reports whether a peer has children where it has no parent.
func (p *peer) heads() bool {
	for st := range p.links {
		if p.links[st].prim > 0 && p.links[st].parents[0] == nil {
			return true
		}
	}
	return false
}

// forego takes a peer from among those who wait for other parents.
func (s *State) forego(p *peer) {
	p.orphan = false
	at := slices.Index(s.orphans, p)
	s.orphans = slices.Delete(s.orphans, at, at+1)
	if at < s.heads {
		s.heads--
	}
}

// rehome gives orphans other parents. Until then they go on with those they know.
func (s *State) rehome() {
	for len(s.orphans) > 0 && s.afford(s.orphans[0].swarm) {
		k := s.orphans[0]
		s.forego(k)
		s.settle(k)
		s.touch(k)
	}
}
