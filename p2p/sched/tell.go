package sched

import (
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// ask asks a host for the sums of pieces that it has and nobody has spoken of,
// which is so after the scheduler was restarted.
func (s *State) ask(p *peer) {
	w := p.swarm
	if p.asked || w.asked >= maxWitnesses || w.wanting == 0 || w.sums.known == p.have.Len() ||
		p.lease != 0 || p.alone || p == w.owner && !p.have.Full() || p.have.Count() == 0 || w.blob.Scope() == p2p.Tiny {
		return
	}
	for i := range p.have.All() {
		if _, ok := w.sums.get(i); !ok {
			p.asked = true
			w.asked++
			s.send(p.host.ID, p2p.Ask{Digest: w.blob.Digest})
			return
		}
	}
}

// askAll asks those who have most first.
func (s *State) askAll(w *swarm) {
	w.asked = 0
	for _, p := range w.peers {
		p.asked = false
	}
	s.askSome(w)
}

func (s *State) askSome(w *swarm) {
	ask := func(from []*peer) {
		for _, p := range from[:min(len(from), maxChecks)] {
			s.ask(p)
		}
	}
	ask(w.sources)
	for _, g := range w.groups {
		ask(g.full.peers)
	}
	ask(w.others)
}

// told tells new sums now, or soon if some were told a moment ago.
func (s *State) told(w *swarm) {
	if len(w.sums.fresh) > 0 && !w.untold {
		w.untold = true
		s.untold = append(s.untold, w)
	}
	s.tell()
}

// tell tells new sums to all who want the blob.
func (s *State) tell() {
	s.untold = slices.DeleteFunc(s.untold, func(w *swarm) bool {
		if s.now.Before(w.toldAt.Add(s.cfg.Flush)) {
			return false
		}
		s.flush(w)
		w.untold = false
		return true
	})
}

// flush tells new sums now.
func (s *State) flush(w *swarm) {
	if len(w.sums.fresh) == 0 {
		return
	}
	slices.Sort(w.sums.fresh)
	for _, m := range w.sums.runs(w.blob, slices.Compact(w.sums.fresh)) {
		s.toWanting(w, m)
	}
	w.sums.fresh, w.toldAt = nil, s.now
}

// toWanting tells all who want the blob; once sums were taken back also those who may
// have all of it, with a piece that is wrong.
func (s *State) toWanting(w *swarm, m p2p.Message) {
	s.out = slices.Grow(s.out, w.wanting)
	for _, p := range w.peers {
		if p.wants || len(w.sums.old) > 0 && !p.host.Seed && p.word != matched {
			s.send(p.host.ID, m)
		}
	}
}

// tellAll tells a host all sums there are.
func (s *State) tellAll(p *peer) {
	s.askSome(p.swarm)
	var all []int
	for i, c := range p.swarm.sums.claims {
		if c.weight() > 0 {
			all = append(all, i)
		}
	}
	for _, m := range p.swarm.sums.runs(p.swarm.blob, all) {
		s.send(p.host.ID, m)
	}
}

// runs makes messages of the sums of some pieces. What lies between two of them
// is told again if that saves a message.
func (u *sums) runs(b p2p.Blob, pieces []int) []p2p.Digests {
	var out []p2p.Digests
	for len(pieces) > 0 {
		m := p2p.Digests{Digest: b.Digest, First: pieces[0], Verified: u.verified}
		i := pieces[0]
		for len(pieces) > 0 && len(m.Sums) < maxSums {
			sum, ok := u.get(i)
			if !ok || i > pieces[0] || pieces[0]-i > 16 {
				break
			}
			m.Sums = append(m.Sums, sum)
			if i == pieces[0] {
				pieces = pieces[1:]
			}
			i++
		}
		if len(m.Sums) == 0 {
			pieces = pieces[1:] // dropped in the meantime
			continue
		}
		out = append(out, m)
	}
	return out
}
