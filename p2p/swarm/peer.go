package swarm

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	busyPause        = 40 * time.Millisecond
	unreachablePause = 500 * time.Millisecond
	stallPause       = 2 * time.Second
	againAfter       = 200 * time.Millisecond // that a parent which lacked a blob is asked whether it has it
	longestPause     = 30 * time.Second
	banFor           = 10 * time.Minute
	maxMissing       = 3 // pieces that a parent said it has and does not
	remindAfter      = 3 * time.Second
	slowBy           = 4                      // times slower than the others is slow
	silentFor        = 500 * time.Millisecond // and so is who sends nothing for so long
	backupRank       = 64                     // rank of a parent in a stripe that it is not listed for
)

// A peer is what the host knows of another one, whatever the blob.
type peer struct {
	host     p2p.Host
	rate     float64       // bytes per second of one request, as measured; 0 unknown
	piece    time.Duration // that a piece took
	idle     time.Duration // of a request in which nothing came
	under    int           // requests for pieces under way, of all blobs
	blocked  time.Time     // not asked before
	failures int           // in a row
	shunned  time.Time     // it served wrong bytes: not asked before
	tried    time.Time     // whether it is much faster than others
}

// A parent is a peer in one swarm.
type parent struct {
	*peer
	rank       []uint8 // by stripe, backupRank where it is not listed
	stripes    uint8   // where it is listed
	first      uint8   // where it is listed first
	best       uint8   // lowest rank
	lot        uint64  // puts equal parents in an order of this host's own
	have       set
	count      int
	subscribed bool
	requests   int
	missing    int
	told       time.Time // of that, last
	liar       bool      // served a wrong piece of this blob
	slow       bool      // much slower than the others, when last looked at
	lost       bool      // its news broke off, and none came since
	again      time.Time // not subscribed to before
	early      bool      // it was asked before it had said anything
}

// usable reports whether p may be asked for anything now.
func (p *parent) usable(now time.Time) bool {
	return !p.liar && p.missing < maxMissing && !now.Before(p.blocked) && !now.Before(p.shunned)
}

func (h *Host) peer(host p2p.Host) *peer {
	p := h.peers[host.ID]
	if p == nil {
		p = &peer{}
		h.peers[host.ID] = p
	}
	p.host = host
	return p
}

// setParents replaces the parents of a blob by what the scheduler lists. What
// is under way from one that is listed no more goes on.
func (h *Host) setParents(b *blob, stripes [][]p2p.Host) {
	old := b.parents
	if b.byID == nil {
		b.byID = make(map[p2p.HostID]*parent)
	}
	for _, p := range old {
		p.stripes, p.first, p.best = 0, 0, backupRank
		for s := range p.rank {
			p.rank[s] = backupRank
		}
	}
	b.parents = nil
	for s, hosts := range stripes[:min(len(stripes), b.stripes)] {
		for r, host := range hosts {
			if host.ID == h.cfg.Self.ID || r >= backupRank {
				continue
			}
			p := b.byID[host.ID]
			if p == nil {
				p = h.newParent(b, host)
				b.byID[host.ID] = p
			}
			if p.stripes == 0 {
				b.parents = append(b.parents, p)
			}
			p.list(s, r)
		}
	}
	slices.SortFunc(b.parents, func(x, y *parent) int {
		return cmp.Or(cmp.Compare(x.best, y.best), cmp.Compare(x.lot, y.lot), cmp.Compare(x.host.ID, y.host.ID))
	})
	for _, p := range old {
		if p.stripes == 0 {
			h.unsubscribe(b, p)
			delete(b.byID, p.host.ID)
		}
	}
	h.endEarly(b)
	h.requeue = true
	if b.count < b.n {
		for _, p := range b.parents {
			h.subscribe(b, p)
		}
	}
}

func (p *parent) list(stripe, rank int) {
	p.rank[stripe] = min(p.rank[stripe], uint8(rank))
	p.stripes |= 1 << stripe
	p.best = min(p.best, uint8(rank))
	if rank == 0 {
		p.first |= 1 << stripe
	}
}

func (h *Host) newParent(b *blob, host p2p.Host) *parent {
	p := &parent{peer: h.peer(host), rank: make([]uint8, b.stripes), best: backupRank, have: newSet(b.n), lot: hash(h.salt, string(host.ID))}
	for s := range p.rank {
		p.rank[s] = backupRank
	}
	return p
}

func (h *Host) subscribe(b *blob, p *parent) {
	if p.subscribed || b.Scope() != p2p.Normal || h.now.Before(p.blocked) || h.now.Before(p.again) {
		return
	}
	p.subscribed = true
	h.do(Subscribe{p.host, b.Blob})
}

// listen subscribes again to parents whose news broke off.
func (h *Host) listen(b *blob) {
	if b.count == b.n || !b.wanted {
		return
	}
	for _, p := range b.parents {
		if p.stripes != 0 && !p.liar {
			h.subscribe(b, p)
		}
	}
}

