package swarm

import (
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const spoiledFor = 10 * time.Second // a scheduler has to find the false sums

// An accusation is a piece that did not match a sum that may itself be false.
type accusation struct {
	piece int
	by    p2p.HostID
	got   p2p.Sum
}

// arrive judges a piece that came from a parent, or from the origin (nil).
func (h *Host) arrive(r *request, i int, sum p2p.Sum) {
	b, from := r.blob, r.from
	b.source.moved, h.moved = h.now, h.now
	if from == nil || !from.host.Seed || from.first&(1<<b.Stripe(i)) != 0 {
		b.fed = h.now
	}
	switch {
	case b.have.has(i), from != nil && (b.held.has(i) || b.audits.has(i)):
		h.do(Ignore{r.id, i})
	case from == nil:
		h.fromOrigin(b, i, sum)
	case !b.known.has(i):
		h.hold(b, i, arrival{sum, from.peer})
	case b.sums[i] == sum:
		h.store(b, i)
	case b.disputed(i, sum, from):
		// Two say the same: rather the reporter of the sum lied. The whole will show.
		b.known.remove(i)
		h.complain(b, from.peer, i, sum)
		h.forgive(b, i, sum)
		h.hold(b, i, arrival{sum, from.peer})
	case b.outdated(i, sum, r.began):
		h.do(Drop{b.Digest, i})
		b.lacked(from, i, i)
	default:
		h.do(Drop{b.Digest, i})
		h.wrong(b, from.peer, i, sum)
	}
}

// disputed reports whether somebody other than p has been accused of the very
// same piece.
func (b *blob) disputed(i int, sum p2p.Sum, p *parent) bool {
	return !b.loyal.has(i) && slices.ContainsFunc(b.accused, func(a accusation) bool {
		return a.piece == i && a.got == sum && a.by != p.host.ID
	})
}

// hold keeps a piece until its sum is known. Without a scheduler nobody tells any:
// then it is loose, stored and passed on as it is, and the whole will show.
func (h *Host) hold(b *blob, i int, a arrival) {
	h.settle(b, i)
	if b.arrived == nil {
		b.arrived = make(map[int]arrival)
	}
	b.arrived[i] = a
	if b.link == nil {
		h.loosen(b, i)
	} else {
		b.held.add(i)
	}
	h.complete(b)
}

// loosen stores a piece that nobody can judge. Where the whole cannot be judged
// either it is held on.
func (h *Host) loosen(b *blob, i int) {
	if p2p.IsName(b.Digest) {
		b.held.add(i)
		return
	}
	b.held.remove(i)
	b.keep(i)
	h.do(Store{b.Digest, i})
}

func (h *Host) store(b *blob, i int) {
	h.settle(b, i)
	b.keep(i)
	b.notes.got = append(b.notes.got, i)
	h.do(Store{b.Digest, i})
	h.complete(b)
}

// fromOrigin takes a piece from the origin: what it says counts.
func (h *Host) fromOrigin(b *blob, i int, sum p2p.Sum) {
	if a, ok := b.arrived[i]; ok && a.sum != sum && a.from != nil {
		h.wrong(b, a.from, i, a.sum)
	}
	b.mine.add(i)
	b.audits.remove(i)
	if b.sums != nil && b.sums[i] != (p2p.Sum{}) && b.sums[i] != sum {
		h.outdate(b, i)
		b.differ(i, sum)
	}
	b.learn(i, sum)
	b.notes.sums = append(b.notes.sums, i)
	h.forgive(b, i, sum)
	h.store(b, i)
}

func (b *blob) learn(i int, sum p2p.Sum) {
	if b.sums == nil {
		b.sums = make([]p2p.Sum, b.n)
	}
	b.sums[i] = sum
	b.known.add(i)
}

// wrong drops a parent that served a piece which does not match its sum, and
// complains of it. Where the sum is provisional the piece is in doubt.
func (h *Host) wrong(b *blob, from *peer, i int, got p2p.Sum) {
	if b.confirmed {
		from.shunned = h.now.Add(banFor)
	} else {
		b.accused = append(b.accused, accusation{i, from.host.ID, got})
		b.doubt.add(i)
	}
	if p := b.byID[from.host.ID]; p != nil {
		p.liar = true
		h.clear(b, p)
	}
	for _, r := range slices.Clone(b.under) {
		if r.from != nil && r.from.peer == from && !r.check {
			h.cancel(r)
		}
	}
	h.complain(b, from, i, got)
}

func (h *Host) complain(b *blob, from *peer, i int, got p2p.Sum) {
	b.notes.transfer(from.host.ID, 0, 0, p2p.Mismatch)
	for _, l := range b.told {
		h.do(Send{l.name, p2p.Wrong{Digest: b.Digest, Piece: i, Parent: from.host.ID, Got: got}})
	}
}

// trusts reports whether a piece may be asked of a parent: one in doubt only of
// seeds, if there are any, and never twice of the same.
func (b *blob) trusts(p *parent, i int) bool {
	if b.audits.has(i) {
		return false
	}
	if !b.doubt.has(i) || b.source.retake {
		return !b.doubt.has(i)
	}
	for _, a := range b.accused {
		if a.piece == i && a.by == p.host.ID {
			return false
		}
	}
	if p.host.Seed || b.link == nil {
		return p.host.Seed
	}
	for _, o := range b.parents {
		if o.host.Seed && !o.liar && o.have.has(i) {
			return false
		}
	}
	return true
}

// seeded reports whether a seed is among the parents that are believed.
func (b *blob) seeded() bool {
	return slices.ContainsFunc(b.parents, func(p *parent) bool { return p.host.Seed && !p.liar && !p.lost })
}

// forgive takes back what was held against parents whose piece was right after
// all.
func (h *Host) forgive(b *blob, i int, sum p2p.Sum) {
	if len(b.accused) == 0 {
		return
	}
	b.accused = slices.DeleteFunc(b.accused, func(a accusation) bool {
		if a.piece != i || a.got != sum {
			return false
		}
		if p := b.byID[a.by]; p != nil && p.liar {
			p.liar = false
			h.resubscribe(b, p)
		}
		return true
	})
	b.doubt.remove(i)
}

// resubscribe asks a parent again for all it has.
func (h *Host) resubscribe(b *blob, p *parent) {
	if b.count < b.n && p.stripes != 0 {
		h.unsubscribe(b, p)
		h.subscribe(b, p)
	}
}

// Hashed gives the sums of all pieces that Hash asked for.
func (h *Host) Hashed(now time.Time, d digest.Digest, sums []p2p.Sum) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil || !b.verified || len(sums) != b.n {
		return h.end()
	}
	for i, sum := range sums {
		b.learn(i, sum)
	}
	b.confirmed = true
	if b.link != nil {
		h.sendKnown(b)
	}
	return h.end()
}

