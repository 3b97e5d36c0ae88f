package sched

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A swarm is all hosts that have, or want, one blob.
type swarm struct {
	blob    p2p.Blob
	stripes int
	peers   []*peer   // in no particular order
	wanting int       // peers that want and are not complete
	since   time.Time // there are such peers
	joined  uint32
	homes   uint32 // peers that got a home stripe
	epoch   uint32 // of walks
	cursor  int    // where balancing goes on
	turn    int    // of the stripes, in balancing

	groups   []*group
	byIDC    map[string]*group
	fulls    int     // complete peers that serve, seeds not counted
	sources  []*peer // seeds that are complete, and the owner
	others   []*peer // that have something, but should not be first parents
	starving []*peer // without a parent in some stripe
	doubted  []*peer // who said more than they had, or lag
	hungry   bool    // noted in State.hungry

	origin   *peer                    // stands for the origin; its children hold leases
	owner    *peer                    // the seed that fetches
	failed   map[p2p.HostID]time.Time // seeds that could not fetch it, till when
	places   []place
	whole    bool    // somebody wants, or wanted, all of it
	rests    bool    // who wanted that have left: the owner was told not to go on
	fillers  int     // who want all of it
	pressing int     // of them, those that wait for it
	alone    int     // peers that may go to the origin by themselves
	book     []*peer // who holds a lease of each piece; nil: nobody ever did

	sums  sums
	pace  pace // seconds per MiB of its transfers
	tiny  []byte
	asked int // hosts asked for sums

	waiting [2][]trialKey // for a witness: those of credible accusers, then others

	toldAt time.Time // when sums were told last
	untold bool
}

// A role says how a peer may serve.
type role uint8

const (
	idle   role = iota // not at all
	node               // what it has, as it gets it: inner node of its home stripe
	full               // everything
	source             // everything, or it will get it: a seed
	reader             // what it reads, to others that only read
	other              // something, as a last resort
)

func (r role) String() string {
	return [...]string{"idle", "node", "full", "source", "reader", "other"}[r]
}

// A peer is one host in one swarm.
type peer struct {
	host  *host
	swarm *swarm
	group *group
	have  p2p.Have
	links []link // per stripe; nil without any parent or child
	avoid []avoided

	seq, mark, index uint32
	prim, backs      int16 // children that have it as first parent, and as another
	priority         p2p.Priority
	home             int8  // stripe; -1: none yet
	lease            uint8 // stripes, a bit each, that were leased to it
	role             role
	wants, lazy      bool // wants: and is not complete
	presses          bool // counts among the swarm's pressing
	orphan           bool // is in State.orphans
	dirty, starves   bool
	lined            bool // has parents of a narrow graph
	alone, asked     bool // alone: was allowed to go to the origin
	thin             bool // has lost a parent that was not its first
	holds, batch     int  // pieces leased to it, and how many may be
	doubters         []mark
	fibs             int
	doubted          time.Time // till when it is nobody's parent: it lacks what it said, or lags
	placed           placed
	reads            float32 // seconds per MiB that planned reads of others take it; 0: unknown
	progressAt       time.Time
	lazySince        time.Time
	leasedAt         time.Time
	more             bool // there was more to lease than it may hold
	word             word // on the whole blob
}

type avoided struct {
	id    p2p.HostID
	until time.Time
}

func (s *State) swarmOf(b p2p.Blob) (*swarm, error) {
	w := s.swarms[b.Digest]
	if w == nil {
		w = &swarm{blob: b, stripes: b.Stripes(), byIDC: map[string]*group{}}
		w.origin = &peer{host: &host{}, swarm: w, home: -1, role: source, links: make([]link, w.stripes)}
		s.swarms[b.Digest] = w
	}
	if w.blob.Size != b.Size {
		return nil, fmt.Errorf("%w: %s has %d, or %d", errSize, b.Digest, w.blob.Size, b.Size)
	}
	return w, nil
}

// errSize reports a blob of which others say another size: a manifest is wrong,
// and who read it is not to blame.
var errSize = errors.New("the size of a blob is disputed")

// join returns the peer of a host in a swarm, new if need be.
func (s *State) join(h *host, b p2p.Blob) (*peer, error) {
	if w := s.swarms[b.Digest]; w == nil || h.peer(w) == nil {
		if len(h.peers) >= s.cfg.MaxBlobs || s.peers >= s.cfg.MaxPeers {
			return nil, fmt.Errorf("blob %s is one too many: %w", b.Digest, ErrLimit)
		}
	}
	w, err := s.swarmOf(b)
	if err != nil {
		return nil, err
	}
	if p := h.peer(w); p != nil {
		return p, nil
	}
	p := &peer{host: h, swarm: w, have: *p2p.NewHave(b.Pieces()), seq: w.joined, index: uint32(len(w.peers)), home: -1}
	p.group = w.groupOf(h.IDC)
	w.joined++
	w.peers = append(w.peers, p)
	h.peers[w] = p
	s.peers++
	return p, nil
}

