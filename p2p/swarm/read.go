package swarm

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	maxSources  = 3        // peers in a plan for one part
	leastRead   = 64 << 10 // bytes; what is shorter says more of delay than of speed
	fewSamples  = 16
	firstHedge  = 250 * time.Millisecond // while fewer samples are known
	leastHedge  = 5 * time.Millisecond
	longestWait = 2 * time.Second
)

// A Part is a run of a range, with the sources to read it from.
type Part struct {
	Off, N  int64
	Sources []Source // best first; the origin comes last
	// Hedge is how long to wait for the first byte of one source before the next
	// is asked as well: what 95 of 100 reads took.
	Hedge time.Duration
}

// A Source is a peer, or the origin.
type Source struct {
	Peer    p2p.Host // the zero Host: the origin
	Through bool     // the peer is to fetch what it lacks
}

// Origin reports whether the source is the origin.
func (s Source) Origin() bool { return s.Peer.ID == "" }

// Read plans a read that somebody waits for: n bytes at off, of a blob that
// this host does not have there. Nothing is noted as being under way, and bytes
// that a plan brings do not count as pieces (see Filled).
func (h *Host) Read(now time.Time, d digest.Digest, off, n int64) []Part {
	h.begin(now)
	b := h.find(d)
	if b == nil || off < 0 || n <= 0 || off >= b.Size {
		return nil
	}
	end := min(off+n, b.Size)
	size := p2p.PieceSize(b.Size)
	var parts []Part
	for off < end {
		i := int(off / size)
		stop := min(int64(i+1)*size, end)
		sources := h.sources(b, i)
		if k := len(parts) - 1; k >= 0 && slices.Equal(parts[k].Sources, sources) {
			parts[k].N += stop - off
		} else {
			parts = append(parts, Part{off, stop - off, sources, h.latency.hedge()})
		}
		off = stop
	}
	return parts
}

// sources returns whom to ask for a piece: parents that have it, the fastest
// first, then the piece's own parents, to fetch it, then the origin.
func (h *Host) sources(b *blob, piece int) []Source {
	s := b.Stripe(piece)
	var ps []*parent
	for _, p := range b.parents {
		if p.usable(h.now) && (p.have.has(piece) || p.rank[s] < backupRank) {
			ps = append(ps, p)
		}
	}
	slices.SortStableFunc(ps, func(x, y *parent) int {
		if c := cmp.Compare(b.wait(x, piece), b.wait(y, piece)); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(x.requests, y.requests), cmp.Compare(x.rank[s], y.rank[s]), cmp.Compare(y.rate, x.rate))
	})
	sources := make([]Source, 0, maxSources+1)
	for _, p := range ps[:min(len(ps), maxSources)] {
		sources = append(sources, Source{p.host, !p.have.has(piece)})
	}
	return append(sources, Source{})
}

// wait orders parents by what a read must wait for: nothing, a slow link, a
// fetch by the parent. While all read lazily, the first parent most likely reads
// the same at the moment and passes it on as it comes; if all asked who has it
// already, that one's line would be everybody's.
func (b *blob) wait(p *parent, piece int) int {
	w := 0
	if passes := b.lazy && p.rank[b.Stripe(piece)] == 0; !passes && !p.have.has(piece) {
		w += 2
	}
	if p.slow {
		w++
	}
	return w
}

// Given is what a source sent of a planned read.
type Given struct {
	From   p2p.HostID // "": the origin
	Bytes  int64
	First  time.Duration // until the first of them came
	Took   time.Duration // until the last one did
	Failed p2p.Failure
}

// Served says how a source did in a planned read. Of how fast the source is that says
// little: a read is short, most of it may have waited in a buffer, or for the bytes that
// the source had to fetch. The scheduler can compare with how those came to the source.
func (h *Host) Served(now time.Time, d digest.Digest, g Given) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil {
		return h.end()
	}
	if g.Failed == p2p.None || g.Bytes > 0 {
		h.latency.add(g.First)
	}
	switch {
	case g.Failed != p2p.None:
		b.notes.transfer(g.From, 0, 0, g.Failed)
	case g.From != "" && b.lazy && g.Bytes >= leastRead && g.Took > 0:
		b.notes.transfer(g.From, g.Bytes, g.Took, p2p.None)
	}
	if p := b.byID[g.From]; p != nil {
		if g.Failed != p2p.None {
			h.blame(p.peer, g.Failed)
		}
		p.liar = p.liar || g.Failed == p2p.Mismatch
	}
	h.report(b)
	return h.end()
}

// Refused says that the origin refused the token in a planned read for another host,
// who gets a new one if the scheduler hears of it.
func (h *Host) Refused(now time.Time, d digest.Digest) []Action {
	h.begin(now)
	if b := h.find(d); b != nil {
		b.notes.transfer("", 0, 0, p2p.Refused)
		h.report(b)
	}
	return h.end()
}

// Filled says that a piece has been put together from planned reads and has
// this sum, and whether all its bytes are the origin's own. Store or Drop follows
// at once or when the sum is known.
func (h *Host) Filled(now time.Time, d digest.Digest, piece int, sum p2p.Sum, origin bool) []Action {
	h.begin(now)
	b := h.find(d)
	if b == nil || piece < 0 || piece >= b.n || b.here(piece) {
		return h.end()
	}
	b.source.moved, b.fed = now, now
	switch {
	case origin:
		h.fromOrigin(b, piece, sum)
	case !b.known.has(piece):
		h.hold(b, piece, arrival{sum, nil})
	case b.sums[piece] == sum:
		h.store(b, piece)
	default:
		h.do(Drop{d, piece})
	}
	h.report(b)
	return h.end()
}

// A latency remembers how long the last reads waited for their first byte.
type latency struct {
	samples [128]time.Duration
	n       int
}

func (l *latency) add(d time.Duration) {
	l.samples[l.n%len(l.samples)] = d
	l.n++
}

// hedge returns what 95 of 100 reads took.
func (l *latency) hedge() time.Duration {
	if l.n < fewSamples {
		return firstHedge
	}
	s := slices.Clone(l.samples[:min(l.n, len(l.samples))])
	slices.Sort(s)
	return min(max(s[len(s)*95/100], leastHedge), longestWait)
}
