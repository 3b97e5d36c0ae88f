package p2ptest

import (
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// A pull is one request for pieces, from asking until its last piece.
type pull struct {
	id      uint64
	child   *node
	parent  *node // nil: the origin
	blob    p2p.Blob
	next    int
	last    int
	through bool
	wait    bool

	flow    int // among the links' transfers; -1: none
	slot    bool
	taken   bool // counts among what the parent has taken
	ended   bool
	moved   bool // since the last look at what stalls
	idle    int
	started time.Time // of the piece on its way
	sum     p2p.Sum   // of it
	lastAt  int64     // when what was sent last arrives
	lost    bool      // the request never arrived
	of      *reading  // what it is part of; nil: it brings pieces
	passing bool      // the parent fetches what it lacks
}

func (n *node) request(a swarm.Request) {
	p := &pull{id: a.ID, child: n, parent: n.sim.byID[a.Peer.ID], blob: a.Blob, next: a.First, last: a.Last, through: a.Through, wait: a.Wait, flow: -1}
	n.pulls[a.ID] = p
	n.sim.watch(p)
	n.sim.requests++
	n.sim.packet(n, p.parent, p.accept, func() { p.lost = true })
}

func (n *node) fetch(a swarm.Origin) {
	p := &pull{id: a.ID, child: n, blob: a.Blob, next: a.First, last: a.Last, flow: -1}
	n.pulls[a.ID] = p
	n.sim.watch(p)
	n.sim.clock.after(2*n.sim.cfg.Delay+n.sim.cfg.OriginDelay, func() {
		if !p.ended {
			p.send()
		}
	})
}

// accept is what the parent's server does with a request.
func (p *pull) accept() {
	switch n := p.parent; {
	case p.ended:
	case n.dead && n.silent:
	case n.dead:
		p.fail(p2p.Unreachable)
	case n.nature == hollow:
		p.fail(p2p.Missing)
	case p.wait && n.blob(p.blob).state[p.next] == absent: // it takes no slot meanwhile
		c := n.blob(p.blob)
		c.waiting[p.next] = append(c.waiting[p.next], p)
	case n.serving+len(n.queue) >= p.slots():
		p.fail(p2p.Busy)
	default:
		p.taken = true
		n.taken[p.child]++
		if n.serving < n.sim.cfg.Uploads {
			p.admit()
			return
		}
		n.queue = append(n.queue, p)
	}
}

// slots is how many requests the parent may have taken when it takes this one, as with
// real hosts: see p2p/peer.
func (p *pull) slots() int {
	n := p.parent.host.Slots
	switch {
	case p.of != nil:
		return n + (n+1)/2
	case p.parent.taken[p.child] == 0:
		return n
	}
	return max(n-n/4, 1)
}

func (p *pull) admit() {
	p.parent.serving++
	p.slot = true
	if p.of != nil {
		p.of.serve()
		return
	}
	p.serve()
}

// next admits those who wait.
func (n *node) next() {
	for n.serving < n.sim.cfg.Uploads && len(n.queue) > 0 {
		p := n.queue[0]
		n.queue = n.queue[1:]
		if !p.ended {
			p.admit()
		}
	}
}

// serve sends the next piece, or waits for it if the parent is to fetch it.
func (p *pull) serve() {
	if p.ended || p.parent.dead {
		return
	}
	c := p.parent.blob(p.blob)
	switch {
	case c.state[p.next] != absent:
		p.send()
	case p.through:
		c.waiting[p.next] = append(c.waiting[p.next], p)
		p.parent.do(p.parent.swarm.Need(p.parent.now(), p.blob.Digest, p.next, p.last))
	default:
		p.fail(p2p.Missing)
	}
}

func (p *pull) send() {
	sim := p.child.sim
	from := sim.origin
	p.sum = truth(p.next)
	if p.parent != nil {
		from = p.parent.machine
		p.sum = p.parent.nature.serve(p.parent, p.blob, p.next)
	}
	_, size := p.blob.Piece(p.next)
	p.started = sim.clock.now()
	if p.flow < 0 {
		sim.links.start(p, from, p.child.machine)
	}
	f := &sim.links.flows[p.flow]
	f.left += float64(size) // the step's bytes beyond the piece before are its first
	f.more = p.next < p.last && (p.parent == nil || p.parent.blob(p.blob).state[p.next+1] != absent)
}

// sent is called when all bytes of a piece have left the parent.
func (p *pull) sent() {
	if p.of != nil {
		p.of.sent()
		return
	}
	sim := p.child.sim
	piece, sum := p.next, p.sum
	_, size := p.blob.Piece(piece)
	if p.parent == nil {
		sim.originBytes += size
	} else {
		p.parent.gave += size
	}
	took := sim.clock.now().Sub(p.started) + sim.clock.step
	p.next++
	if p.next > p.last {
		p.release()
	} else if p.parent == nil || p.parent.blob(p.blob).state[p.next] != absent {
		p.send()
	} else {
		sim.links.stop(p)
		p.serve()
	}
	p.lastAt = max(p.lastAt, sim.clock.in(sim.delay()))
	sim.clock.set(p.lastAt, func() { p.arrive(piece, sum, took) })
}

func (p *pull) arrive(piece int, sum p2p.Sum, took time.Duration) {
	n := p.child
	if n.dead || n.pulls[p.id] != p {
		return
	}
	if piece == p.last {
		p.ended = true
		delete(n.pulls, p.id)
	}
	n.sim.pieces++
	actions := n.swarm.Piece(n.now(), p.id, piece, sum, took)
	if slices.Contains(actions, swarm.Action(swarm.Ignore{ID: p.id, Piece: piece})) {
		n.sim.twice++
	} else {
		n.blob(p.blob).arrived[piece] = sum
	}
	n.do(actions)
}

// fail ends the pull with an answer of the parent, or of the child's own timer.
func (p *pull) fail(f p2p.Failure) {
	p.release()
	p.ended = true
	if p.of != nil {
		p.of.failed(f)
		return
	}
	n := p.child
	n.sim.clock.set(max(p.lastAt, n.sim.clock.in(n.sim.delay())), func() {
		if !n.dead && n.pulls[p.id] == p {
			delete(n.pulls, p.id)
			n.sim.failures[f]++
			n.do(n.swarm.Failed(n.now(), p.id, f))
		}
	})
}

// end is the child's leaving.
func (p *pull) end() {
	p.release()
	p.ended = true
	delete(p.child.pulls, p.id)
}

// release frees what the pull takes of the parent.
func (p *pull) release() {
	p.child.sim.links.stop(p)
	if p.taken {
		p.taken = false
		p.parent.taken[p.child]--
	}
	if p.slot {
		p.slot = false
		p.parent.serving--
		p.parent.next()
	}
}

// watch looks for pulls on which nothing moves.
func (s *Sim) watch(p *pull) { s.watched = append(s.watched, p) }

func (s *Sim) lookForStalls() {
	live := s.watched[:0]
	for _, p := range s.watched {
		if p.ended || p.child.dead {
			continue
		}
		live = append(live, p)
		patient := p.parent != nil && p.flow < 0 && !p.parent.dead && !p.lost
		if p.moved || patient && p.of == nil {
			p.moved, p.idle = false, 0
			continue
		}
		limit := s.cfg.StallAfter
		if patient {
			limit = circling
		}
		if p.idle++; time.Duration(p.idle)*stallLook >= limit {
			p.fail(p2p.Stalled)
		}
	}
	clear(s.watched[len(live):])
	s.watched = live
	s.clock.after(stallLook, s.lookForStalls)
}
