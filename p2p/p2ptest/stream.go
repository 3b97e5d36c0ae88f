package p2ptest

import (
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
)

const (
	keepAlive = 3 * time.Second // a stream on which nothing answers is given up
	reconnect = time.Second
)

// A control is one scheduler process.
type control struct {
	sim     *Sim
	name    string
	machine int32
	state   *sched.State // nil: it does not run
	life    int
	armed   int64
	streams map[p2p.HostID]*stream
	events  int
	spent   time.Duration // of this machine's time, in decisions
	refused map[string]int
}

// A stream connects a host with a scheduler; each direction keeps its order.
type stream struct {
	node    *node
	control *control
	open    bool
	broken  bool
	life    int // of the stream: what was sent on an earlier one is lost
	upAt    int64
	downAt  int64
}

func (s *stream) connect() {
	n, c := s.node, s.control
	if s.open || n.dead {
		return
	}
	if c.state == nil || n.sim.links.cut(n.machine, c.machine) {
		n.sim.clock.after(reconnect, s.connect)
		return
	}
	s.open, s.broken = true, false
	s.life++
	n.do(n.swarm.SchedulerUp(n.now(), c.name))
}

// lose ends the stream on both sides, and lets the host dial again.
func (s *stream) lose() {
	if !s.open {
		return
	}
	s.open = false
	n, c := s.node, s.control
	if c.state != nil {
		c.deliver(c.state.Disconnect(n.now(), n.host.ID))
	}
	if !n.dead {
		n.do(n.swarm.SchedulerDown(n.now(), c.name))
		n.sim.clock.after(reconnect, s.connect)
	}
}

// breaks ends the stream once its keep-alive has noticed that nothing passes.
func (s *stream) breaks() {
	if s.broken {
		return
	}
	s.broken = true
	life := s.life
	s.node.sim.clock.after(keepAlive, func() {
		if s.life == life {
			s.lose()
		}
	})
}

// up carries messages to the scheduler.
func (s *stream) up(ms []p2p.Message) {
	if !s.open || s.broken {
		return
	}
	clock, life := s.node.sim.clock, s.life
	s.upAt = max(s.upAt, clock.in(s.node.sim.delay()))
	for _, m := range ms {
		clock.set(s.upAt, func() {
			if s.node.sim.links.cut(s.node.machine, s.control.machine) {
				s.breaks()
			}
			if s.life == life && s.open && !s.broken {
				s.control.handle(s.node.host.ID, m)
			}
		})
	}
}

// down carries a message to the host.
func (s *stream) down(m p2p.Message) {
	if !s.open || s.broken {
		return
	}
	clock, life := s.node.sim.clock, s.life
	s.downAt = max(s.downAt, clock.in(s.node.sim.delay()))
	clock.set(s.downAt, func() {
		if s.node.sim.links.cut(s.node.machine, s.control.machine) {
			s.breaks()
		}
		if s.life == life && s.open && !s.broken && !s.node.dead {
			if _, audit := m.(p2p.Audit); audit && s.node.deaf {
				return
			}
			s.node.do(s.node.swarm.FromScheduler(s.node.now(), s.control.name, m))
			s.node.hear(m)
		}
	})
}

func (c *control) handle(from p2p.HostID, m p2p.Message) {
	if c.state == nil {
		return
	}
	c.events++
	start := time.Now()
	sends, err := c.state.Handle(c.sim.clock.now(), from, m)
	c.spent += time.Since(start)
	if err != nil {
		c.refused[err.Error()]++
	}
	c.deliver(sends)
}

func (c *control) deliver(sends []sched.Send) {
	for _, s := range sends {
		c.sim.messages++
		if st := c.streams[s.To]; st != nil {
			st.down(s.Message)
		}
	}
	c.arm()
}

func (c *control) arm() {
	if c.state == nil {
		return
	}
	next := c.state.Next()
	if next.IsZero() {
		return
	}
	clock := c.sim.clock
	at := max(clock.at(next), clock.tick+1)
	if c.armed != 0 && c.armed <= at {
		return
	}
	c.armed = at
	life := c.life
	clock.set(at, func() {
		if c.state == nil || c.life != life || c.armed != at {
			return
		}
		c.armed = 0
		start := time.Now()
		sends := c.state.Tick(clock.now())
		c.spent += time.Since(start)
		c.deliver(sends)
		c.arm()
	})
}
