package swarm

import (
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// notes is what a host has still to tell the scheduler of a blob.
type notes struct {
	got      []int
	from     []p2p.Transfer // one of each parent and failure
	sums     []int          // taken from the origin
	verified bool
	lost     bool // pieces that were told of are here no more

	progressAt time.Time // not before
	toldAt     time.Time // of new pieces, last
	sumsAt     time.Time
	lostAt     time.Time
	spoiledAt  time.Time
}

// transfer notes a transfer, or adds to the one of the same parent.
func (n *notes) transfer(id p2p.HostID, bytes int64, took time.Duration, f p2p.Failure) {
	for i := range n.from {
		if t := &n.from[i]; t.Parent == id && t.Failed == f {
			t.Bytes += bytes
			t.Took += took
			return
		}
	}
	n.from = append(n.from, p2p.Transfer{Parent: id, Bytes: bytes, Took: took, Failed: f})
}

// forgetReads leaves out what lazy reads took: it says nothing of how pieces come.
func (n *notes) forgetReads() {
	n.from = slices.DeleteFunc(n.from, func(t p2p.Transfer) bool { return t.Failed == p2p.None })
}

// report tells the scheduler what is new: the first news at once, then as often
// as is allowed.
func (h *Host) report(b *blob) {
	n := &b.notes
	if b.link == nil {
		n.got, n.from, n.sums, n.lost = nil, nil, nil, false // the next scheduler gets the inventory
		return
	}
	if n.lost && h.due(&n.lostAt, progressEvery) {
		n.lost = false
		n.got = slices.DeleteFunc(n.got, func(i int) bool { return !b.have.has(i) })
		b.tell(b.link)
		h.do(Send{b.link.name, b.inventory()})
		h.sayWant(b)
	}
	if len(n.sums) > 0 && h.due(&n.sumsAt, sumsEvery) {
		h.sendSums(b, n.sums)
		n.sums = nil
	}
	if s := &b.source; s.granted > 0 && !s.hurry && h.leftOfLease(b) <= s.granted/2 {
		s.hurry = true
		n.progressAt = h.now
	}
	if len(n.got)+len(n.from) > 0 && h.due(&n.progressAt, progressEvery) {
		if len(n.got) > 0 {
			n.toldAt = h.now
		}
		h.do(Send{b.link.name, p2p.Progress{Digest: b.Digest, Got: n.got, From: n.from}})
		n.got, n.from = nil, nil
	}
	if n.verified && len(n.got) == 0 && len(n.sums) == 0 {
		h.sayVerified(b)
	}
}

// sayVerified says that the whole matches; or, as long as it does with other sums than the
// scheduler's, that those are false.
func (h *Host) sayVerified(b *blob) {
	n := &b.notes
	switch {
	case !b.differs.any():
		n.verified = false
		h.do(Send{b.link.name, p2p.Verified{Digest: b.Digest}})
	case h.due(&n.spoiledAt, spoiledFor):
		h.do(Send{b.link.name, p2p.Spoiled{Digest: b.Digest}})
	}
}

// leftOfLease returns how many pieces of the lease have not come yet.
func (h *Host) leftOfLease(b *blob) int {
	n := 0
	for i := range b.lease.all() {
		if !b.have.has(i) {
			n++
		}
	}
	return n
}

// due reports whether it is time, and if so when next.
func (h *Host) due(at *time.Time, every time.Duration) bool {
	if h.now.Before(*at) {
		h.wake(*at)
		return false
	}
	*at = h.now.Add(every)
	return true
}

// sendSums sends the sums of these pieces, neighbours in one message.
func (h *Host) sendSums(b *blob, pieces []int) {
	slices.Sort(pieces)
	for len(pieces) > 0 {
		n := 1
		for n < len(pieces) && pieces[n] == pieces[n-1]+1 {
			n++
		}
		first := pieces[0]
		h.do(Send{b.link.name, p2p.Digests{
			Digest: b.Digest, First: first, Sums: slices.Clone(b.sums[first : first+n]), Verified: b.verified,
		}})
		pieces = pieces[n:]
	}
}

// sayKnown sends all sums that the host has a right to tell, after it has found out what
// they are.
func (h *Host) sayKnown(b *blob) {
	if b.verified && b.known.count() < b.n && b.Scope() != p2p.Tiny {
		h.do(Hash{b.Blob})
		return
	}
	h.sendKnown(b)
}

// sendKnown sends all sums that the host has a right to tell: those it took
// from the origin, or all if it has matched the whole.
func (h *Host) sendKnown(b *blob) {
	s := b.mine
	if b.verified {
		s = b.known
	}
	h.sendSums(b, slices.Collect(s.all()))
}

// checked compares what a check fetched.
func (h *Host) checked(r *request, piece int, sum p2p.Sum) {
	b := r.blob
	h.do(Ignore{r.id, piece})
	f := p2p.Mismatch
	switch {
	case !b.known.has(piece), b.outdated(piece, sum, r.began):
		f = p2p.Missing
	case b.sums[piece] == sum:
		f = p2p.None
	}
	h.answer(b, piece, r.from.host.ID, f)
}

func (h *Host) answer(b *blob, piece int, parent p2p.HostID, f p2p.Failure) {
	if b.link != nil {
		h.do(Send{b.link.name, p2p.Checked{Digest: b.Digest, Piece: piece, Parent: parent, Failed: f}})
	}
}

// check fetches a piece of a parent for the scheduler, to compare it.
func (h *Host) check(b *blob, m p2p.Check) {
	if m.Piece < 0 || m.Piece >= b.n || m.Parent.ID == h.cfg.Self.ID {
		return
	}
	if !b.known.has(m.Piece) {
		h.answer(b, m.Piece, m.Parent.ID, p2p.Missing)
		return
	}
	p := h.newParent(b, m.Parent)
	r := h.newRequest(b, p, m.Piece, m.Piece)
	r.check = true
	h.do(Request{ID: r.id, Peer: m.Parent, Blob: b.Blob, First: m.Piece, Last: m.Piece, Priority: p2p.Background})
}