// learnSums takes the scheduler's word for the sums of pieces.
func (h *Host) learnSums(b *blob, m p2p.Digests) {
	if m.First < 0 || m.First+len(m.Sums) > b.n {
		return
	}
	revised := false
	for k, sum := range m.Sums {
		i := m.First + k
		known := b.known.has(i)
		switch {
		case b.mine.has(i), b.verified && known:
			b.differ(i, sum)
			continue
		case b.verified, known && b.sums[i] == sum:
			continue
		case b.audits.has(i):
			b.sums[i] = sum
			continue
		case known:
			h.outdate(b, i)
		}
		b.learn(i, sum)
		b.blind = false
		if known {
			revised = true
			h.revise(b, i, sum)
		}
		if a, ok := b.arrived[i]; ok {
			h.release(b, i, a, sum)
		}
	}
	if revised {
		b.confirmed = false
		for _, p := range b.parents {
			h.resubscribe(b, p)
		}
	}
	b.confirmed = b.confirmed || m.Verified
	h.complete(b)
	h.report(b)
	h.fill(b)
}

// revise drops a piece whose sum was another one until now. Parents will do the same.
func (h *Host) revise(b *blob, i int, sum p2p.Sum) {
	h.forgive(b, i, sum)
	b.loyal.remove(i)
	b.spoiled = time.Time{}
	for _, p := range b.parents {
		b.lacked(p, i, i)
	}
	if b.have.has(i) {
		h.lose(b, i)
		h.do(Drop{b.Digest, i})
	}
}

// release judges a held or loose piece whose sum has come. Whoever gave a loose
// one could not judge it either, and is not to blame.
func (h *Host) release(b *blob, i int, a arrival, sum p2p.Sum) {
	loose := b.have.has(i)
	b.held.remove(i)
	delete(b.arrived, i)
	switch {
	case a.sum == sum && loose:
	case a.sum == sum:
		h.store(b, i)
	case loose:
		h.lose(b, i)
		h.do(Drop{b.Digest, i})
	default:
		b.spoiled, b.changed = time.Time{}, true
		h.do(Drop{b.Digest, i})
		if a.from != nil && !b.outdated(i, a.sum, h.now) {
			h.wrong(b, a.from, i, a.sum)
		}
	}
}

// Matched says whether the whole blob matches its digest.
func (h *Host) Matched(now time.Time, d digest.Digest, ok bool) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil || !b.matching {
		return h.end()
	}
	b.matching = false
	switch {
	case ok && b.judged():
		h.matched(b)
	case b.changed: // it was not all there
		h.complete(b)
		h.fill(b)
	default:
		h.mismatched(b)
	}
	h.report(b)
	return h.end()
}

