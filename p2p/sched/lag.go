package sched

import (
	"slices"
	"time"
)

const (
	lagAfter = 400 * time.Millisecond // in its place, before a peer is judged
	lagLeast = 6                      // pieces that it should have got by then
	lagBy    = 4                      // times fewer than those beside it is too few
)

// A placed is what a peer had of its home stripe when it got the first parent that it
// has there now. All that are below it wait for what it gets.
type placed struct {
	at  time.Time // zero: it has none
	has int
}

// gain returns how many pieces of its home stripe a peer has got in its place, and in
// what time; no time if that is too short to say anything.
func (s *State) gain(p *peer) (pieces int, took time.Duration) {
	if took = s.now.Sub(p.placed.at); p.placed.at.IsZero() || took < lagAfter {
		return 0, 0
	}
	return p.have.CountStripe(int(p.home)) - p.placed.has, took
}

// lag makes a peer a leaf for a while that has children in its home stripe and gets
// on far slower than those who have the same parent: its link is thin, and all below
// it would get the stripe as slowly. Its children notice that, too, but each has to
// wait for some pieces before, which takes longer the slower it is.
func (s *State) lag(p *peer) {
	if p.role != node || p.lazy || p.prims(int(p.home)) == 0 {
		return // who reads lazily passes on what it is asked for
	}
	st := int(p.home)
	up := p.links[st].parents[0]
	if up == nil || len(p.swarm.sources) == 0 { // else what is in doubt may hold them up
		return
	}
	got, took := s.gain(p)
	due := min(int(s.usual(up, p)*took.Seconds()), got+up.have.Offers(&p.have, st))
	if took > 0 && due >= lagLeast && got*lagBy < due {
		s.rest(p)
		s.settle(p)
	}
}

// usual returns the median of the rates, in pieces a second, at which the children of
// a peer but k get their home stripes from it; 0 if those are too few to tell.
func (s *State) usual(q, k *peer) float64 {
	var rates []float64
	for st := range q.links {
		for _, o := range q.links[st].kids {
			if o == k || !o.homeIn(st) || o.links[st].parents[0] != q {
				continue
			}
			if got, took := s.gain(o); took > 0 {
				rates = append(rates, float64(got)/took.Seconds())
			}
		}
	}
	if len(rates) < 2 {
		return 0
	}
	slices.Sort(rates)
	return rates[(len(rates)-1)/2]
}

// hurry looks at those on whom the whole of a stripe depends.
func (s *State) hurry(w *swarm) {
	for _, q := range slices.Clone(w.sources) {
		for st := range q.links {
			for _, k := range slices.Clone(q.links[st].kids) {
				if k.homeIn(st) && k.links[st].parents[0] == q {
					s.lag(k)
				}
			}
		}
	}
}
