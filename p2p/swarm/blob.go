package swarm

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A blob is what the host knows of one swarm it is in.
type blob struct {
	p2p.Blob
	n, stripes int

	batch    time.Time // when it was first wanted, or something together with it
	wanted   bool      // by somebody on this host
	behind   bool      // others go before it
	lazy     bool
	origin   p2p.Origin
	priority p2p.Priority
	needed   []int // pieces somebody waits for, in order; some may be here by now

	have   set // stored
	held   set // arrived, sum not known
	asked  set // a request is under way
	mine   set // taken from the origin by this host
	doubt  set // failed a provisional sum
	audits set // that the scheduler wants to know of the origin
	seen   set // parents had it some time ago
	fresh  set // and when last looked
	late   set // backups may be asked for it
	lease  set // to take from the origin
	count  int // of have

	anyLate  bool
	seenAt   time.Time
	requests []uint8 // under way, by piece
	rarity   []uint16
	flight   int64
	fed      time.Time  // a piece came last, without those of seeds that were asked for want of others
	under    []*request // by age

	sums      []p2p.Sum // nil while none is known
	known     set       // pieces whose sum is known
	confirmed bool      // the sums are, by the scheduler or here
	blind     bool      // nobody tells any: pieces are held until the whole can be matched
	arrived   map[int]arrival
	accused   []accusation
	old       map[int]outdated // by piece
	loyal     set              // pieces of which its word counts, whatever parents send
	differs   set              // pieces of which the scheduler says otherwise than this host knows

	matching  bool      // Match is asked for
	changed   bool      // and pieces have gone since
	verified  bool      // the whole matched its digest
	spoiled   time.Time // when it did not; zero: it did, or nobody knows
	spoiledAt time.Time // when that was said last

	parents []*parent // by rank, then ID
	byID    map[p2p.HostID]*parent
	homes   []*link // schedulers in the order in which they are responsible
	link    *link   // the one that serves the swarm now; nil: none can be reached
	told    []*link // those that know that the host has or wants it

	source sourcing
	notes  notes
}

// An arrival is a piece without a sum: held, or loose, which is stored though
// nobody has judged it.
type arrival struct {
	sum  p2p.Sum
	from *peer // nil: the origin, or this host's disk
}

// filling reports whether the host wants all pieces.
func (b *blob) filling() bool {
	return b.count < b.n && (b.wanted && !b.lazy || b.source.whole)
}

// busy reports whether there is something to look after.
func (b *blob) busy() bool {
	return b.filling() || b.flight > 0 || len(b.needed) > 0 || b.source.requests > 0 || !b.spoiled.IsZero() || b.source.leased > 0
}

// here reports whether the bytes of piece i are on this host.
func (b *blob) here(i int) bool { return b.have.has(i) || b.held.has(i) }

func (b *blob) size(i int) int64 {
	_, n := b.Piece(i)
	return n
}

// Want says that somebody on this host wants the blob: by ranges and pieces as
// they are read if lazy, else all of it. Said again it changes that; what only
// who wants all would need is not waited for then.
func (h *Host) Want(now time.Time, pb p2p.Blob, o p2p.Origin, lazy bool, p p2p.Priority) []Action {
	h.begin(now)
	if pb.Scope() == p2p.Empty {
		return h.end()
	}
	b := h.blob(pb)
	if b.lazy && !lazy {
		b.notes.forgetReads()
	}
	filling := b.filling()
	b.wanted, b.lazy, b.origin, b.priority = true, lazy, o, p
	h.enlist(b)
	switch {
	case filling && !b.filling():
		h.lessen(b)
	case !filling && b.filling() && b.link != nil:
		b.unlease() // others may have got, or got to fetch, what it lists: the scheduler says it anew
	}
	if b.source.since.IsZero() || !filling && b.filling() {
		b.source.since = now // nobody has waited for all of it before
	}
	if b.link == nil {
		h.attach(b)
	} else {
		h.sayWant(b)
	}
	h.patience(b)
	h.fill(b)
	h.wake(now.Add(beat))
	return h.end()
}

// enlist gives a blob its place among those of which all is wanted. The layers of
// an image are wanted at once, but not on every host in the same order.
func (h *Host) enlist(b *blob) {
	h.requeue = true
	if !b.batch.IsZero() {
		return
	}
	if h.now.Sub(h.batch) > together {
		h.batch = h.now
	}
	b.batch = h.batch
}

