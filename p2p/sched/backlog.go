package sched

import (
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A call does no more than so much; what is left is done by the ticks that follow
// at once. So no message waits long for those before it, however many children a
// host had in however many swarms.
const (
	effort  = 16 // of one call
	inBroad = 8  // of those, for a peer of a broad swarm; 1 in others
)

// afford reports whether the call under way may deal with one more peer of a swarm,
// and counts that.
func (s *State) afford(w *swarm) bool {
	cost := 1
	if len(w.peers) > broad {
		cost = inBroad
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

// rehome gives orphans other parents. Until then they go on with those they know.
func (s *State) rehome() {
	n := 0
	for n < len(s.orphans) && s.afford(s.orphans[n].swarm) {
		k := s.orphans[n]
		k.orphan = false
		s.settle(k)
		s.touch(k)
		n++
	}
	s.orphans = slices.Delete(s.orphans, 0, n)
}
