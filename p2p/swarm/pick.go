package swarm

import (
	"cmp"
	"math/bits"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	ahead       = 500 * time.Millisecond // of data that should be on its way
	lateFor     = 2 * time.Second        // that backups have had what first parents lack, at least
	latePieces  = 24                     // and at least as long as so many pieces take
	fewPieces   = 4
	fewRequests = 4              // under way to peers: with less, each of them gets more than its own
	endingBelow = 8              // one part of so many is missing: the end is near
	eagerBelow  = 8              // pieces on their way near the end: anyone is asked for anything
	leastSize   = 8              // pieces that may be on their way however slow the host is
	starveFor   = time.Second    // with hardly anything on its way: seeds are asked for what peers should have; peers after a quarter of it
	maxNeeded   = 64             // needed pieces looked at in one go
	together    = time.Second    // between wants of one image at most
	peerTurn    = originTurn / 2 // that a blob waits for others
	maxHeld     = 64             // pieces held without a sum while a scheduler could tell it
)

// fill asks for all that may be asked for now of a blob, and before that of those that
// go before it.
func (h *Host) fill(b *blob) {
	if h.requeue || b.behind {
		h.refill(b)
		return
	}
	h.fillNow(b)
}

func (h *Host) fillNow(b *blob) {
	if len(b.needed) > 0 {
		h.fillNeeded(b)
	}
	if b.filling() {
		h.fillRare(b)
	}
	h.fillOrigin(b)
}

// refill asks for all that may be asked for now, of b and of other blobs: what was
// wanted first goes first, and of what was wanted together the largest, so that hosts
// that want several work on the same one, and what is left to do at the end, when
// the last one is here, is little; but before it those of one stripe, which many
// hosts cannot share the work of.
func (h *Host) refill(b *blob) {
	if h.requeue {
		h.requeue = false
		h.queue = h.queue[:0]
		for _, o := range h.order {
			if o.filling() {
				h.queue = append(h.queue, o)
			}
		}
		slices.SortStableFunc(h.queue, func(x, y *blob) int {
			return cmp.Or(cmp.Compare(x.pressing(), y.pressing()), cmp.Compare(min(x.stripes, 2), min(y.stripes, 2)), x.batch.Compare(y.batch), cmp.Compare(y.Size, x.Size))
		})
	}
	for i, o := range h.queue {
		o.behind = i > 0 && h.fromSeed(o)
	}
	for _, o := range h.queue {
		h.fillNow(o)
	}
	if b != nil && !b.filling() {
		h.fillNow(b)
	}
}

// fromSeed reports whether one host fetches a blob for all: then they do well to take
// its blobs one after the other. Without a seed each fetches a part of each blob, and
// the others would wait for those parts.
func (h *Host) fromSeed(b *blob) bool {
	return h.cfg.Self.Seed || slices.ContainsFunc(b.parents, func(p *parent) bool { return p.host.Seed })
}

// fillNeeded asks for the needed pieces, in order, of the best parent that has
// them; what nobody has is fetched through a parent, if the blob is lazy and
// thus nobody fills it by himself.
func (h *Host) fillNeeded(b *blob) {
	left := b.needed[:0]
	for _, i := range b.needed {
		if !b.here(i) {
			left = append(left, i)
		}
	}
	b.needed = left
	for k := 0; k < min(len(b.needed), maxNeeded); k++ {
		i := b.needed[k]
		if b.asked.has(i) {
			continue
		}
		p := h.holder(b, i)
		through := false
		if p == nil && b.lazy && !b.audits.has(i) {
			p, through = h.upstream(b, i), true
		}
		if p != nil {
			h.ask(b, p, i, h.needRun(b, p, k, through), through)
		}
	}
}

// needRun extends a request for the k-th needed piece by those that follow it.
func (h *Host) needRun(b *blob, p *parent, k int, through bool) int {
	last := b.needed[k]
	size := b.size(last)
	for _, i := range b.needed[k+1:] {
		if i != last+1 || b.asked.has(i) || b.doubt.has(i) || p.have.has(i) == through || size+b.size(i) > h.cfg.Run {
			break
		}
		last = i
		size += b.size(i)
	}
	return last
}