// judged reports whether a blob that is here whole has been judged: by its digest,
// or where it has none by the sum of each piece.
func (b *blob) judged() bool { return !p2p.IsName(b.Digest) || len(b.arrived) == 0 }

func (h *Host) matched(b *blob) {
	for i, a := range b.arrived {
		b.learn(i, a.sum)
	}
	for i := range b.n {
		if b.held.has(i) {
			h.store(b, i)
		}
	}
	clear(b.arrived)
	if b.count < b.n {
		return // a sum came meanwhile and took a piece away
	}
	b.verified, b.confirmed = true, b.sums != nil
	b.notes.verified = true
	h.retire(b)
}

// mismatched leaves it to the scheduler to find out who lied; if there is none, it
// throws away what nobody vouched for.
func (h *Host) mismatched(b *blob) {
	if h.yieldDisputes(b) {
		h.fill(b)
		return
	}
	if b.link != nil && b.mine.count() < b.n {
		b.spoiled, b.spoiledAt = h.now, h.now
		h.do(Send{b.link.name, p2p.Spoiled{Digest: b.Digest}})
		h.wake(h.now.Add(beat))
		return
	}
	for _, i := range slices.Sorted(maps.Keys(b.arrived)) {
		if b.held.has(i) {
			b.held.remove(i)
		} else {
			h.lose(b, i)
		}
		b.doubt.add(i)
		h.do(Drop{b.Digest, i})
	}
	clear(b.arrived)
	if b.count < b.n {
		b.source.retake = b.link == nil && !b.seeded()
		h.listen(b)
		h.patience(b)
		h.fill(b)
		return
	}
	if b.mine.count() == b.n {
		h.corrupt(b)
		return
	}
	b.spoiled, b.spoiledAt = h.now, h.now
	h.wake(h.now.Add(beat))
}

// yieldDisputes takes the scheduler's word for pieces that were held against it, since the
// whole has not shown that it was false.
func (h *Host) yieldDisputes(b *blob) (some bool) {
	for _, i := range slices.Sorted(maps.Keys(b.arrived)) {
		if a := b.arrived[i]; b.held.has(i) && b.sums != nil && b.sums[i] != (p2p.Sum{}) && b.sums[i] != a.sum {
			b.known.add(i)
			b.loyal.add(i)
			h.release(b, i, a, b.sums[i])
			some = true
		}
	}
	return some
}

// corrupt gives up on a blob for a while: the origin has another one.
func (h *Host) corrupt(b *blob) {
	h.do(Corrupt{b.Digest})
	clear(b.mine)
	h.discard(b)
	b.source.blocked = h.now.Add(longestPause)
	h.wake(b.source.blocked)
}

// discard throws away all pieces that this host has not taken from the origin.
func (h *Host) discard(b *blob) {
	for i := range b.n {
		if b.have.has(i) && !b.mine.has(i) {
			h.lose(b, i)
			b.doubt.add(i)
			b.known.remove(i)
			h.do(Drop{b.Digest, i})
		}
	}
}

// respoil says again that the whole does not match, and takes all from the origin when
// nobody has found the false sums in time: three times, or as long again as the blob
// took to come.
func (h *Host) respoil(b *blob) {
	if b.spoiled.IsZero() {
		return
	}
	if b.link != nil && h.now.Sub(b.spoiled) < max(3*spoiledFor, b.spoiled.Sub(b.source.since)) {
		if h.now.Sub(b.spoiledAt) >= spoiledFor {
			b.spoiledAt = h.now
			h.do(Send{b.link.name, p2p.Spoiled{Digest: b.Digest}})
		}
		return
	}
	b.spoiled = time.Time{}
	for i := range b.held.all() {
		b.held.remove(i)
		delete(b.arrived, i)
		b.doubt.add(i)
		h.do(Drop{b.Digest, i})
	}
	h.discard(b)
	b.source.retake = true
}

// content takes a tiny blob that came with the scheduler's answer.
func (h *Host) content(b *blob, data []byte) {
	if b.count == b.n || b.n != 1 || int64(len(data)) != b.Size {
		return
	}
	if a := b.Digest.Algorithm(); !a.Available() || a.FromBytes(data) != b.Digest {
		return
	}
	b.learn(0, sha256.Sum256(data))
	h.do(Data{b.Blob, data})
	h.settle(b, 0)
	b.keep(0)
	b.verified, b.confirmed = true, true
	h.retire(b)
}

// Content gives the bytes of a tiny blob that this host has taken from the
// origin, so that nobody else has to.
func (h *Host) Content(now time.Time, d digest.Digest, data []byte) []Action {
	h.begin(now)
	if b := h.find(d); b != nil && b.link != nil && b.Scope() == p2p.Tiny && b.count == b.n {
		h.do(Send{b.link.name, p2p.Content{Digest: d, Data: data}})
	}
	return h.end()
}
