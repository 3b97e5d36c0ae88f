package swarm

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Config says who the host is and how much it may do at a time. Zero values
// are the defaults.
type Config struct {
	Self           p2p.Host
	Schedulers     []string // names of all there are, reachable or not
	MaxInFlight    int64    // bytes asked of peers and not yet here; 32 MiB
	PerPeer        int      // requests under way to one peer and blob, where the way is long; 2
	OriginRequests int      // requests under way to the origin for what nobody waits for; 4
	Run            int64    // bytes of several pieces in one request; 4 MiB
	OriginRun      int64    // and in one to the origin; 16 MiB
}

const (
	beat          = 250 * time.Millisecond // how often a busy host looks for what is late
	progressEvery = 200 * time.Millisecond
	sumsEvery     = 50 * time.Millisecond
)

// A Host is what one host knows and decides. It is not safe for concurrent use.
// The slices its methods return belong to the caller; times must not go
// backwards.
type Host struct {
	cfg  Config
	salt uint64 // differs from host to host, so that equal choices do

	now   time.Time // of the event being handled
	out   []Action
	next  time.Time // when Tick has something to do; zero: nothing
	beats time.Time // when Tick last looked at everything

	blobs    map[digest.Digest]*blob
	order    []*blob // by digest
	last     *blob   // looked up last: most events come in rows
	peers    map[p2p.HostID]*peer
	links    []*link // by name
	requests map[uint64]*request
	lastID   uint64
	flight   int64 // bytes asked of peers and not here
	under    int   // requests for pieces under way to peers
	meter    meter
	latency  latency
	queue    []*blob   // that want all, the most urgent and oldest first
	batch    time.Time // when the first of those was wanted that came together last
	requeue  bool      // queue may be wrong
	moved    time.Time // a piece arrived
	origins  int       // requests to the origin under way
	originAt time.Time
	proven   bool // the origin has sent a piece since then
}

// New returns a host that knows nothing yet.
func New(cfg Config) *Host {
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 32<<20)
	cfg.PerPeer = cmp.Or(cfg.PerPeer, 2)
	cfg.OriginRequests = cmp.Or(cfg.OriginRequests, 4)
	cfg.Run = cmp.Or(cfg.Run, 4<<20)
	cfg.OriginRun = cmp.Or(cfg.OriginRun, 16<<20)
	h := &Host{
		cfg:      cfg,
		salt:     hash(0, string(cfg.Self.ID)),
		blobs:    make(map[digest.Digest]*blob),
		peers:    make(map[p2p.HostID]*peer),
		requests: make(map[uint64]*request),
	}
	for _, name := range slices.Sorted(slices.Values(cfg.Schedulers)) {
		h.links = append(h.links, &link{name: name})
	}
	return h
}

// Next returns when Tick wants to be called, or the zero time if nothing is
// waited for. It may change with every event.
func (h *Host) Next() time.Time { return h.next }

// Tick does what has become due.
func (h *Host) Tick(now time.Time) []Action {
	h.begin(now)
	if h.next.IsZero() || now.Before(h.next) {
		return h.end()
	}
	h.next = time.Time{}
	h.goHome()
	if full := now.Sub(h.beats) >= beat; full {
		h.beats = now
		for _, b := range h.order {
			h.rate(b)
			h.age(b)
			h.late(b)
			h.patience(b)
			h.listen(b)
			h.remind(b)
		}
	}
	for _, b := range h.order {
		h.report(b)
	}
	h.refill(nil)
	for _, b := range h.order {
		if !b.filling() {
			h.fill(b)
		}
		if b.busy() {
			h.wake(now.Add(beat))
		}
	}
	return h.end()
}

func (h *Host) begin(now time.Time) { h.now, h.out = now, nil }

func (h *Host) end() []Action {
	out := h.out
	h.out = nil
	return out
}

func (h *Host) do(a Action) { h.out = append(h.out, a) }

// wake makes Tick be called at t, if not before.
func (h *Host) wake(t time.Time) {
	if h.next.IsZero() || t.Before(h.next) {
		h.next = t
	}
}

// find returns what is known of a blob, or nil.
func (h *Host) find(d digest.Digest) *blob {
	if h.last == nil || h.last.Digest != d {
		h.last = h.blobs[d]
	}
	return h.last
}

// blob returns what is known of a blob, and starts to know it.
func (h *Host) blob(pb p2p.Blob) *blob {
	if b := h.find(pb.Digest); b != nil {
		return b
	}
	n := pb.Pieces()
	b := &blob{
		Blob: pb, n: n, stripes: pb.Stripes(),
		have: newSet(n), held: newSet(n), asked: newSet(n), mine: newSet(n), doubt: newSet(n), audits: newSet(n), differs: newSet(n), loyal: newSet(n), known: newSet(n), lease: newSet(n), seen: newSet(n), fresh: newSet(n), late: newSet(n),
		requests: make([]uint8, n), rarity: make([]uint16, n),
		homes: h.homes(pb.Digest),
	}
	h.blobs[pb.Digest] = b
	i, _ := slices.BinarySearchFunc(h.order, pb.Digest, func(b *blob, d digest.Digest) int { return cmp.Compare(b.Digest, d) })
	h.order = slices.Insert(h.order, i, b)
	return b
}

func (h *Host) forget(b *blob) {
	delete(h.blobs, b.Digest)
	h.last, h.requeue = nil, true
	h.order = slices.DeleteFunc(h.order, func(o *blob) bool { return o == b })
}

// hash is FNV-1a: the same on every machine, which maphash is not.
func hash(seed uint64, s string) uint64 {
	x := 14695981039346656037 ^ seed
	for i := range len(s) {
		x = (x ^ uint64(s[i])) * 1099511628211
	}
	return mix(x)
}

// mix spreads what differs between two numbers over all bits.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