// holder returns the best parent that has a piece and room for a request, or nil.
func (h *Host) holder(b *blob, piece int) *parent {
	var best *parent
	for _, p := range b.parents {
		if !p.usable(h.now) || !p.have.has(piece) || p.requests >= 2*h.cfg.PerPeer || !b.trusts(p, piece) {
			continue
		}
		if best == nil || better(p, best, b.Stripe(piece)) {
			best = p
		}
	}
	return best
}

// better compares parents for a piece that is needed now.
func better(x, y *parent, stripe int) bool {
	if x.slow != y.slow {
		return y.slow
	}
	if x.requests != y.requests {
		return x.requests < y.requests
	}
	return x.rank[stripe] < y.rank[stripe]
}

// upstream returns the first parent of a piece's stripe that can be asked to
// fetch what it lacks, or nil.
func (h *Host) upstream(b *blob, piece int) *parent {
	var best *parent
	s := b.Stripe(piece)
	for _, p := range b.parents {
		if p.rank[s] < backupRank && p.usable(h.now) && (best == nil || p.rank[s] < best.rank[s]) {
			best = p
		}
	}
	return best
}

// fillRare asks parents for pieces that few have. Each parent is asked first
// for the stripes it is listed first for, then backups for what is late or has no
// first parent now. Only a host that starves asks anyone for anything, and seeds
// last.
func (h *Host) fillRare(b *blob) {
	if b.Scope() != p2p.Normal {
		h.fillSmall(b)
		return
	}
	h.fillOutrun(b)
	if h.full(b) {
		return
	}
	led := h.fillFirst(b)
	h.fillEarly(b)
	eager := b.flight < eagerBelow*b.size(0) && b.ending()
	for _, p := range b.parents {
		if p.host.Seed {
			h.fillDoubt(b, p)
			continue
		}
		if p.slow {
			continue
		}
		h.drain(b, p, nil, ^led, 1)
		if b.anyLate {
			h.drain(b, p, b.late, p.stripes, 1)
		}
		if eager {
			h.drain(b, p, nil, ^uint8(0), 1)
		}
	}
	if !h.starving(b, starveFor/4) {
		return
	}
	for _, p := range b.parents {
		if !p.host.Seed || h.starving(b, starveFor) {
			h.drain(b, p, nil, ^uint8(0), 1)
		}
	}
}

// fillFirst asks first parents for their stripes, and returns which stripes have
// one. Where not all can be asked, the rarest pieces go first: others wait for
// this host to pass them on. One that is slow is asked only for what no faster
// parent has, or nobody below it would ever get that.
func (h *Host) fillFirst(b *blob) (led uint8) {
	for _, p := range b.parents {
		if p.leads(h.now) {
			led |= p.first
		}
	}
	for !h.full(b) {
		var best *parent
		var first, last int
		for _, p := range b.parents {
			if p.first == 0 || !p.usable(h.now) || p.under >= h.depth(b, p) || p.count == 0 {
				continue
			}
			var of set
			if p.slow {
				of = b.beyond(p)
			}
			f, l := h.pick(b, p, of, stripeMask(b.stripes, p.first))
			if f >= 0 && (best == nil || cmp.Or(cmp.Compare(p.under, best.under), cmp.Compare(b.rarity[f], b.rarity[first])) < 0) {
				best, first, last = p, f, l
			}
		}
		if best == nil {
			break
		}
		h.ask(b, best, first, last, false)
	}
	return led
}

// fillEarly asks seeds that have said nothing yet for one piece each, if nothing at
// all is here or on its way: the first of what they are listed first for, since a
// seed takes a blob from the origin in its order. It is on its way as soon as the
// seed has it; to hear of it first, and then ask, would take a round trip more.
func (h *Host) fillEarly(b *blob) {
	if b.count > 0 || b.held.count() > 0 || b.flight > 0 {
		return
	}
	for _, p := range b.parents {
		if !p.host.Seed || p.early || p.count > 0 || !p.leads(h.now) {
			continue
		}
		mask := stripeMask(b.stripes, p.first)
		for w := range b.asked {
			if left := mask &^ b.asked[w]; left != 0 && w*64+bits.TrailingZeros64(left) < b.n {
				p.early = true
				h.askEarly(b, p, w*64+bits.TrailingZeros64(left))
				break
			}
		}
	}
}

