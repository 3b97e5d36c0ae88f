package swarm

import (
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	lateAfter  = time.Second // a request without a piece for so long may be late
	lateFactor = 4           // and is, if others took a quarter of it
)

// A request is what was asked of a parent or the origin and has not ended.
type request struct {
	id          uint64
	blob        *blob
	from        *parent // nil: the origin
	first, last int
	next        int // piece that comes next
	began       time.Time
	heard       time.Time
	check       bool // for the scheduler: nothing is kept
	early       bool // the parent did not say that it has them
	through     bool // it lacks some, and is to fetch them
	vain        bool // and has said meanwhile that it has them no more
}

func (h *Host) newRequest(b *blob, from *parent, first, last int) *request {
	h.lastID++
	r := &request{id: h.lastID, blob: b, from: from, first: first, last: last, next: first, began: h.now, heard: h.now}
	h.requests[r.id] = r
	b.under = append(b.under, r)
	return r
}

// ask asks a parent for pieces.
func (h *Host) ask(b *blob, p *parent, first, last int, through bool) {
	r := h.newRequest(b, p, first, last)
	r.through = through
	for i := first; i <= last; i++ {
		b.asked.add(i)
		b.requests[i]++
		b.flight += b.size(i)
		h.flight += b.size(i)
	}
	p.requests++
	p.under++
	h.under++
	h.do(Request{ID: r.id, Peer: p.host, Blob: b.Blob, First: first, Last: last, Through: through, Priority: b.urgency(first)})
}

// askEarly asks a parent for a piece that it may be about to get. As long as it has
// nothing to send, nothing is on the way: so this does not count as such.
func (h *Host) askEarly(b *blob, p *parent, piece int) {
	r := h.newRequest(b, p, piece, piece)
	r.early = true
	b.asked.add(piece)
	b.requests[piece]++
	h.do(Request{ID: r.id, Peer: p.host, Blob: b.Blob, First: piece, Last: piece, Wait: true, Priority: b.urgency(piece)})
}

// endEarly ends such requests of parents that are not first any more for what was
// asked of them: they come from others now.
func (h *Host) endEarly(b *blob) {
	for _, r := range slices.Clone(b.under) {
		if r.early && r.from.first&(1<<b.Stripe(r.first)) == 0 {
			h.cancel(r)
		}
	}
}

func (b *blob) urgency(i int) p2p.Priority {
	if slices.Contains(b.needed, i) {
		return p2p.OnDemand
	}
	return b.pressing()
}

// pressing returns how urgent all of the blob is: to this host, or to others for whom it
// is to fetch it.
func (b *blob) pressing() p2p.Priority {
	p := b.priority
	if b.source.whole && !b.wanted {
		p = p2p.Background
	}
	if b.source.whole && b.source.waits {
		p = min(p, p2p.Prefetch)
	}
	return p
}

// done reports whether all that the request has still to bring is here.
func (r *request) done(b *blob) bool {
	for i := r.next; i <= r.last; i++ {
		if !b.here(i) {
			return false
		}
	}
	return true
}

// advance takes the pieces before next off the request.
func (h *Host) advance(r *request, next int) {
	b := r.blob
	for ; r.next < next && r.next <= r.last; r.next++ {
		if r.check {
			continue
		}
		if b.requests[r.next]--; b.requests[r.next] == 0 {
			b.asked.remove(r.next)
		}
		if r.from != nil && !r.early {
			b.flight -= b.size(r.next)
			h.flight -= b.size(r.next)
		}
	}
	if r.next <= r.last {
		return
	}
	if h.requests[r.id] == r {
		delete(h.requests, r.id)
		b.under = slices.DeleteFunc(b.under, func(o *request) bool { return o == r })
		switch {
		case r.from == nil:
			b.source.requests--
			h.origins--
		case !r.check && !r.early:
			r.from.requests--
			r.from.under--
			h.under--
		}
	}
}

// cancel ends a request that is of no more use.
func (h *Host) cancel(r *request) {
	h.advance(r, r.last+1)
	h.do(Cancel{r.id})
}

// lessen ends what parents were asked for only because all of the blob was
// wanted. What comes from the origin may be this host's to fetch for others.
func (h *Host) lessen(b *blob) {
	for _, r := range slices.Clone(b.under) {
		if r.from != nil && !r.check && !r.isNeeded() {
			h.cancel(r)
		}
	}
}

// relent ends what the origin was asked for only because others wanted all of the blob.
func (h *Host) relent(b *blob) {
	for _, r := range slices.Clone(b.under) {
		if r.from == nil && !r.isNeeded() && !b.audits.has(r.next) && !b.lease.has(r.next) {
			h.cancel(r)
		}
	}
}

// isNeeded reports whether somebody waits for what is left of a request.
func (r *request) isNeeded() bool {
	return slices.ContainsFunc(r.blob.needed, func(i int) bool { return r.next <= i && i <= r.last })
}