// leave takes a peer out of its swarm; its children get other parents. A reason
// means that its host is gone, from all swarms.
func (s *State) leave(p *peer, reason string) {
	w := p.swarm
	s.unwant(p)
	s.setRole(p, idle)
	s.word(p, silent)
	if p.orphan {
		s.forego(p)
	}
	last := w.peers[len(w.peers)-1]
	w.peers[p.index], last.index = last, p.index
	w.peers[len(w.peers)-1] = nil
	w.peers = w.peers[:len(w.peers)-1]
	delete(p.host.peers, w)
	s.peers--
	if w.owner == p {
		w.owner = nil
	}
	s.orphan(p, reason)
	w.doubted = without(w.doubted, p)
	s.excuse(p)
	if len(w.peers) == 0 {
		delete(s.swarms, w.blob.Digest)
		s.untold = slices.DeleteFunc(s.untold, func(o *swarm) bool { return o == w })
	}
}

// unwant makes a peer want nothing: it is complete or has given up.
func (s *State) unwant(p *peer) {
	w := p.swarm
	for st := range p.links {
		s.detach(p, st)
	}
	if p.starves {
		p.starves = false
		w.starving = without(w.starving, p)
	}
	if p.alone {
		p.alone = false
		w.alone--
	}
	if !p.wants {
		return
	}
	p.wants, p.lease, p.more = false, 0, false
	s.release(p)
	s.fills(p, !p.lazy, false)
	if w.wanting--; w.wanting == 0 {
		s.active = without(s.active, w)
	}
	w.whole = w.whole && w.wanting > 0
}

// want makes a host a peer that wants the blob. It is always answered, with the
// bytes of a tiny blob or with parents, though there may be none.
func (s *State) want(h *host, m p2p.Want) error {
	if err := m.Blob.Validate(); err != nil {
		return err
	}
	none := p2p.Parents{Digest: m.Blob.Digest, Stripes: make([][]p2p.Host, m.Blob.Stripes())}
	if m.Blob.Scope() == p2p.Empty {
		s.send(h.ID, none)
		return nil
	}
	p, err := s.join(h, m.Blob)
	if errors.Is(err, errSize) { // it is on its own, with this blob
		s.send(h.ID, none)
		s.send(h.ID, p2p.Source{Digest: m.Blob.Digest, Allowed: true})
		return nil
	}
	if err != nil {
		return err
	}
	w := p.swarm
	if p.have.Full() {
		s.send(h.ID, none)
		return nil
	}
	s.place(p, m.Origin)
	changed, filled := p.lazy != m.Lazy, p.wants && !p.lazy
	if !p.wants || changed {
		p.lazySince = s.now
	}
	p.lazy, p.priority = m.Lazy, m.Priority
	if changed {
		p.letGo()
		s.again(p)
	}
	if p.wants {
		s.fills(p, filled, !p.lazy)
	}
	if w.tiny != nil {
		s.give(p)
		return nil
	}
	if p.wants {
		s.touch(p)
		return nil
	}
	p.wants, p.progressAt = true, s.now
	switch w.wanting++; w.wanting {
	case 1:
		w.since = s.now
		s.active = append(s.active, w)
		s.plan()
	case chained + 1: // each may have a second child
		for st := range w.stripes {
			w.review(st)
		}
	}
	if !p.lazy {
		s.fills(p, false, true)
	}
	s.relist(p)
	s.own(w)
	s.settle(p)
	s.touch(p)
	s.tellAll(p)
	return nil
}

// fills notes whether a peer wants all of the blob, and waits for it. The owner is told
// when one does, and when none does any more; the first one changes the graphs.
func (s *State) fills(p *peer, was, is bool) {
	w := p.swarm
	if was {
		w.fillers--
	}
	if is {
		w.fillers++
	}
	switch pressed := w.press(p, is && p.priority < p2p.Background); {
	case is && (!w.whole || w.rests):
		first := !w.whole
		w.whole, w.rests = true, false
		s.fetch(w)
		if first {
			s.spread(w)
		}
	case was && w.fillers == 0 && w.whole && !w.rests && w.tiny == nil:
		w.rests = true
		s.fetch(w)
	case pressed && w.fillers > 0:
		s.fetch(w)
	}
	if !is || was || s.roleOf(p) == p.role && (!p.lined || w.narrow()) {
		return
	}
	s.relist(p)
	if p.lined { // or most are below it, and only a seed is not
		p.lined = false
		s.orphan(p, "")
	}
	for st := range p.links { // it gets its place as if it came now
		s.detach(p, st)
	}
	s.settle(p)
}

