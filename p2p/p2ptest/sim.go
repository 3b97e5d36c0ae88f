package p2ptest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

const stallLook = 250 * time.Millisecond

// Config says what to simulate. Zero values are the defaults.
type Config struct {
	Seed  uint64 // of all that is random
	Hosts int    // that want the blob
	Seeds int
	Full  int           // hosts that have everything, want nothing and serve
	Size  int64         // of the blob; 1 GiB
	Sizes []int64       // of several blobs, all of which each host wants; Size is their sum
	Join  time.Duration // the hosts come spread over it, in random order; 100 ms

	Up, Down         float64 // bytes per second of a host; 125 MB
	SeedUp, SeedDown float64 // and of a seed; those of a host
	Origin           float64 // of the origin; 125 MB
	Slots            int     // requests a host takes at a time; 32
	Uploads          int     // of those that it answers at a time, the others wait; all

	Step        time.Duration // 2 ms
	Delay       time.Duration // one way; 1 ms
	Jitter      float64       // up to so many times the delay more
	OriginDelay time.Duration // that the origin takes to answer; 20 ms
	Loss        float64       // share of packets that come a timeout later
	PushEvery   time.Duration // news to children; 10 ms
	StallAfter  time.Duration // 2 s
	Limit       time.Duration // of simulated time; 20 times the bound and a minute

	// Lazy is the share of the blobs that each host reads, all of them the same
	// ranges in the same order; then it is ready. 0: it wants all, and at once.
	Lazy    float64
	Readers int  // reads that a host waits for at a time; 4
	Fill    bool // a host that is ready wants the rest, too

	Dying, Slow, Lying float64       // shares of the hosts
	Thin               float64       // share of those of which the line up alone is slow
	Deaf               float64       // share of the hosts that know nothing of audits, as before there were any
	SlowBy             float64       // 20
	Colluding          bool          // liars all report the same false sums
	Slandering         bool          // they accuse those who serve them, and do nothing else
	Ahead              time.Duration // by so much those and slow hosts come before all others

	Schedulers int // 1; with -1 there is none
	Sched      sched.Config
	Swarm      swarm.Config
}

func (c Config) withDefaults() Config {
	c.Size = cmp.Or(c.Size, 1<<30)
	if len(c.Sizes) == 0 {
		c.Sizes = []int64{c.Size}
	}
	c.Size = 0
	for _, n := range c.Sizes {
		c.Size += n
	}
	c.Join = cmp.Or(c.Join, 100*time.Millisecond)
	c.Up = cmp.Or(c.Up, 125e6)
	c.Down = cmp.Or(c.Down, 125e6)
	c.SeedUp = cmp.Or(c.SeedUp, c.Up)
	c.SeedDown = cmp.Or(c.SeedDown, c.Down)
	c.Origin = cmp.Or(c.Origin, 125e6)
	c.Slots = cmp.Or(c.Slots, 32)
	c.Uploads = cmp.Or(c.Uploads, 2*c.Slots)
	c.Step = cmp.Or(c.Step, 2*time.Millisecond)
	c.Delay = cmp.Or(c.Delay, time.Millisecond)
	c.OriginDelay = cmp.Or(c.OriginDelay, 20*time.Millisecond)
	c.PushEvery = cmp.Or(c.PushEvery, 10*time.Millisecond)
	c.StallAfter = cmp.Or(c.StallAfter, 2*time.Second)
	c.Readers = cmp.Or(c.Readers, 4)
	c.SlowBy = cmp.Or(c.SlowBy, 20)
	c.Schedulers = max(cmp.Or(c.Schedulers, 1), 0)
	return c
}

// A Sim is one simulation. It is not safe for concurrent use.
type Sim struct {
	cfg      Config
	rand     *rand.Rand
	clock    *clock
	links    *links
	blobs    []p2p.Blob
	reads    []ranged // that each host does, if it is lazy
	nodes    []*node  // seeds first
	byID     map[p2p.HostID]*node
	controls []*control
	origin   int32 // its machine
	watched  []*pull
	bound    time.Duration
	left     int // nodes that the run waits for

	originBytes        int64
	readBytes          int64 // of those, for reads
	requests, messages int
	pieces, twice      int
	failures           map[p2p.Failure]int
}

