package swarm

import "time"

// Parents are asked before seeds, or seeds would serve everybody. But hosts with thin
// lines may be among them, and who has no others would be as slow as they are while a
// seed has room for it. So a seed is tried when little comes, and used for as long as it
// is much faster.
const (
	tryAfter = 500 * time.Millisecond // without a piece
	tryEvery = 10 * time.Second
)

// fillOutrun asks seeds that are much faster than all other parents together for
// anything, however much is on its way from those, and tries seeds of which that is not
// known.
func (h *Host) fillOutrun(b *blob) {
	for _, p := range b.parents {
		if !p.host.Seed || p.under > 0 || p.count == 0 || !p.usable(h.now) {
			continue
		}
		others := b.pace(h.now)
		if others == 0 {
			return // there are none, or they have nothing yet
		}
		faster := p.rate > slowBy*others
		if !faster && !h.mayTry(b, p) {
			continue
		}
		first, last := h.pick(b, p, nil, ^uint64(0))
		if first < 0 {
			first, last = b.overtake(p)
		}
		if first < 0 {
			continue
		}
		if !faster {
			p.tried, last = h.now, first
		}
		h.ask(b, p, first, last, false)
	}
}

func (h *Host) mayTry(b *blob, p *parent) bool {
	return h.now.Sub(h.moved) >= tryAfter && h.now.Sub(b.lastMoved()) >= tryAfter && h.now.Sub(p.tried) >= tryEvery
}

// pace returns how many bytes a second all parents but seeds bring together, as far
// as that is known: 0 if nothing is.
func (b *blob) pace(now time.Time) (sum float64) {
	for _, p := range b.parents {
		if !p.host.Seed {
			sum += b.paceOf(p, now) * float64(max(1, p.under))
		}
	}
	return sum
}

// paceOf returns the rate of one request to a parent, 0 if it is not known: what was
// measured, or less if such a request takes longer.
func (b *blob) paceOf(p *parent, now time.Time) float64 {
	rate := p.rate
	for _, r := range b.under {
		if waited := now.Sub(r.heard); r.from == p && waited > 0 {
			if most := float64(b.size(r.next)) / waited.Seconds(); rate == 0 || most < rate {
				rate = most
			}
		}
	}
	return rate
}

// overtake returns pieces that are on their way from others and nothing else is left:
// those of one request which only that brings, and which p has. It returns -1 if there
// are none.
func (b *blob) overtake(p *parent) (first, last int) {
	only := func(i int) bool {
		return p.have.has(i) && !b.here(i) && !b.doubt.has(i) && b.requests[i] == 1
	}
	for _, r := range b.under {
		if r.from == nil || r.from.host.Seed || r.check {
			continue
		}
		for first = r.next; first <= r.last; first++ {
			if !only(first) {
				continue
			}
			for last = first; last < r.last && only(last+1); last++ {
			}
			return first, last
		}
	}
	return -1, -1
}
