package sched

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A Send is a message on its way to a host.
type Send struct {
	To      p2p.HostID
	Message p2p.Message
}

// State is what one scheduler knows and decides from. It is not safe for
// concurrent use: the server calls it from one goroutine or under one lock. What a
// call returns is valid until the next one.
type State struct {
	cfg      Config
	hosts    map[p2p.HostID]*host
	seeds    []*host // live, by ID
	swarms   map[digest.Digest]*swarm
	active   []*swarm // those in which somebody wants something, oldest first
	standing map[p2p.HostID]*standing
	trials   map[trialKey]*trial
	peers    int // pairs of host and blob

	now       time.Time // of the call under way
	out       []Send    // of the call under way, in the room of those before it
	dirty     []*peer   // whose parents or leases changed in the call under way
	hungry    []*swarm  // where a slot became free in the call under way
	untold    []*swarm  // with sums that are not told yet
	audited   []*swarm  // with sums that are in doubt
	leaving   []*peer   // of hosts that are gone: they leave their swarms in the next ticks
	orphans   []*peer   // that get other parents in the next ticks
	heads     int       // of those, the first, on whom others hang
	spent     int       // of the effort of the call under way
	turn      int       // where balancing goes on among the active
	balanceAt time.Time // zero: nothing is active
	remindAt  time.Time // not before: a look at the trials
}

// New returns the state of a scheduler that knows nobody.
func New(cfg Config) *State {
	return &State{
		cfg:      cfg.withDefaults(),
		hosts:    map[p2p.HostID]*host{},
		swarms:   map[digest.Digest]*swarm{},
		standing: map[p2p.HostID]*standing{},
		trials:   map[trialKey]*trial{},
	}
}

// Handle takes a message of a host and returns what to send to whom, in order.
// An error says what the host did wrong.
func (s *State) Handle(now time.Time, from p2p.HostID, m p2p.Message) ([]Send, error) {
	s.now = now
	if a, ok := m.(p2p.Announce); ok {
		err := s.announce(from, a)
		return s.finish(), err
	}
	h := s.hosts[from]
	if h == nil {
		return nil, fmt.Errorf("host %q: %w", string(from), ErrUnknown)
	}
	err := s.handle(h, m)
	return s.finish(), err
}

func (s *State) handle(h *host, m p2p.Message) error {
	switch m := m.(type) {
	case p2p.Inventory:
		return s.inventory(h, m)
	case p2p.Want:
		return s.want(h, m)
	}
	d, ok := digestOf(m)
	if !ok {
		return fmt.Errorf("%T from a host: %w", m, ErrRole)
	}
	p := h.peer(s.swarms[d])
	if p == nil {
		return fmt.Errorf("%T about %.80q: %w", m, d, ErrUnknown)
	}
	switch m := m.(type) {
	case p2p.Unwant:
		if p.host.Seed {
			s.pass(p) // it has no room, or was told to drop it
		}
		s.leave(p, "")
	case p2p.Progress:
		return s.progress(p, m)
	case p2p.Wrong:
		return s.wrong(p, m)
	case p2p.Checked:
		return s.checked(p, m)
	case p2p.Digests:
		return s.digests(p, m)
	case p2p.Verified:
		s.confirm(p)
	case p2p.Spoiled:
		s.spoiled(p)
	case p2p.Content:
		return s.content(p, m)
	}
	return nil
}

func digestOf(m p2p.Message) (digest.Digest, bool) {
	switch m := m.(type) {
	case p2p.Unwant:
		return m.Digest, true
	case p2p.Progress:
		return m.Digest, true
	case p2p.Wrong:
		return m.Digest, true
	case p2p.Checked:
		return m.Digest, true
	case p2p.Digests:
		return m.Digest, true
	case p2p.Verified:
		return m.Digest, true
	case p2p.Spoiled:
		return m.Digest, true
	case p2p.Content:
		return m.Digest, true
	}
	return "", false
}

// Disconnect takes a host whose stream ended out of all swarms.
func (s *State) Disconnect(now time.Time, id p2p.HostID) []Send {
	s.now = now
	if h := s.hosts[id]; h != nil {
		s.remove(h, "disconnected")
	}
	return s.finish()
}

// Next returns when Tick is due, the zero time if it is not needed. As long as
// calls have left something to do, that is at once.
func (s *State) Next() time.Time {
	next := s.balanceAt
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if len(s.leaving)+len(s.orphans) > 0 {
		sooner(s.now)
	}
	for _, w := range s.untold {
		sooner(w.toldAt.Add(s.cfg.Flush))
	}
	for _, st := range s.standing {
		sooner(st.next())
	}
	return next
}

// Tick does what is due: sums that waited for others, bans that end, leases
// and owners without progress, better parents for who has poor ones, what
// earlier calls have left. There may be more at once: see Next.
func (s *State) Tick(now time.Time) []Send {
	s.now = now
	s.tell()
	s.pardon()
	if !s.balanceAt.IsZero() && !now.Before(s.balanceAt) {
		s.balanceAt = time.Time{}
		for range s.share() {
			s.turn++
			if len(s.active) > 0 {
				s.balance(s.active[s.turn%len(s.active)])
			}
		}
		if !s.now.Before(s.remindAt) {
			s.remindAt = s.now.Add(s.cfg.Balance)
			s.remind()
			s.remindAuditors()
		}
		s.plan()
		return s.finish()
	}
	s.depart()
	s.rehome()
	return s.finish()
}

// share returns how many swarms are balanced in one tick, so that each is every
// Config.Balance, and no tick takes long.
func (s *State) share() int {
	return max(1, len(s.active)*int(tick)/int(s.cfg.Balance))
}

// plan makes sure that balancing happens as long as something is active, or
// somebody's word is waited for.
func (s *State) plan() {
	if s.balanceAt.IsZero() && len(s.active)+len(s.trials)+len(s.audited) > 0 {
		s.balanceAt = s.now.Add(s.cfg.Balance * time.Duration(s.share()) / time.Duration(max(1, len(s.active))))
	}
}

func (s *State) send(to p2p.HostID, m p2p.Message) {
	s.out = append(s.out, Send{to, m})
}

// finish tells everyone concerned what the call has changed for them, and
// returns all that is to be sent.
func (s *State) finish() []Send {
	for i := 0; i < len(s.hungry); i++ {
		s.feed(s.hungry[i]) // once a call, whatever becomes free by that
	}
	for _, w := range s.hungry {
		w.hungry = false
	}
	clear(s.hungry)
	s.hungry = s.hungry[:0]
	for i := 0; i < len(s.dirty); i++ {
		s.inform(s.dirty[i])
	}
	clear(s.dirty)
	s.dirty = s.dirty[:0]
	s.spent = 0
	out := s.out
	s.out = s.out[:0]
	return out
}

// inform sends a peer its parents, its lease and its leave to go to the origin, if
// they are other than it was told.
func (s *State) inform(p *peer) {
	p.dirty = false
	if p.links == nil || !p.wants || p.orphan {
		return
	}
	s.inspect(p)
	m := p2p.Parents{Digest: p.swarm.blob.Digest, Stripes: p.parents()}
	if p.swarm.blob.Scope() == p2p.Tiny {
		m.Stripes = [][]p2p.Host{{}} // it comes from here
	}
	s.send(p.host.ID, m)
}

// touch remembers that what p was told is no longer true.
func (s *State) touch(p *peer) {
	if !p.dirty && p.wants {
		p.dirty = true
		s.dirty = append(s.dirty, p)
	}
}
