package swarm

import (
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// outdatedFor is how long a parent may offer what the scheduler has taken back.
const outdatedFor = time.Second

// An outdated sum is one that the scheduler told before another.
type outdated struct {
	sum p2p.Sum
	at  time.Time
}

// audit takes pieces from the origin because the scheduler doubts their sums. Who has
// asked it before, or has matched the whole, knows. Pieces go before, if they are here:
// else their own bytes would be taken for the origin's.
func (h *Host) audit(b *blob, m p2p.Audit) {
	if b.verified {
		h.sayKnown(b)
		return
	}
	if b.origin == (p2p.Origin{}) {
		return // the scheduler asks another in time
	}
	if b.sums == nil {
		b.sums = make([]p2p.Sum, b.n)
	}
	var said []int
	for _, i := range m.Pieces {
		switch {
		case i < 0 || i >= b.n || b.audits.has(i):
		case b.mine.has(i):
			said = append(said, i)
		default:
			h.forgo(b, i)
			b.audits.add(i)
			b.doubt.add(i)
			b.known.remove(i) // nobody's word counts meanwhile
		}
	}
	for _, r := range slices.Clone(b.under) {
		if r.from != nil && !r.check && slices.ContainsFunc(m.Pieces, func(i int) bool { return r.next <= i && i <= r.last }) {
			h.cancel(r)
		}
	}
	h.sendSums(b, said)
	h.report(b)
	h.fill(b)
	h.wake(h.now.Add(beat))
}

// forgo drops a piece that is stored or held.
func (h *Host) forgo(b *blob, i int) {
	switch {
	case b.have.has(i):
		h.lose(b, i)
	case b.held.has(i):
		b.changed = true
		b.held.remove(i)
		delete(b.arrived, i)
	default:
		return
	}
	b.spoiled = time.Time{}
	h.do(Drop{b.Digest, i})
}

// acquit ends an audit because the origin does not answer: another host is asked.
func (h *Host) acquit(b *blob) {
	for i := range b.audits.all() {
		b.audits.remove(i)
		b.doubt.remove(i)
		if b.sums[i] != (p2p.Sum{}) {
			b.known.add(i)
		}
	}
}

// outdate remembers the sum of a piece that the scheduler takes back: who has passed on
// such a piece a moment ago has not lied.
func (h *Host) outdate(b *blob, i int) {
	if b.old == nil {
		b.old = map[int]outdated{}
	}
	b.old[i] = outdated{b.sums[i], h.now}
}

// outdated reports whether the scheduler said that this is the piece's sum when it was
// asked for, or shortly before.
func (b *blob) outdated(i int, sum p2p.Sum, asked time.Time) bool {
	o, ok := b.old[i]
	return ok && o.sum == sum && asked.Sub(o.at) < outdatedFor
}

// differ remembers whether the scheduler says something else of a piece than this host
// knows of the origin, or by the digest of the whole.
func (b *blob) differ(i int, sum p2p.Sum) {
	if b.differs.remove(i); b.sums[i] != sum {
		b.differs.add(i)
		b.notes.verified = b.notes.verified || b.verified
	}
}