// New prepares a simulation; hosts come once it runs.
func New(cfg Config) *Sim {
	cfg = cfg.withDefaults()
	s := &Sim{
		cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 3)), clock: newClock(cfg.Step),
		byID:     map[p2p.HostID]*node{},
		failures: map[p2p.Failure]int{},
	}
	for i, size := range cfg.Sizes {
		d := digest.FromString(fmt.Sprint("blob ", i, " of simulation ", cfg.Seed))
		s.blobs = append(s.blobs, p2p.Blob{Digest: d, Size: size})
	}
	s.profile()
	n := cfg.Seeds + cfg.Full + cfg.Hosts
	s.origin = int32(n + cfg.Schedulers)
	s.links = newLinks(n + cfg.Schedulers + 1)
	s.links.up[s.origin] = cfg.Origin * cfg.Step.Seconds()
	s.bound = s.lowerBound()
	for i := range cfg.Schedulers {
		c := &control{sim: s, name: fmt.Sprint("scheduler-", i), machine: int32(n + i), streams: map[p2p.HostID]*stream{}, refused: map[string]int{}}
		c.state = sched.New(cfg.Sched)
		s.controls = append(s.controls, c)
	}
	for i := range n {
		s.add(i)
	}
	hosts := s.nodes[cfg.Seeds+cfg.Full:]
	s.assign(hosts)
	for _, h := range hosts {
		h.wants = true
		if h.expected() {
			s.left++
		}
		at := time.Duration(s.rand.Float64() * float64(cfg.Join))
		if !h.nature.lies() && h.nature != slow {
			at += cfg.Ahead
		}
		s.clock.after(at, h.join)
	}
	s.clock.after(stallLook, s.lookForStalls)
	return s
}

func (s *Sim) add(i int) {
	seed, full := i < s.cfg.Seeds, i-s.cfg.Seeds
	up, down, name := s.cfg.Up, s.cfg.Down, fmt.Sprintf("host-%05d", full-s.cfg.Full)
	switch {
	case seed:
		up, down, name = s.cfg.SeedUp, s.cfg.SeedDown, fmt.Sprintf("seed-%d", i)
	case full < s.cfg.Full:
		name = fmt.Sprintf("full-%05d", full)
	}
	s.links.up[i], s.links.down[i] = up*s.cfg.Step.Seconds(), down*s.cfg.Step.Seconds()
	n := &node{
		sim: s, machine: int32(i),
		host:    p2p.Host{ID: p2p.HostID(name), Addr: name + ":65002", Seed: seed, Slots: s.cfg.Slots, Share: true},
		streams: map[string]*stream{}, content: map[digest.Digest]*content{}, pulls: map[uint64]*pull{}, taken: map[*node]int{}, heard: map[digest.Digest]bool{},
	}
	cfg := s.cfg.Swarm
	cfg.Self, cfg.Schedulers = n.host, nil
	for _, c := range s.controls {
		cfg.Schedulers = append(cfg.Schedulers, c.name)
		n.streams[c.name] = &stream{node: n, control: c}
		c.streams[n.host.ID] = n.streams[c.name]
	}
	n.swarm = swarm.New(cfg)
	s.nodes = append(s.nodes, n)
	s.byID[n.host.ID] = n
	switch {
	case seed:
		s.clock.set(1, n.connect)
	case full < s.cfg.Full:
		n.fill()
		s.clock.set(1, n.connect)
	}
}

// fill gives a node all blobs.
func (n *node) fill() {
	for _, b := range n.sim.blobs {
		c := n.blob(b)
		for i := range c.state {
			c.state[i] = right
		}
		c.whole, c.match = len(c.state), true
		n.do(n.swarm.Present(n.now(), b, p2p.FullHave(b.Pieces()), true))
	}
}