// fillDoubt asks a seed for the pieces that are in doubt: nobody else is asked for them.
func (h *Host) fillDoubt(b *blob, p *parent) {
	for i := range b.doubt.all() {
		if p.under >= h.cfg.PerPeer || !p.usable(h.now) {
			return
		}
		if p.have.has(i) && !b.asked.has(i) && b.trusts(p, i) {
			h.ask(b, p, i, i, false)
		}
	}
}

// beyond returns the pieces of a slow parent that no other has that is not slow.
func (b *blob) beyond(p *parent) set {
	left := slices.Clone(p.have)
	for _, o := range b.parents {
		for w := range left {
			if !o.slow {
				left[w] &^= o.have[w]
			}
		}
	}
	return left
}

// leads reports whether p can be asked for the stripes it is first for.
func (p *parent) leads(now time.Time) bool { return p.first != 0 && !p.slow && p.usable(now) }

// fillFrom asks one parent, which has something new.
func (h *Host) fillFrom(b *blob, p *parent) {
	if len(b.needed) > 0 || b.flight == 0 || p.slow || !b.filling() {
		h.fill(b)
		return
	}
	h.drain(b, p, nil, p.first, h.depth(b, p))
}

// age finds the pieces that backups had some time ago and that the first
// parents still lack.
func (h *Host) age(b *blob) {
	snap := h.now.Sub(b.seenAt) >= max(lateFor, h.pieces(b, latePieces))
	b.anyLate = false
	for w := range b.seen {
		var had, first uint64
		for _, p := range b.parents {
			had |= p.have[w]
			if p.leads(h.now) {
				first |= p.have[w] & stripeMask(b.stripes, p.first)
			}
		}
		b.late[w] = had & b.seen[w] &^ (b.have[w] | b.held[w] | b.asked[w] | first)
		b.anyLate = b.anyLate || b.late[w] != 0
		if snap {
			b.seen[w], b.fresh[w] = b.fresh[w], had
		}
	}
	if snap {
		b.seenAt = h.now
	}
}

// fillSmall asks the best parent for a blob in one piece; whether it has it
// already, nobody has said.
func (h *Host) fillSmall(b *blob) {
	var best *parent
	for _, p := range b.parents {
		if p.usable(h.now) && b.trusts(p, 0) && (best == nil || p.missing < best.missing) {
			best = p
		}
	}
	if best != nil && !b.here(0) && !b.asked.has(0) {
		h.ask(b, best, 0, 0, true)
	}
}

// ending reports whether so little is missing that it does not matter any more who
// passes it on: all that counts is to have it.
func (b *blob) ending() bool { return (b.n-b.count)*endingBelow <= b.n }

// starving reports whether so little has been on its way to this host for so long
// that any source will do. What seeds send on that account does not end it.
func (h *Host) starving(b *blob, wait time.Duration) bool {
	last := b.source.since
	if b.fed.After(last) {
		last = b.fed
	}
	wait = max(wait, h.pieces(b, fewPieces))
	if h.meter.rate(h.now) == 0 {
		wait = max(wait, starveFor) // who knows what the line is worth
	}
	return h.flight < leastSize*b.size(0)/4 && h.now.Sub(last) >= wait
}

// pieces returns how long so many pieces take on this host's line, at most 30 s.
func (h *Host) pieces(b *blob, n int) time.Duration {
	rate := h.meter.rate(h.now)
	if rate < 1 {
		return 0
	}
	return time.Duration(min(30, float64(n)*float64(b.size(0))/rate) * float64(time.Second))
}

// full reports whether as much is on its way as should be.
func (h *Host) full(b *blob) bool {
	if b.flight < leastSize*b.size(0) && b.link != nil && len(b.arrived) >= maxHeld && !b.blind && b.held.count() >= maxHeld {
		b.blind = h.now.Sub(b.source.moved) >= starveFor
		return !b.blind
	}
	if b.flight == 0 && (!b.behind || h.now.Sub(b.lastMoved()) >= peerTurn) {
		return false // of several blobs, none stands still for long
	}
	return h.flight >= h.limit(b)
}