// Piece says that a piece of a request has arrived, with this sum, and how long
// it took with its bytes on the way.
func (h *Host) Piece(now time.Time, id uint64, piece int, sum p2p.Sum, took time.Duration) []Action {
	h.begin(now)
	r := h.requests[id]
	if r == nil || piece < r.next || piece > r.last {
		return h.end()
	}
	b := r.blob
	h.advance(r, piece+1)
	all := now.Sub(r.heard)
	if r.early {
		all = took // before that it had nothing to send
	}
	r.heard = now
	size := b.size(piece)
	if r.from != nil {
		r.from.measure(size, took, all)
		r.from.missing = 0
		if !r.through { // or else it says how fast those are whom the parent asked
			b.notes.transfer(r.from.host.ID, size, max(took, all), p2p.None)
		}
		h.meter.add(now, size)
	} else {
		b.source.failures = 0
		h.proven, h.originAt = true, now
		b.notes.transfer("", size, took, p2p.None)
	}
	if r.check {
		h.checked(r, piece, sum)
		return h.end()
	}
	h.arrive(r, piece, sum)
	if r.from == nil && r.next <= r.last && !h.ours(b, r.next) {
		h.cancel(r)
	}
	h.report(b)
	h.refill(b)
	return h.end()
}

// Failed says that a request ended without the pieces that have not arrived.
func (h *Host) Failed(now time.Time, id uint64, f p2p.Failure) []Action {
	h.begin(now)
	r := h.requests[id]
	if r == nil {
		return h.end()
	}
	b, next := r.blob, r.next
	h.advance(r, r.last+1)
	switch {
	case r.check:
		h.answer(b, next, r.from.host.ID, f)
		return h.end()
	case r.from == nil:
		b.notes.transfer("", 0, 0, f)
		h.acquit(b)
		h.originFailed(b, f)
	case r.early && (f == p2p.Missing || f == p2p.Stalled):
		// It never said that it has it.
	case r.vain && f == p2p.Missing:
		// It has said so.
	case f == p2p.Missing && b.old[next].at.Add(outdatedFor).After(r.began):
		b.lacked(r.from, next, r.last) // it has dropped it, too
	default:
		b.notes.transfer(r.from.host.ID, 0, 0, f)
		h.blame(r.from.peer, f)
		if f == p2p.Missing {
			h.missing(b, r.from, next, r.last)
		}
	}
	h.report(b)
	h.refill(b)
	h.wake(now.Add(beat))
	return h.end()
}

// missing notes that a parent does not have what it said.
func (h *Host) missing(b *blob, p *parent, first, last int) {
	p.missing++
	p.told = h.now
	b.lacked(p, first, last)
}

// lacked notes that a parent does not have these pieces now, whatever it said.
func (b *blob) lacked(p *parent, first, last int) {
	for i := first; i <= last; i++ {
		if p.have.has(i) {
			p.have.remove(i)
			p.count--
			b.rarity[i]--
		}
	}
}

// late asks other parents for what has been under way for too long, so that
// one slow or silent parent does not hold up the whole. The first to bring a
// piece wins.
func (h *Host) late(b *blob) {
	line := h.line()
	for _, r := range slices.Clone(b.under) {
		if r.from == nil || r.check || h.now.Sub(r.heard) < max(line, h.lateness(b, r)) {
			continue
		}
		for i := r.next; i <= r.last; i++ {
			if b.requests[i] > 1 || b.here(i) {
				continue
			}
			if p := h.other(b, r.from, i); p != nil {
				h.ask(b, p, i, i, false)
			}
		}
	}
}

// lateness returns how long a request may be without a piece: several times
// what a piece takes from others.
func (h *Host) lateness(b *blob, r *request) time.Duration {
	usual := b.usual(r.from)
	if usual == 0 {
		return 10 * lateAfter
	}
	least, factor := lateAfter, lateFactor
	if b.ending() && b.asked.count() == b.n-b.count-b.held.count() {
		least, factor = lateAfter/4, lateFactor/2 // nothing is left to do but wait for these
	}
	d := time.Duration(float64(factor) * float64(b.size(r.next)) / usual * float64(time.Second))
	return max(d, least)
}

// line returns twice as long as this host's line is full with what is under way. What
// parents owe that are silent, or hardly send anything, is not on the line.
func (h *Host) line() time.Duration {
	rate := h.meter.rate(h.now)
	if rate == 0 {
		return 0
	}
	n := int64(0)
	for _, r := range h.requests {
		if r.from == nil || r.check || r.early || r.from.slow {
			continue
		}
		for i := r.next; i <= r.last; i++ {
			n += r.blob.size(i)
		}
	}
	return time.Duration(2 * float64(n) / rate * float64(time.Second))
}

// usual returns the median rate of the parents other than p, or 0. One whose piece
// came from a buffer on the way seems to be a thousand times as fast.
func (b *blob) usual(p *parent) float64 {
	rates := make([]float64, 0, len(b.parents))
	for _, o := range b.parents {
		if o.rate > 0 && o != p {
			rates = append(rates, o.rate)
		}
	}
	if len(rates) == 0 {
		return 0
	}
	slices.Sort(rates)
	return rates[(len(rates)-1)/2]
}

// other returns the best parent but p that has a piece and is free, or nil.
func (h *Host) other(b *blob, p *parent, piece int) *parent {
	var best *parent
	for _, o := range b.parents {
		if o == p || !o.usable(h.now) || !o.have.has(piece) || o.requests >= 2*h.cfg.PerPeer || o.slow {
			continue
		}
		if best == nil || o.requests < best.requests {
			best = o
		}
	}
	return best
}
