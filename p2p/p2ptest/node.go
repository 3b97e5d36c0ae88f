package p2ptest

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// A node is one machine with the daemon on it: the real decisions of a host, and
// in place of disk and sockets the simulation.
type node struct {
	sim     *Sim
	machine int32
	host    p2p.Host
	swarm   *swarm.Host
	nature  nature
	dead    bool
	silent  bool // dead, and nobody tells
	deaf    bool // to audits

	streams map[string]*stream
	content map[digest.Digest]*content
	last    *content // used last
	pulls   map[uint64]*pull
	serving int
	taken   map[*node]int // requests it has taken, by child: it answers them or has them in the queue
	queue   []*pull       // wait for an upload to end
	armed   int64         // step for which Tick is set; 0: none

	wants   bool
	came    time.Time
	whole   int                    // blobs that are whole and right
	reads   int                    // of the start, begun
	waiting int                    // of those, not done
	first   time.Duration          // when it stored a piece first; 0: not yet
	done    time.Duration          // when all blobs were whole and right, or all reads done; 0: not yet
	heard   map[digest.Digest]bool // a scheduler said who has it
	gave    int64                  // bytes it sent to others
}

// A content is one blob on a node.
type content struct {
	blob    p2p.Blob
	state   []state
	arrived map[int]p2p.Sum // not yet stored or dropped
	spoiled map[int]p2p.Sum // what the wrong pieces really are
	whole   int
	match   bool // the whole was right
	blocks  *blocks
	subs    []*node // who hears of new pieces
	fresh   []int   // that they have not heard of
	flushed int64
	flush   bool // is set
	waiting map[int][]*pull
}

type state uint8

const (
	absent state = iota
	right
	wrong
)

func (n *node) blob(b p2p.Blob) *content {
	if n.last != nil && n.last.blob == b {
		return n.last
	}
	c := n.content[b.Digest]
	if c == nil {
		c = &content{blob: b, state: make([]state, b.Pieces()), arrived: map[int]p2p.Sum{}, spoiled: map[int]p2p.Sum{}, waiting: map[int][]*pull{}}
		n.content[b.Digest] = c
	}
	n.last = c
	return c
}

func (n *node) now() time.Time { return n.sim.clock.now() }

// do carries out what the host decided, and sets its next Tick.
func (n *node) do(actions []swarm.Action) {
	if n.dead {
		return
	}
	for _, a := range actions {
		n.act(a)
	}
	n.arm()
}

func (n *node) arm() {
	next := n.swarm.Next()
	if next.IsZero() || n.dead {
		return
	}
	at := max(n.sim.clock.at(next), n.sim.clock.tick+1)
	if n.armed != 0 && n.armed <= at {
		return
	}
	n.armed = at
	n.sim.clock.set(at, func() {
		if n.armed == at && !n.dead {
			n.armed = 0
			n.do(n.swarm.Tick(n.now()))
			n.arm()
		}
	})
}

func (n *node) act(a swarm.Action) {
	switch a := a.(type) {
	case swarm.Send:
		if s := n.streams[a.Scheduler]; s != nil {
			s.up(n.nature.say(n, a.Message))
		}
	case swarm.Request:
		n.request(a)
	case swarm.Origin:
		n.fetch(a)
	case swarm.Cancel:
		if p := n.pulls[a.ID]; p != nil {
			p.end()
		}
	case swarm.Subscribe:
		n.subscribe(a)
	case swarm.Unsubscribe:
		n.unsubscribe(a)
	case swarm.Store:
		n.store(a)
	case swarm.Drop:
		n.drop(a)
	case swarm.Match:
		n.match(a.Digest)
	case swarm.Hash:
		n.sim.clock.after(0, func() { n.hash(a.Blob) })
	case swarm.Data:
		c := n.blob(a.Blob)
		c.state[0], c.whole = right, 1
		n.matched(c)
	}
}

func (n *node) store(a swarm.Store) {
	c := n.content[a.Digest]
	sum, ok := c.arrived[a.Piece]
	if !ok || c.state[a.Piece] != absent {
		panic("stored a piece that has not arrived")
	}
	delete(c.arrived, a.Piece)
	c.whole++
	if n.first == 0 {
		n.first = n.sim.clock.elapsed()
	}
	c.state[a.Piece] = right
	if sum != truth(a.Piece) {
		c.state[a.Piece] = wrong
		c.spoiled[a.Piece] = sum
	}
	n.show(c, a.Piece)
	c.wake(a.Piece)
	waiting := c.waiting[a.Piece]
	delete(c.waiting, a.Piece)
	for _, p := range waiting {
		if p.wait {
			p.accept()
		} else {
			p.serve()
		}
	}
}