// press notes whether a peer waits for all of the blob. It reports whether nobody did
// before, or does any more.
func (w *swarm) press(p *peer, is bool) bool {
	before := w.pressing > 0
	if p.presses {
		w.pressing--
	}
	if is {
		w.pressing++
	}
	p.presses = is
	return before != (w.pressing > 0)
}

// reform gives a peer the role that it can fill now, and its children other
// parents if it can be theirs no more.
func (s *State) reform(p *peer) {
	if !p.wants || s.roleOf(p) == p.role {
		return
	}
	s.relist(p)
	if p.role != idle && p.role != other && p.role != reader {
		return
	}
	for st := range p.links {
		if p.links[st].parents[0] == p.swarm.origin {
			s.detach(p, st)
		}
	}
	if p.role == reader {
		s.turnAway(p)
	} else {
		s.orphan(p, "")
	}
	s.settle(p)
}

// turnAway takes those children of a reader away who want all. The others read what it
// reads, and wait for it, so that they stay.
func (s *State) turnAway(p *peer) {
	for st := range p.links {
		for _, k := range slices.Clone(p.links[st].kids) {
			if !k.lazy {
				s.drop(k, p, st)
				s.settle(k)
			}
		}
	}
}

// inventory takes what a host says it has.
func (s *State) inventory(h *host, m p2p.Inventory) error {
	if err := checkInventory(m); err != nil {
		return err
	}
	if m.Blob.Scope() == p2p.Empty {
		return nil
	}
	p, err := s.join(h, m.Blob)
	if errors.Is(err, errSize) {
		return nil // nor must it keep the rest of an Announce out
	}
	if err != nil {
		return err
	}
	lost := false
	for i := range p.have.All() {
		lost = lost || !m.Have.Has(i)
	}
	p.have = *m.Have.Clone()
	s.gained(p)
	if lost {
		s.again(p) // its stripes wait for what it has lost
		if p.role == idle {
			s.orphan(p, "")
		}
	}
	s.ask(p)
	return nil
}

func checkInventory(m p2p.Inventory) error {
	if err := m.Blob.Validate(); err != nil {
		return err
	}
	if m.Have == nil || m.Have.Len() != m.Blob.Pieces() {
		return fmt.Errorf("inventory of blob %s: %v: %w", m.Blob.Digest, m.Have, p2p.ErrInvalid)
	}
	return nil
}

// progress takes new pieces, and what was measured of parents.
func (s *State) progress(p *peer, m p2p.Progress) error {
	if len(m.Got) > maxGot || len(m.From) > maxTransfers {
		return fmt.Errorf("progress of %d pieces from %d parents: %w", len(m.Got), len(m.From), p2p.ErrInvalid)
	}
	for _, i := range m.Got {
		if i < 0 || i >= p.have.Len() {
			return fmt.Errorf("piece %d of %s, which has %d: %w", i, m.Digest, p.have.Len(), p2p.ErrInvalid)
		}
	}
	for _, t := range m.From {
		if t.Bytes < 0 || t.Took < 0 || t.Bytes > p2p.MaxSize {
			return fmt.Errorf("transfer of %d bytes in %v: %w", t.Bytes, t.Took, p2p.ErrInvalid)
		}
	}
	for _, i := range m.Got {
		if p.have.Add(i) {
			p.progressAt = s.now
		}
	}
	s.brought(p, m.Got)
	for _, t := range m.From {
		s.transfer(p, t)
	}
	if len(m.Got) > 0 {
		s.gained(p)
	}
	s.lag(p)
	return nil
}

// gained looks at what follows from new pieces of p.
func (s *State) gained(p *peer) {
	if p.have.Full() {
		s.unwant(p)
		p.swarm.forgetTokens()
	} else if p.more && p.holds <= p.batch/2 {
		s.renew(p)
	}
	s.relist(p)
}

// content takes a tiny blob's bytes and passes them on.
func (s *State) content(p *peer, m p2p.Content) error {
	w := p.swarm
	if int64(len(m.Data)) != w.blob.Size || w.blob.Scope() != p2p.Tiny || w.blob.Digest.Algorithm().FromBytes(m.Data) != w.blob.Digest {
		return fmt.Errorf("content of blob %s: %w", m.Digest, p2p.ErrInvalid)
	}
	w.tiny = slices.Clone(m.Data)
	for _, o := range w.peers {
		if o.wants || o == p {
			s.give(o)
		}
	}
	return nil
}

// give sends a tiny blob, unless the peer has it.
func (s *State) give(p *peer) {
	if p.wants || p != p.swarm.owner {
		s.send(p.host.ID, p2p.Content{Digest: p.swarm.blob.Digest, Data: p.swarm.tiny})
	}
	p.have = *p2p.FullHave(1)
	s.gained(p)
}

func without[T comparable](list []T, x T) []T {
	if i := slices.Index(list, x); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
