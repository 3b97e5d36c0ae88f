package p2ptest

import (
	"math/rand/v2"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

const (
	block   = 64 << 10 // ranges move and are passed on in these
	maxHops = 32       // that a read is passed on
	hosting = 16 << 10 // smallest read
	largest = 512 << 10

	// circling is how long a host waits for a parent that fetches what it lacks: while the
	// graph changes two may come to wait for each other.
	circling = 20 * time.Second
)

// A ranged is a run of blocks of a blob.
type ranged struct {
	blob        int
	first, last int
}

// profile makes up what a container reads when it starts.
func (s *Sim) profile() {
	r := rand.New(rand.NewPCG(s.cfg.Seed, 4))
	for left := int64(s.cfg.Lazy * float64(s.cfg.Size)); left > 0; {
		b := r.IntN(len(s.blobs))
		n := min(hosting<<r.IntN(6), largest)
		off := r.Int64N(max(1, s.blobs[b].Size-int64(n)))
		x := ranged{b, int(off / block), int((min(off+int64(n), s.blobs[b].Size) - 1) / block)}
		s.reads = append(s.reads, x)
		left -= int64(x.last-x.first+1) * block
	}
}

// blocks are what ranges brought of a blob.
type blocks struct {
	have   []bool
	own    []bool // came from the origin
	asked  []bool
	wanted map[int][]func()
}

func (c *content) ranges() *blocks {
	if c.blocks == nil {
		n := int((c.blob.Size + block - 1) / block)
		c.blocks = &blocks{have: make([]bool, n), own: make([]bool, n), asked: make([]bool, n), wanted: map[int][]func(){}}
	}
	return c.blocks
}

func (c *content) piece(b int) int { return int(int64(b) * block / p2p.PieceSize(c.blob.Size)) }

func (c *content) has(b int) bool {
	return c.state[c.piece(b)] != absent || c.ranges().have[b]
}

// wake goes on with the reads that wait for a piece.
func (c *content) wake(piece int) {
	if x := c.blocks; x != nil && len(x.wanted) > 0 {
		off, size := c.blob.Piece(piece)
		for b := int(off / block); b <= int((off+size-1)/block); b++ {
			x.wake(b)
		}
	}
}

func (x *blocks) wake(b int) {
	waiting := x.wanted[b]
	delete(x.wanted, b)
	for _, f := range waiting {
		f()
	}
}

// patience is how long a first read waits for the scheduler's answer.
const patience = 150 * time.Millisecond

// hear begins the first reads once a scheduler has answered for all blobs.
func (n *node) hear(m p2p.Message) {
	if p, ok := m.(p2p.Parents); ok && n.reads == 0 && n.wants {
		n.heard[p.Digest] = true
		if len(n.heard) == len(n.sim.blobs) {
			n.startUp()
		}
	}
}

// startUp begins the reads of a container that starts, some at a time.
func (n *node) startUp() {
	for n.waiting < n.sim.cfg.Readers && n.reads < len(n.sim.reads) {
		r := n.sim.reads[n.reads]
		n.reads++
		n.waiting++
		left := r.last - r.first + 1
		n.read(n.blob(n.sim.blobs[r.blob]), r.first, r.last, 0, func(int) {
			if left--; left == 0 {
				n.waiting--
				n.sim.clock.after(0, n.startUp)
			}
		})
	}
	if n.waiting == 0 && n.reads > 0 && n.reads == len(n.sim.reads) {
		n.finished()
	}
}

// read calls each for every block of a range as soon as it is here.
func (n *node) read(c *content, first, last, hops int, each func(b int)) {
	x := c.ranges()
	var missing []int
	for b := first; b <= last; b++ {
		if c.has(b) {
			each(b)
			continue
		}
		x.wanted[b] = append(x.wanted[b], func() { each(b) })
		if !x.asked[b] {
			x.asked[b] = true
			missing = append(missing, b)
		}
	}
	for len(missing) > 0 {
		k := 1
		for k < len(missing) && missing[k] == missing[0]+k {
			k++
		}
		n.plan(c, missing[0], missing[k-1], hops)
		missing = missing[k:]
	}
}

// plan asks for blocks that are not here.
func (n *node) plan(c *content, first, last, hops int) {
	off := int64(first) * block
	end := min(int64(last+1)*block, c.blob.Size)
	for _, part := range n.swarm.Read(n.now(), c.blob.Digest, off, end-off) {
		r := &reading{node: n, content: c, next: int(part.Off / block), last: int((part.Off + part.N - 1) / block), sources: part.Sources, hops: hops}
		r.ask()
	}
}

// A reading is a part of a read, asked of one source after the other.
type reading struct {
	node       *node
	content    *content
	next, last int
	sources    []swarm.Source
	hops       int

	pull  *pull
	began time.Time // of the present source
	first time.Time // byte of it
	bytes int64
}

func (r *reading) ask() {
	n, s := r.node, r.sources[0]
	for s.Through && r.hops >= maxHops {
		r.sources = r.sources[1:]
		s = r.sources[0]
	}
	r.began, r.first, r.bytes = n.now(), time.Time{}, 0
	p := &pull{child: n, blob: r.content.blob, flow: -1, of: r}
	r.pull = p
	n.sim.watch(p)
	n.sim.requests++
	if s.Origin() {
		n.sim.clock.after(2*n.sim.cfg.Delay+n.sim.cfg.OriginDelay, func() {
			if !p.ended {
				r.send()
			}
		})
		return
	}
	p.parent = n.sim.byID[s.Peer.ID]
	n.sim.packet(n, p.parent, p.accept, func() { p.lost = true })
}

// serve is the parent's part.
func (r *reading) serve() {
	parent := r.pull.parent
	c := parent.blob(r.content.blob)
	if c.has(r.next) {
		r.send()
		return
	}
	p := r.pull
	if !r.sources[0].Through {
		p.fail(p2p.Missing)
		return
	}
	if p.passing {
		return
	}
	p.passing = true
	parent.read(c, r.next, r.last, r.hops+1, func(b int) {
		if p == r.pull && !p.ended && p.flow < 0 && b == r.next {
			r.send()
		}
	})
}

func (r *reading) size(b int) int64 { return min(block, r.content.blob.Size-int64(b)*block) }

func (r *reading) send() {
	p, sim := r.pull, r.node.sim
	from := sim.origin
	if p.parent != nil {
		from = p.parent.machine
	}
	if p.flow < 0 {
		sim.links.start(p, from, p.child.machine)
	}
	f := &sim.links.flows[p.flow]
	f.left += float64(r.size(r.next))
	f.more = r.next < r.last && (p.parent == nil || p.parent.blob(r.content.blob).has(r.next+1))
}

// sent is called when a block has left the source.
func (r *reading) sent() {
	p, sim, b := r.pull, r.node.sim, r.next
	size := r.size(b)
	if p.parent == nil {
		sim.originBytes += size
		sim.readBytes += size
	} else {
		p.parent.gave += size
	}
	if r.first.IsZero() {
		r.first = sim.clock.now()
	}
	r.bytes += size
	r.next++
	if p.lastAt = max(p.lastAt, sim.clock.in(sim.delay())); r.next > r.last {
		p.release()
		p.ended = true
		sim.clock.set(p.lastAt, func() { r.arrive(b, p.parent == nil); r.served(p2p.None) })
		return
	}
	sim.clock.set(p.lastAt, func() { r.arrive(b, p.parent == nil) })
	if p.parent != nil && !p.parent.blob(r.content.blob).has(r.next) {
		sim.links.stop(p)
		r.serve()
		return
	}
	r.send()
}

func (r *reading) served(f p2p.Failure) {
	n := r.node
	if n.dead {
		return
	}
	now := n.now()
	first := now.Sub(r.began)
	if !r.first.IsZero() {
		first = r.first.Sub(r.began)
	}
	n.do(n.swarm.Served(now, r.content.blob.Digest, swarm.Given{
		From: r.sources[0].Peer.ID, Bytes: r.bytes, First: first, Took: now.Sub(r.began), Failed: f,
	}))
}

// failed goes on with the next source, and begins anew when there is none.
func (r *reading) failed(f p2p.Failure) {
	n := r.node
	n.sim.failures[f]++
	n.sim.clock.set(n.sim.clock.in(n.sim.delay()), func() {
		r.served(f)
		if n.dead {
			return
		}
		if r.sources = r.sources[1:]; len(r.sources) > 0 {
			r.ask()
			return
		}
		n.sim.clock.after(time.Second, func() { n.plan(r.content, r.next, r.last, r.hops) })
	})
}

// arrive takes a block, and the piece it may be the last of.
func (r *reading) arrive(b int, own bool) {
	n, c := r.node, r.content
	if n.dead {
		return
	}
	x := c.ranges()
	if !c.has(b) {
		x.have[b], x.own[b] = true, own
	}
	x.wake(b)
	i := c.piece(b)
	if _, held := c.arrived[i]; held || c.state[i] != absent {
		return
	}
	off, size := c.blob.Piece(i)
	all := true
	for k := int(off / block); k <= int((off+size-1)/block); k++ {
		if !x.have[k] {
			return
		}
		all = all && x.own[k]
	}
	c.arrived[i] = truth(i)
	n.do(n.swarm.Filled(n.now(), c.blob.Digest, i, truth(i), all))
}
