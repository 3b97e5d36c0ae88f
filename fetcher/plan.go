package fetcher

import (
	"context"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

const (
	spanMin   = 4 << 20   // length of the ranges that a long read is fetched in,
	spanMax   = 8 << 20   // for small and for large blobs
	ahead     = 4         // ranges under way for one long read
	bridge    = 64 << 10  // bytes that are there already, fetched again to save a request
	near      = 512 << 10 // how far a request may be from the byte that an on-demand
	soon      = 250 * time.Millisecond
	ownMax    = 1 << 20   // … read waits for; else it asks for so many bytes itself
	almost    = 512 << 10 // a request with so little to come is let finish
	grace     = 2 * time.Second
	fullAhead = 1 << 20 // fetched ahead of a reader while the disk is full
)

// span returns the length of the ranges that a long read of the blob is
// fetched in.
func (c *content) span() int64 {
	const mib = 1 << 20
	return min(max((c.size/8+mib-1)/mib*mib, spanMin), spanMax)
}

// cut returns the end of the range that begins at off, within [off, end).
// Ranges of long reads end at multiples of the span, so that readers of one
// blob ask for the same ones; a short rest is added to the last.
func (c *content) cut(off, end int64, ranges int64) int64 {
	span := c.span()
	at := (off/span + ranges) * span
	if end-at < span/4 {
		return end
	}
	return at
}

// plan sees to it that everything r wants next is there or under way. The
// caller holds c.mu.
func (c *content) plan(r *Reader) {
	c.readers[r] = struct{}{}
	r.from, r.to = r.pos, r.end
	if r.only.follows {
		r.from, r.to, r.next, r.pieces = 0, 0, r.end, true
		return
	}
	r.pieces = c.byPieces(r)
	switch {
	case r.pieces:
		r.next = r.end
		return
	case c.f.store.Full():
		r.to = min(r.end, r.pos+fullAhead)
	case r.long && r.begun:
		r.to = c.cut(r.pos, r.end, ahead)
	case r.long: // what comes later would share the line with the first byte
		r.to = c.cut(r.pos, r.end, 1)
	}
	switch {
	case r.long && !r.begun:
		r.next = r.pos
	case r.to < r.end:
		r.next = min(c.cut(r.pos, r.end, 1), r.to)
	default:
		r.next = r.end
	}
	c.cover(r)
}

// cover makes fetches for what r was planned for and is neither there nor under
// way in time. The caller holds c.mu.
func (c *content) cover(r *Reader) {
	for _, gap := range bridged(c.missing(r.from, r.to)) {
		for _, part := range c.uncovered(gap, r) {
			c.order(part, r)
		}
	}
}

// byPieces has the network bring all of the blob if r reads all of it, or
// nobody waits for what r reads. The caller holds c.mu.
func (c *content) byPieces(r *Reader) bool {
	all := r.priority() == Background || r.priority() == Prefetch && r.all
	return c.f.network != nil && r.only == (only{}) && all && !c.f.store.Full() && c.f.network.whole(c, r.priority())
}

// missing returns what of [off, end) is neither in the store nor in memory.
func (c *content) missing(off, end int64) []store.Range {
	gaps := c.stored.Missing(off, end-off)
	if c.f.memory.count.Load() == 0 {
		return gaps
	}
	var out []store.Range
	for _, g := range gaps {
		for g.Len > 0 {
			n := int64(len(c.f.memory.at(c, g.Off)))
			if n == 0 {
				out = append(out, g)
				break
			}
			n = min(n, g.Len)
			g = store.Range{Off: g.Off + n, Len: g.Len - n}
		}
	}
	return out
}

// bridged joins gaps with so little between them that one request is better.
func bridged(gaps []store.Range) []store.Range {
	var out []store.Range
	for _, g := range gaps {
		if n := len(out); n > 0 && g.Off-out[n-1].End() <= bridge {
			out[n-1].Len = g.End() - out[n-1].Off
		} else {
			out = append(out, g)
		}
	}
	return out
}

// uncovered joins r to the fetches that bring parts of gap in time, and
// returns the other parts.
func (c *content) uncovered(gap store.Range, r *Reader) []store.Range {
	left := []store.Range{gap}
	for _, f := range c.fetches {
		lo, hi := max(f.pos, gap.Off), min(f.end, gap.End())
		if lo >= hi || r.only.origin && !f.asksOrigin() || f.only.peers && !r.only.peers {
			continue
		}
		if !c.inTime(f, lo, r) {
			left = without(left, lo+ownMax, hi) // the fetch still brings what is further on
			continue
		}
		f.raise(r.priority())
		left = without(left, lo, hi)
	}
	return left
}

// asksOrigin reports whether what f brings now is an origin's. The caller holds
// c.mu.
func (f *fetch) asksOrigin() bool {
	return f.only.origin || f.sent && f.place != f.c.f.peers()
}

// without returns ranges less [off, end).
func without(ranges []store.Range, off, end int64) []store.Range {
	var out []store.Range
	for _, r := range ranges {
		if n := min(r.End(), off) - r.Off; n > 0 {
			out = append(out, store.Range{Off: r.Off, Len: n})
		}
		if lo := max(r.Off, end); lo < r.End() {
			out = append(out, store.Range{Off: lo, Len: r.End() - lo})
		}
	}
	return out
}

// inTime reports whether fetch f brings the byte at off, which is not behind
// it, so soon that r should wait for it.
func (c *content) inTime(f *fetch, off int64, r *Reader) bool {
	if r.priority() != OnDemand || f == c.stream || off > r.from+ownMax {
		return true
	}
	if f.prio != OnDemand && f.ticket != nil && f.ticket.hanging() {
		return false
	}
	return off-f.pos <= near || f.takes(off-f.pos) <= soon
}

// order makes fetches for a part that r wants.
func (c *content) order(part store.Range, r *Reader) {
	off, end := part.Off, part.End()
	most := c.span()
	if r.priority() == OnDemand {
		most = ownMax // or readers would wait for what they did not ask for
	}
	for _, f := range c.fetches { // one that waits for its slot may take it along
		lo, hi := min(f.pos, off), max(f.end, end)
		if !f.sent && f.prio == r.priority() && f.only == r.only && off <= f.end+bridge && f.pos <= end+bridge && hi-lo <= most {
			f.pos, f.end = lo, hi
			return
		}
	}
	if c.unranged && c.stream == nil {
		c.stream = c.launch(off, c.size, r.priority(), r.only)
		return
	}
	for off < end {
		to := end
		if r.long {
			to = min(end, c.cut(off, end, 1))
		}
		c.launch(off, to, r.priority(), r.only)
		off = to
	}
}

// launch starts a fetch of [off, end).
func (c *content) launch(off, end int64, p Priority, o only) *fetch {
	f := &fetch{c: c, pos: off, end: end, prio: p, only: o, kick: make(chan struct{}, 1), done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancelCause(c.f.ctx)
	if !c.f.start(f.run) {
		f.cancel(ErrClosed)
		return nil
	}
	c.refs++
	c.fetches = append(c.fetches, f)
	return f
}

// wanted reports whether anyone will read what f brings. What a stream of the
// whole blob has brought so far would be lost if it were given up between two
// reads, so it goes on as long as the blob is open.
func (c *content) wanted(f *fetch) bool {
	if f == c.stream && c.handles > 0 {
		return true
	}
	for r := range c.readers {
		if r.from < f.end && f.pos < r.to {
			return true
		}
	}
	return false
}

// revoke notes what r asked the origin for and is not this host's to fetch any
// more: somebody else does. The caller holds c.mu.
func (c *content) revoke(r *Reader) {
	for _, f := range c.fetches {
		if r.only.origin && f.only.origin && r.ctx.Err() != nil && r.from < f.end && f.pos < r.to {
			f.revoked = true
		}
	}
}

// giveUpUnwanted ends the fetches that nobody wants: at once if they have not
// begun, or others fetch the same, else after some grace, unless they are nearly
// done. The caller holds c.mu.
func (c *content) giveUpUnwanted() {
	for _, f := range slices.Clone(c.fetches) {
		switch {
		case c.wanted(f):
		case f.grace != nil && !f.revoked:
		case f.sent && !f.revoked:
			f.grace = time.AfterFunc(grace, func() { c.graceOver(f) })
		default:
			f.cancel(errAlone)
			c.remove(f)
		}
	}
}

func (c *content) graceOver(f *fetch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.grace = nil
	if !c.wanted(f) && (f.got == 0 || f.end-f.pos > almost) {
		f.cancel(errAlone)
		c.remove(f) // nobody may join it now
	}
}

// remove takes f off the list; those who wait for it look again. The caller
// holds c.mu.
func (c *content) remove(f *fetch) {
	c.fetches = slices.DeleteFunc(c.fetches, func(g *fetch) bool { return g == f })
	if c.stream == f {
		c.stream = nil
	}
}