// remind tells the scheduler again of parents that were given up because they lack what
// they say: it may have had reason to overlook that, and would hear of it no more.
func (h *Host) remind(b *blob) {
	if b.count == b.n || !b.wanted {
		return
	}
	for _, p := range b.parents {
		if p.missing >= maxMissing && h.now.Sub(p.told) >= remindAfter {
			p.told = h.now
			b.notes.transfer(p.host.ID, 0, 0, p2p.Missing)
		}
	}
}

func (h *Host) unsubscribe(b *blob, p *parent) {
	h.clear(b, p)
	if p.subscribed {
		p.subscribed = false
		h.do(Unsubscribe{p.host.ID, b.Digest})
	}
}

// clear forgets what a parent has.
func (h *Host) clear(b *blob, p *parent) {
	for i := range p.have.all() {
		b.rarity[i]--
	}
	clear(p.have)
	p.count = 0
}

// PeerHave says that a peer has these pieces, too.
func (h *Host) PeerHave(now time.Time, id p2p.HostID, d digest.Digest, more *p2p.Have) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil || more.Len() != b.n || b.count == b.n {
		return h.end()
	}
	p := b.byID[id]
	if p == nil || !p.subscribed {
		return h.end()
	}
	p.lost = false
	for i := range more.All() {
		if !p.have.has(i) {
			p.have.add(i)
			p.count++
			b.rarity[i]++
		}
	}
	h.fillFrom(b, p)
	return h.end()
}

// PeerLost says that a peer does not have these pieces any more. What it was asked for
// before that is known to be in vain, and not its fault.
func (h *Host) PeerLost(now time.Time, id p2p.HostID, d digest.Digest, gone *p2p.Have) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil || gone.Len() != b.n {
		return h.end()
	}
	p := b.byID[id]
	if p == nil || !p.subscribed {
		return h.end()
	}
	for i := range gone.All() {
		b.lacked(p, i, i)
	}
	for _, r := range b.under {
		r.vain = r.vain || r.from == p && !r.check && gone.Has(r.next)
	}
	return h.end()
}

// PeerGone says that what a peer has of a blob is no longer pushed, and why: its
// connection broke, or it lacks the blob, which says nothing of others.
func (h *Host) PeerGone(now time.Time, id p2p.HostID, d digest.Digest, f p2p.Failure) []Action {
	h.begin(now)
	if b := h.find(d); b != nil {
		if p := b.byID[id]; p != nil && p.subscribed {
			p.subscribed, p.lost = false, true
			h.clear(b, p)
			if f == p2p.Missing {
				p.again = now.Add(againAfter)
			} else {
				h.blame(p.peer, f)
			}
			h.fill(b)
			h.wake(now.Add(beat))
		}
	}
	return h.end()
}

// expel takes a host out of everything: the scheduler says that it is dead or
// banned.
func (h *Host) expel(id p2p.HostID) {
	delete(h.peers, id)
	for _, b := range h.order {
		for _, r := range slices.Clone(b.under) {
			if r.from != nil && r.from.host.ID == id {
				h.cancel(r)
			}
		}
		if p := b.byID[id]; p != nil {
			h.unsubscribe(b, p)
			delete(b.byID, id)
			b.parents = slices.DeleteFunc(b.parents, func(o *parent) bool { return o == p })
		}
		h.fill(b)
	}
}

// blame makes a peer that failed rest, longer each time.
func (h *Host) blame(p *peer, f p2p.Failure) {
	var pause time.Duration
	switch f {
	case p2p.Busy:
		pause = busyPause
	case p2p.Unreachable:
		pause = unreachablePause
	case p2p.Stalled:
		pause = stallPause
	default:
		return
	}
	pause = min(pause<<min(p.failures, 6), longestPause)
	if f == p2p.Busy {
		pause = min(pause, time.Second)
	}
	p.failures++
	// A quarter more or less, so that children refused together do not come back
	// together.
	spread := mix(h.salt+hash(uint64(p.failures), string(p.host.ID))) % 512
	pause += pause * (time.Duration(spread) - 256) / 1024
	p.blocked = h.now.Add(pause)
	h.wake(p.blocked)
}

// measure notes how fast a peer served a piece: how long its bytes took, and
// all since it was asked for or the one before had come. The rate is of all of
// it, because what has waited in a buffer takes no time.
func (p *peer) measure(bytes int64, took, all time.Duration) {
	p.failures = 0
	if took <= 0 {
		return
	}
	all = max(all, took)
	p.piece += (took - p.piece) / 4
	p.idle += (all - took - p.idle) / 4
	rate := float64(bytes) / all.Seconds()
	if p.rate == 0 {
		p.rate = rate
		return
	}
	p.rate += (rate - p.rate) / 4
}

// rate looks which parents are much slower than the others, or have been silent for as
// long as if they were.
func (h *Host) rate(b *blob) {
	for _, p := range b.parents {
		p.slow = p.rate > 0 && p.rate*slowBy < b.usual(p)
	}
	for _, r := range b.under {
		if r.from == nil || r.check || r.early || r.through || r.from.slow {
			continue
		}
		waited := h.now.Sub(r.heard)
		r.from.slow = waited >= silentFor && waited.Seconds()*b.usual(r.from) > slowBy*float64(b.size(r.next))
	}
}