// limit returns how many bytes should be on their way to this host.
func (h *Host) limit(b *blob) int64 {
	return min(h.cfg.MaxInFlight, max(leastSize*b.size(0), int64(h.meter.rate(h.now)*ahead.Seconds())))
}

// depth returns how many requests a parent should have at a time, of all blobs: one
// for each stripe that it is first for, since it gives each request the same share of
// its line. More only where the way there and back is known to be long beside what a
// piece takes, or others have too few to fill this host's line: where queues on the
// way grow, one connection may get but a part of what is free. One more is for a blob that
// has waited for others for long: who stands still for too long goes to the origin.
func (h *Host) depth(b *blob, p *parent) int {
	n := max(min(bits.OnesCount8(p.first), fewRequests), fewRequests-(h.under-p.under))
	if p.idle*4 > p.piece {
		n = max(n, h.cfg.PerPeer)
	}
	if b.flight == 0 && h.now.Sub(b.lastMoved()) >= peerTurn {
		n++
	}
	return n
}

// drain asks a parent for pieces of some stripes until it has enough to do.
func (h *Host) drain(b *blob, p *parent, of set, stripes uint8, most int) {
	if p.count == 0 || stripes == 0 {
		return
	}
	for p.under < most && p.usable(h.now) && !h.full(b) {
		first, last := h.pick(b, p, of, stripeMask(b.stripes, stripes))
		if first < 0 {
			return
		}
		h.ask(b, p, first, last, false)
	}
}

// pick returns a run of pieces to ask of a parent: the rarest it has, and its neighbours
// if they are as rare. Among equals those come first that somebody who reads the blob
// reads first; if nobody does it is the host's own order, so that hosts have different ones.
func (h *Host) pick(b *blob, p *parent, of set, mask uint64) (first, last int) {
	first = -1
	var least uint64
	salt, mix := uint32(h.salt), uint32(2654435761)
	if b.pressing() < p2p.Background {
		salt, mix = 0, 1
	}
	for w := range p.have {
		word := b.lacks(p, w) & mask
		if of != nil {
			word &= of[w]
		}
		for ; word != 0; word &= word - 1 {
			i := w*64 + bits.TrailingZeros64(word)
			if b.doubt.has(i) && !b.trusts(p, i) {
				continue
			}
			if key := uint64(b.rarity[i])<<32 | uint64(salt^uint32(i)*mix); first < 0 || key < least {
				first, least = i, key
			}
		}
	}
	if first < 0 {
		return -1, -1
	}
	return h.run(b, p, first, mask)
}

// lacks returns the pieces of word w that a parent has and this host should ask for.
func (b *blob) lacks(p *parent, w int) uint64 {
	return p.have[w] &^ b.have[w] &^ b.held[w] &^ b.asked[w]
}

// run extends a request for one piece by its neighbours, unless it is but a sign that
// the blob is not forgotten.
func (h *Host) run(b *blob, p *parent, i int, mask uint64) (first, last int) {
	first, last = i, i
	if b.behind && h.flight >= h.limit(b) {
		return first, last
	}
	size := b.size(i)
	fits := func(k int) bool {
		if k < 0 || k >= b.n || b.lacks(p, k/64)&mask&(1<<(k%64)) == 0 || b.rarity[k] != b.rarity[i] || b.doubt.has(k) {
			return false
		}
		size += b.size(k)
		return size <= h.cfg.Run
	}
	for fits(last + 1) {
		last++
	}
	for fits(first - 1) {
		first--
	}
	return first, last
}

// A meter measures how many bytes a second arrive from peers.
type meter struct {
	start time.Time
	bytes int64
	last  float64
}

const meterFor = 500 * time.Millisecond

func (m *meter) add(now time.Time, n int64) {
	m.roll(now)
	m.bytes += n
}

func (m *meter) rate(now time.Time) float64 {
	m.roll(now)
	return m.last
}

func (m *meter) roll(now time.Time) {
	d := now.Sub(m.start)
	if d < meterFor {
		return
	}
	m.last = float64(m.bytes) / d.Seconds()
	m.start, m.bytes = now, 0
}