func (n *node) drop(a swarm.Drop) {
	c := n.content[a.Digest]
	delete(c.arrived, a.Piece)
	if c.state[a.Piece] == absent {
		return
	}
	c.state[a.Piece] = absent
	c.whole--
	gone := p2p.NewHave(len(c.state))
	gone.Add(a.Piece)
	for _, child := range c.subs {
		n.sim.packet(n, child, func() {
			if !child.dead && c.state[a.Piece] == absent {
				child.do(child.swarm.PeerLost(child.now(), n.host.ID, a.Digest, gone))
			}
		}, nil)
	}
}

// match hashes the whole, which takes no time here.
func (n *node) match(d digest.Digest) {
	n.sim.clock.after(0, func() {
		if n.dead {
			return
		}
		c := n.content[d]
		ok := true
		for i, s := range c.state {
			sum, held := c.arrived[i]
			ok = ok && (s == right || held && sum == truth(i))
		}
		if ok {
			n.matched(c)
		}
		n.do(n.swarm.Matched(n.now(), d, ok))
	})
}

// hash tells the sums of a blob that is here.
func (n *node) hash(b p2p.Blob) {
	sums := make([]p2p.Sum, b.Pieces())
	for i := range sums {
		sums[i] = n.nature.serve(n, b, i)
	}
	if !n.dead {
		n.do(n.swarm.Hashed(n.now(), b.Digest, sums))
	}
}

func (n *node) matched(c *content) {
	if c.match {
		return
	}
	c.match = true
	if n.whole++; n.whole == len(n.sim.blobs) {
		n.finished()
	}
}

func (n *node) finished() {
	if n.done == 0 {
		n.done = n.sim.clock.elapsed()
		if n.expected() {
			n.sim.left--
		}
		if n.sim.cfg.Fill {
			n.want(false)
		}
	}
}

// expected reports whether the run waits for this node.
func (n *node) expected() bool {
	return n.wants && n.nature == honest && !n.dead
}

// show tells subscribers of a new piece: at once, unless they were told a
// moment ago.
func (n *node) show(c *content, piece int) {
	if len(c.subs) == 0 {
		return
	}
	c.fresh = append(c.fresh, piece)
	if c.flush {
		return
	}
	c.flush = true
	n.sim.clock.set(max(c.flushed+n.sim.clock.ticks(n.sim.cfg.PushEvery), n.sim.clock.tick+1), func() {
		c.flush, c.flushed = false, n.sim.clock.tick
		have := p2p.NewHave(len(c.state))
		for _, i := range c.fresh {
			if c.state[i] != absent {
				have.Add(i)
			}
		}
		c.fresh = c.fresh[:0]
		for _, child := range c.subs {
			n.push(c, child, have)
		}
	})
}

func (n *node) push(c *content, child *node, have *p2p.Have) {
	if have.Count() == 0 {
		return
	}
	n.sim.packet(n, child, func() {
		if !child.dead {
			child.do(child.swarm.PeerHave(child.now(), n.host.ID, c.blob.Digest, have))
		}
	}, func() { n.lost(c, child) })
}

// lost ends a subscription that a partition broke.
func (n *node) lost(c *content, child *node) {
	c.leave(child)
	n.sim.clock.after(keepAlive, func() { child.gone(n, c.blob.Digest) })
}

func (n *node) gone(parent *node, d digest.Digest) {
	if !n.dead {
		n.do(n.swarm.PeerGone(n.now(), parent.host.ID, d, p2p.Unreachable))
	}
}

func (c *content) leave(child *node) {
	for i, s := range c.subs {
		if s == child {
			c.subs[i] = c.subs[len(c.subs)-1]
			c.subs = c.subs[:len(c.subs)-1]
			return
		}
	}
}

func (n *node) subscribe(a swarm.Subscribe) {
	parent := n.sim.byID[a.Peer.ID]
	d := a.Blob.Digest
	n.sim.packet(n, parent, func() {
		if parent.dead {
			if !parent.silent {
				n.sim.packet(parent, n, func() { n.gone(parent, d) }, nil)
			} else {
				n.sim.clock.after(keepAlive, func() { n.gone(parent, d) })
			}
			return
		}
		c := parent.blob(a.Blob)
		c.leave(n)
		c.subs = append(c.subs, n)
		have := parent.nature.show(c)
		parent.push(c, n, have)
	}, func() { n.sim.clock.after(keepAlive, func() { n.gone(parent, d) }) })
}

func (n *node) unsubscribe(a swarm.Unsubscribe) {
	parent := n.sim.byID[a.Peer]
	n.sim.packet(n, parent, func() {
		if c := parent.content[a.Digest]; c != nil {
			c.leave(n)
		}
	}, nil)
}

func (c *content) have() *p2p.Have {
	h := p2p.NewHave(len(c.state))
	for i, s := range c.state {
		if s != absent {
			h.Add(i)
		}
	}
	return h
}
