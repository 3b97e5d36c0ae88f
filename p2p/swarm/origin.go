package swarm

import (
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// How long a host without what it needs waits for its peers and its scheduler
// before it goes to the origin by itself.
const (
	neededAfter  = 2 * time.Second  // somebody waits and nothing is on its way here, whatever the scheduler says
	allowedAfter = 2 * time.Second  // the scheduler said that it may
	silentAfter  = 10 * time.Second // the scheduler said nothing
	lostAfter    = 3 * time.Second  // no scheduler can be reached, nor a parent
	hopeless     = 20 * time.Second // whatever the scheduler says
	led          = 2 * time.Minute  // … if it says nothing but has given parents: they may wait for the origin, too
	originPause  = 500 * time.Millisecond
	originAfter  = 250 * time.Millisecond // the next request begins while the one before has not brought anything
	originTurn   = 10 * time.Second       // that a blob waits for others
	hearing      = 2 * time.Second        // until the scheduler knows for sure what it was told
	aloneRun     = 1                      // requests of a host that goes by itself: others may do so, too
)

// sourcing is what a host may and does fetch of a blob from the origin.
type sourcing struct {
	owner    bool // the scheduler made this seed the owner
	whole    bool // and wants all of the blob
	waits    bool // because somebody waits for it
	leased   int  // pieces of the lease that are not here
	width    int  // stripes of it
	granted  int  // pieces of it when it came
	hurry    bool // half of it is done, which the scheduler is to hear at once
	until    time.Time
	allowed  bool      // to go by itself
	answered bool      // the scheduler said whether
	alone    bool      // nothing else moves: it goes by itself
	retake   bool      // what is in doubt comes from the origin only
	roots    uint8     // stripes that come from nobody else, without a scheduler
	left     time.Time // by the last scheduler
	requests int
	failures int
	blocked  time.Time
	since    time.Time // the blob is wanted
	moved    time.Time // a piece arrived last, or parents came
}

// fetch makes this host the owner of a blob.
func (h *Host) fetch(m p2p.Fetch) {
	b := h.blob(m.Blob)
	b.origin = m.Origin
	whole := b.source.whole
	b.source.owner, b.source.whole, b.source.waits = true, m.Whole, !m.Background
	if whole && !b.filling() {
		h.relent(b)
	}
	if b.source.since.IsZero() {
		b.source.since = h.now
	}
	h.enlist(b)
	b.source.blocked = time.Time{}
	h.fill(b)
	h.wake(h.now.Add(beat))
}

// leaseOf replaces the host's lease of a blob. What it lists although the
// scheduler knows that it is here is to be taken again.
func (h *Host) leaseOf(b *blob, m p2p.Lease) {
	b.unlease()
	for _, i := range m.Pieces {
		if i < 0 || i >= b.n || b.lease.has(i) {
			continue
		}
		if b.have.has(i) && !slices.Contains(b.notes.got, i) && h.now.Sub(b.notes.toldAt) >= hearing {
			h.again(b, i)
		}
		if !b.have.has(i) {
			b.lease.add(i)
			b.source.leased++
		}
	}
	b.source.until = h.now.Add(m.For)
	b.source.granted, b.source.hurry = b.source.leased, false
	b.source.width = 0
	for s := range b.stripes {
		if b.lease.meets(stripeMask(b.stripes, 1<<s)) {
			b.source.width++
		}
	}
	h.yield(b)
	h.fill(b)
	h.wake(h.now.Add(beat))
}

// unlease forgets what is this host's to take from the origin.
func (b *blob) unlease() {
	clear(b.lease)
	b.source.leased = 0
}

// again makes a piece one to be taken from the origin, unless it was; then its
// sum is told again.
func (h *Host) again(b *blob, i int) {
	switch {
	case b.mine.has(i):
		b.notes.sums = append(b.notes.sums, i)
	case !b.verified:
		h.forgo(b, i)
	}
}

// fillOrigin asks the origin for what is this host's to fetch.
func (h *Host) fillOrigin(b *blob) {
	s := &b.source
	if h.now.Before(s.blocked) || b.count == b.n && s.leased == 0 {
		return
	}
	if s.leased > 0 && b.filling() {
		// Other hosts fetch the other stripes, on the same way.
		ours := h.leased(b)
		h.drainOrigin(b, func(i int) bool { return ours(i) && !b.peersHave(i) }, max(1, h.cfg.OriginRequests*s.width/b.stripes))
	}
	if b.audits.any() {
		h.drainOrigin(b, b.audits.has, h.cfg.OriginRequests)
	}
	if s.owner {
		h.needOrigin(b, h.cfg.OriginRequests+1)
		if s.whole {
			h.drainOrigin(b, func(i int) bool { return true }, h.cfg.OriginRequests)
		}
	}
	if s.roots != 0 && b.filling() {
		// Those below wait for it, as they did when this was a lease.
		h.drainOrigin(b, func(i int) bool { return s.roots&(1<<b.Stripe(i)) != 0 && !b.peersHave(i) }, aloneRun)
	}
	if s.alone {
		h.needOrigin(b, h.cfg.OriginRequests)
		if b.filling() {
			h.drainOrigin(b, func(i int) bool { return !b.peersHave(i) }, aloneRun)
		}
	}
}

// leased returns what of the lease is still to do, after it has forgotten what
// has come from elsewhere, or the whole of it when its time is over.
func (h *Host) leased(b *blob) func(int) bool {
	over := !h.now.Before(b.source.until)
	for i := range b.lease.all() {
		if over || b.have.has(i) {
			b.lease.remove(i)
			b.source.leased--
		}
	}
	return b.lease.has
}

// peersHave reports whether a parent that can be asked has the piece.
func (b *blob) peersHave(i int) bool { return b.rarity[i] > 0 && !b.doubt.has(i) }

// yield ends requests to the origin that were made a moment ago for what
// somebody else is to fetch now.
func (h *Host) yield(b *blob) {
	for _, r := range slices.Clone(b.under) {
		if r.from == nil && r.next == r.first && h.now.Sub(r.heard) < originPause && !h.ours(b, r.next) {
			h.cancel(r)
		}
	}
}

// ours reports whether a piece is still this host's to take from the origin.
func (h *Host) ours(b *blob, i int) bool {
	s := &b.source
	return b.audits.has(i) || s.owner || s.alone || s.roots&(1<<b.Stripe(i)) != 0 || b.lease.has(i) || slices.Contains(b.needed, i)
}

// needOrigin asks the origin for needed pieces, in order.
func (h *Host) needOrigin(b *blob, most int) {
	for k, i := range b.needed {
		if b.source.requests >= most || k >= maxNeeded {
			return
		}
		if !b.here(i) && !b.asked.has(i) && (b.source.owner || !b.peersHave(i)) {
			h.askOrigin(b, i, func(j int) bool { return j == i })
		}
	}
}

// drainOrigin asks the origin for the pieces that are this host's, in the blob's
// order; one that goes by itself, or took over a part of another's lease, begins
// where its own order says, so that two do not fetch the same.
func (h *Host) drainOrigin(b *blob, ours func(int) bool, most int) {
	start := 0
	if s := &b.source; !s.owner && len(h.links) > 0 && (s.alone || s.width < b.stripes) {
		start = int(h.salt % uint64(b.n))
	}
	for k := 0; k < b.n && b.source.requests < most && h.originOpen(b, most); k++ {
		i := (start + k) % b.n
		if ours(i) && !b.have.has(i) && b.requests[i] == 0 {
			h.askOrigin(b, i, ours)
		}
	}
}

func (h *Host) askOrigin(b *blob, first int, ours func(int) bool) {
	last, most := first, h.originRun(b)
	for i := first + 1; i < min(b.n, first+most); i++ {
		if !ours(i) || b.have.has(i) || b.requests[i] > 0 {
			break
		}
		last = i
	}
	r := h.newRequest(b, nil, first, last)
	for i := first; i <= last; i++ {
		b.asked.add(i)
		b.requests[i]++
	}
	b.source.requests++
	h.origins++
	h.originAt, h.proven = h.now, false
	h.do(Origin{r.id, b.Blob, b.origin, first, last, b.urgency(first)})
}

// originRun returns how many pieces the next request to the origin is for at
// most. Requests side by side should be in different stripes, so that all graphs
// get pieces evenly: each begins five stripes after the one before. They should
// not end together either, so that the line is not idle while the next begin:
// those made while few are under way are shorter.
func (h *Host) originRun(b *blob) int {
	if b.source.owner && h.origins >= h.cfg.OriginRequests {
		return 1 // its turn has not come; it is only not to stand still
	}
	n := int(h.cfg.OriginRun / b.size(0))
	if n > b.stripes {
		n -= (n - 5) % b.stripes
	}
	return max(1, n*(b.source.requests+1)/h.cfg.OriginRequests)
}

// originOpen reports whether another request may be made for what nobody waits
// for: at most so many are under way, of all blobs. They begin one after the other, each when the one before has shown what the
// line is worth: on a thin one, several at once would all take long.
func (h *Host) originOpen(b *blob, most int) bool {
	if h.origins >= most && (b.source.requests > 0 || h.now.Sub(b.lastMoved()) < originTurn) {
		return false
	}
	if h.origins == 0 || h.proven {
		return true
	}
	next := h.originAt.Add(originAfter)
	if h.now.Before(next) {
		h.wake(next)
		return false
	}
	return true
}

// originFailed makes the origin rest.
func (h *Host) originFailed(b *blob, _ p2p.Failure) {
	pause := min(originPause<<min(b.source.failures, 6), longestPause)
	b.source.failures++
	b.source.blocked = h.now.Add(pause)
	h.wake(b.source.blocked)
}

// lastMoved returns when something of the blob arrived last, or it was wanted.
func (b *blob) lastMoved() time.Time {
	if b.source.moved.After(b.source.since) {
		return b.source.moved
	}
	return b.source.since
}

// patience decides whether the host goes to the origin by itself: when nothing
// has moved for a while that depends on who might still help.
func (h *Host) patience(b *blob) {
	h.respoil(b)
	s := &b.source
	if b.count == b.n || !b.wanted && len(b.needed) == 0 {
		s.alone, s.retake, s.roots = false, false, 0
		return
	}
	if len(h.cfg.Schedulers) == 0 || s.retake {
		s.alone = true
		return
	}
	last := b.lastMoved()
	if h.flight+int64(h.origins) > 0 && h.moved.After(last) && h.now.Sub(last) < hopeless {
		last = h.moved // it is the turn of other blobs
	}
	still := h.now.Sub(last)
	s.roots = h.roots(b)
	switch {
	case b.link == nil:
		s.alone = still >= lostAfter && len(b.parents) == 0
	case s.answered && s.allowed:
		s.alone = still >= allowedAfter
	case !s.answered:
		s.alone = still >= silentAfter
	default:
		s.alone = false
	}
	if len(b.needed) > 0 && (still >= neededAfter && h.flight == 0 || still >= silentAfter) {
		s.alone = true
	}
	limit := hopeless
	if b.link != nil && s.answered && slices.ContainsFunc(b.parents, func(p *parent) bool { return p.usable(h.now) }) {
		limit = led
	}
	if b.filling() && still >= limit {
		s.alone = true
	}
}

// roots returns the stripes that this host takes from the origin when there is no
// scheduler: those that were its own to lease, and later those of which all parents
// are lost. What the scheduler made of the hosts has no circles, so that in each
// stripe somebody is such a root, and the others wait for what it passes on.
func (h *Host) roots(b *blob) uint8 {
	if b.link != nil || len(b.parents) == 0 {
		return 0
	}
	var listed, left uint8
	for _, p := range b.parents {
		listed |= p.stripes
		if !p.lost && !p.liar && !h.now.Before(p.shunned) {
			left |= p.stripes
		}
	}
	if h.now.Sub(b.source.left) < lostAfter {
		left = listed
	}
	return (1<<b.stripes - 1) &^ left
}