// Unwant says that the blob was evicted or is of no more interest.
func (h *Host) Unwant(now time.Time, d digest.Digest) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil {
		return h.end()
	}
	for _, r := range slices.Clone(b.under) {
		h.cancel(r)
	}
	for _, p := range b.parents {
		h.unsubscribe(b, p)
	}
	for _, l := range b.told {
		h.do(Send{l.name, p2p.Unwant{Digest: d}})
	}
	h.forget(b)
	return h.end()
}

// Present says what is on this host's disk already, checked; verified if the
// whole matched its digest.
func (h *Host) Present(now time.Time, pb p2p.Blob, have *p2p.Have, verified bool) []Action {
	h.begin(now)
	if pb.Scope() == p2p.Empty {
		return h.end()
	}
	b := h.blob(pb)
	for i := range have.All() {
		if !b.have.has(i) {
			h.settle(b, i)
			b.keep(i)
		}
	}
	b.verified = verified && b.count == b.n
	if b.link == nil {
		h.attach(b)
	} else {
		h.tellInventory(b, b.link)
	}
	h.complete(b)
	return h.end()
}

// Need says that somebody waits for pieces First to Last of a blob that is
// wanted, or that a child asks this host to fetch: they go before all others, in
// this order.
func (h *Host) Need(now time.Time, d digest.Digest, first, last int) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil || first < 0 || last >= b.n {
		return h.end()
	}
	wanting := make(map[int]bool, len(b.needed))
	for _, i := range b.needed {
		wanting[i] = true
	}
	for i := first; i <= last; i++ {
		if !b.here(i) && !wanting[i] {
			b.needed = append(b.needed, i)
		}
	}
	if len(b.needed) > 0 {
		h.fill(b)
		h.wake(now.Add(beat))
	}
	return h.end()
}

// Lost says that a piece that was stored is not here any more: its bytes turned
// out to be wrong, or the disk did not keep them.
func (h *Host) Lost(now time.Time, d digest.Digest, piece int) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil || piece < 0 || piece >= b.n || !b.have.has(piece) {
		return h.end()
	}
	h.lose(b, piece)
	b.mine.remove(piece)
	b.verified = false
	for _, p := range b.parents {
		h.resubscribe(b, p)
	}
	h.fill(b)
	h.wake(now.Add(beat))
	return h.end()
}

func (b *blob) keep(i int) {
	b.have.add(i)
	b.count++
}

func (h *Host) lose(b *blob, i int) {
	h.requeue = true
	b.notes.lost, b.changed = true, true
	b.have.remove(i)
	delete(b.arrived, i)
	b.count--
}

func (b *blob) inventory() p2p.Inventory {
	return p2p.Inventory{Blob: b.Blob, Have: b.have.wire(b.n), Verified: b.verified}
}

// settle ends what is under way for a piece that is here now.
func (h *Host) settle(b *blob, i int) {
	b.held.remove(i)
	b.doubt.remove(i)
	delete(b.arrived, i)
	if b.requests[i] == 0 {
		return
	}
	for _, r := range slices.Clone(b.under) {
		if !r.check && r.first <= i && i <= r.last && r.done(b) {
			h.cancel(r)
		}
	}
}

// complete looks whether all pieces are here, and asks for the hash of the
// whole if nobody has taken it yet. Held pieces count: if the whole is right, so
// are they. But a blob without a digest waits for their sums, if anybody tells any.
func (h *Host) complete(b *blob) {
	if b.count == b.n {
		h.retire(b)
	}
	if b.verified || b.matching || !b.spoiled.IsZero() || b.count+b.held.count() < b.n {
		return
	}
	if b.link != nil && !b.judged() {
		return
	}
	b.matching, b.changed = true, false
	h.do(Match{b.Digest})
}

// retire ends what only a host that still lacks pieces needs.
func (h *Host) retire(b *blob) {
	h.requeue = true
	for _, r := range slices.Clone(b.under) {
		if !r.check {
			h.cancel(r)
		}
	}
	for _, p := range b.parents {
		h.unsubscribe(b, p)
	}
	b.needed = nil
}