func (n *node) connect() {
	for _, c := range n.sim.controls {
		n.streams[c.name].connect()
	}
}

func (n *node) join() {
	if n.dead {
		return
	}
	n.connect()
	n.came = n.now()
	n.want(true)
	if n.sim.cfg.Lazy == 0 {
		n.sim.clock.after(n.sim.cfg.Step, func() { n.want(false) })
	}
	n.sim.clock.after(patience, n.startUp)
}

// want is what a node does when an image is opened, and when all of it is wanted,
// in this order.
func (n *node) want(lazy bool) {
	if n.dead {
		return
	}
	for _, b := range n.sim.blobs {
		n.blob(b)
		n.do(n.swarm.Want(n.now(), b, p2p.Origin{Registry: "registry", Repository: "image"}, lazy, p2p.Background))
	}
}

// delay is that of one packet.
func (s *Sim) delay() time.Duration {
	d := s.cfg.Delay
	if s.cfg.Jitter > 0 {
		d += time.Duration(s.rand.Float64() * s.cfg.Jitter * float64(d))
	}
	if s.cfg.Loss > 0 && s.rand.Float64() < s.cfg.Loss {
		d += 200 * time.Millisecond
	}
	return d
}

// packet carries something from one node to another, or to nowhere.
func (s *Sim) packet(from, to *node, arrives, lost func()) {
	s.clock.after(s.delay(), func() {
		switch {
		case !s.links.cut(from.machine, to.machine):
			arrives()
		case lost != nil:
			lost()
		}
	})
}

// At has something happen at a time.
func (s *Sim) At(d time.Duration, f func()) { s.clock.after(d, f) }

// Kill ends a host; silently, as without power, or with resets on all its
// connections.
func (s *Sim) Kill(id p2p.HostID, silent bool) {
	n := s.byID[id]
	if n.dead {
		return
	}
	if n.expected() && n.done == 0 {
		s.left--
	}
	n.dead, n.silent = true, silent
	s.links.up[n.machine], s.links.down[n.machine] = 0, 0
	for _, p := range s.watched {
		switch {
		case p.ended:
		case p.child == n:
			p.release()
			p.ended = true
		case p.parent == n && !silent:
			p.fail(p2p.Unreachable)
		}
	}
	for _, c := range s.controls {
		if silent {
			n.streams[c.name].breaks()
		} else {
			n.streams[c.name].lose()
		}
	}
	for _, b := range s.blobs {
		c := n.blob(b)
		for _, child := range c.subs {
			wait := s.delay()
			if silent {
				wait = keepAlive
			}
			s.clock.after(wait, func() { child.gone(n, b.Digest) })
		}
		c.subs = nil
	}
}

// StopScheduler kills a scheduler; what it knew is gone.
func (s *Sim) StopScheduler(i int) {
	c := s.controls[i]
	c.state = nil
	c.life++
	for _, n := range s.nodes {
		n.streams[c.name].lose()
	}
}

// StartScheduler starts it again.
func (s *Sim) StartScheduler(i int) {
	c := s.controls[i]
	c.state, c.armed = sched.New(s.cfg.Sched), 0
}

// Partition cuts the first share of the hosts off from all other machines; 0
// heals the network.
func (s *Sim) Partition(share float64) {
	n := len(s.nodes)
	from := int32(n - int(share*float64(s.cfg.Hosts))) // the hosts come last
	s.links.cut = func(a, b int32) bool {
		return (a >= from && a < int32(n)) != (b >= from && b < int32(n))
	}
	if share == 0 {
		s.links.cut = func(int32, int32) bool { return false }
	}
}

// Run goes on until every host that can has the blob, or the limit is reached.
func (s *Sim) Run() Report {
	limit := cmp.Or(s.cfg.Limit, 20*s.bound+time.Minute)
	for s.left > 0 && s.clock.elapsed() < limit {
		s.clock.advance()
		s.links.advance((*pull).sent)
	}
	return s.report()
}
