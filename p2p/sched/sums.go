package sched

import (
	"fmt"
	"slices"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// sums are what is known of a blob's pieces.
type sums struct {
	claims   []claim // by piece; nil before the first
	rivals   map[int]claim
	known    int
	fresh    []int // pieces whose sum is not told yet
	verified bool
	vouchers []p2p.HostID // who says that the whole blob matched
	spoilers []p2p.HostID // who says that it did not
	retaken  bool         // sums were dropped, and all that are unknown are to be taken anew
}

// A claim is the word of one or two hosts for a sum. The heavier claim counts.
type claim struct {
	sum        p2p.Sum
	by, second p2p.HostID
	weight     uint8 // 0: none
}

// What a host's word weighs.
const (
	volunteer = 1 // has the piece
	lessee    = 2 // was sent to the origin for it
	trusted   = 8 // a seed
)

func (u *sums) get(i int) (p2p.Sum, bool) {
	if i >= len(u.claims) || u.claims[i].weight == 0 {
		return p2p.Sum{}, false
	}
	return u.claims[i].sum, true
}

// retake reports whether a piece is to be fetched from the origin although hosts
// have it.
func (u *sums) retake(i int) bool {
	_, ok := u.get(i)
	return u.retaken && !ok
}

// digests takes sums of pieces that a host has from the origin, or has.
func (s *State) digests(p *peer, m p2p.Digests) error {
	n := p.have.Len()
	if m.First < 0 || len(m.Sums) > maxSums || m.First > n-len(m.Sums) {
		return fmt.Errorf("sums of pieces %d to %d of %d: %w", m.First, m.First+len(m.Sums)-1, n, p2p.ErrInvalid)
	}
	u := &p.swarm.sums
	if banned, _ := s.outcast(p.host); banned || u.verified {
		return nil
	}
	if u.claims == nil {
		u.claims = make([]claim, n)
	}
	var liars []p2p.HostID
	for i, sum := range m.Sums {
		if weight := p.weight(m.First + i); weight > 0 {
			liars = append(liars, u.claim(m.First+i, sum, p.host.ID, weight)...)
		}
	}
	if m.Verified {
		s.vouch(p)
	}
	s.punish(liars)
	s.told(p.swarm)
	return nil
}

// weight is what a peer's word about a piece counts.
func (p *peer) weight(i int) uint8 {
	switch {
	case p.host.Seed:
		return trusted
	case p.lease&(1<<(i%p.swarm.stripes)) != 0, p.swarm.book != nil && p.swarm.book[i] == p:
		return lessee
	case p.have.Has(i) || p.alone:
		return volunteer
	}
	return 0
}

// claim weighs a host's word and returns whom a seed proves wrong by it.
func (u *sums) claim(i int, sum p2p.Sum, by p2p.HostID, weight uint8) (liars []p2p.HostID) {
	c, r := &u.claims[i], u.rivals[i]
	switch {
	case u.retaken && r.by == by && weight < trusted:
		return nil // its word was doubted, another's is wanted
	case c.weight == 0:
		*c = claim{sum: sum, by: by, weight: weight}
		u.known++
		u.fresh = append(u.fresh, i)
	case c.sum == sum:
		c.vote(by, weight)
		return nil
	case c.by == by && c.second == "":
		c.sum, c.weight = sum, weight // it corrects itself
		u.fresh = append(u.fresh, i)
	case r.weight > 0 && r.sum == sum:
		r.vote(by, weight)
		u.rival(i, r)
	case r.weight < weight:
		u.rival(i, claim{sum: sum, by: by, weight: weight})
	}
	if r = u.rivals[i]; r.weight > c.weight {
		*c, r = r, *c
		u.rivals[i] = r
		u.fresh = append(u.fresh, i)
	}
	if c.weight >= trusted && r.weight > 0 && r.weight < trusted && r.sum != c.sum {
		delete(u.rivals, i)
		return r.voters()
	}
	return nil
}

func (u *sums) rival(i int, c claim) {
	if u.rivals == nil {
		u.rivals = map[int]claim{}
	}
	u.rivals[i] = c
}

func (c *claim) vote(by p2p.HostID, weight uint8) {
	if c.by != by && c.second == "" {
		c.second = by
		c.weight += weight
	}
}

func (c *claim) voters() []p2p.HostID {
	if c.second == "" {
		return []p2p.HostID{c.by}
	}
	return []p2p.HostID{c.by, c.second}
}

func (s *State) punish(liars []p2p.HostID) {
	slices.Sort(liars)
	for _, id := range slices.Compact(liars) {
		if h := s.hosts[id]; h != nil && !h.Seed {
			if banned, _ := s.outcast(h); !banned {
				s.ban(h, "false sums")
			}
		}
	}
}

// confirm takes a host's word that the whole blob matched with the sums it was given.
func (s *State) confirm(p *peer) {
	s.vouch(p)
	s.told(p.swarm)
}

// vouch counts who says that the blob matched. A seed, or two hosts, are
// believed; then those who reported other sums have lied.
func (s *State) vouch(p *peer) {
	u := &p.swarm.sums
	banned, _ := s.outcast(p.host)
	if u.verified || banned || s.now.Before(p.doubted) || !p.have.Full() && !p.host.Seed {
		return
	}
	if !slices.Contains(u.vouchers, p.host.ID) && len(u.vouchers) < maxWitnesses {
		u.vouchers = append(u.vouchers, p.host.ID)
	}
	if u.known < p.have.Len() || !p.host.Seed && len(u.vouchers) < 2 {
		return
	}
	u.verified = true
	var liars []p2p.HostID
	for i, r := range u.rivals {
		if r.sum != u.claims[i].sum {
			liars = append(liars, r.voters()...)
		}
	}
	u.rivals, u.retaken = nil, false
	all := len(u.fresh) == u.known
	s.flush(p.swarm)
	if !all {
		s.toWanting(p.swarm, p2p.Digests{Digest: p.swarm.blob.Digest, Verified: true})
	}
	s.punish(liars)
}

// spoiled takes a host's word that all pieces matched and the blob did not. Two
// hosts are believed, or a seed, or who is alone: then the word of all
// hosts but seeds is dropped, and other hosts take the pieces from the origin.
func (s *State) spoiled(p *peer) {
	w := p.swarm
	u := &w.sums
	if banned, _ := s.outcast(p.host); banned || u.verified || slices.Contains(u.spoilers, p.host.ID) {
		return
	}
	u.spoilers = append(u.spoilers, p.host.ID)
	if !p.host.Seed && len(u.spoilers) < 2 && len(w.peers) > 1 {
		return
	}
	u.spoilers, u.vouchers, u.retaken = nil, nil, true
	for i, c := range u.claims {
		if c.weight > 0 && c.weight < trusted {
			u.rival(i, c)
			u.drop(i)
		}
	}
	for st := range w.origin.links {
		for _, k := range slices.Clone(w.origin.links[st].kids) {
			s.unlease(k)
		}
	}
	for _, k := range w.peers {
		if k.lease != 0 && k.lease == k.leases() {
			s.renew(k) // nobody else can: it is to take them again
		}
	}
	s.askAll(w)
}

func (u *sums) drop(i int) {
	u.claims[i] = claim{}
	u.known--
}

// discredit drops the word of a host that was found lying.
func (s *State) discredit(w *swarm, id p2p.HostID) {
	u := &w.sums
	if u.verified {
		return
	}
	u.vouchers = without(u.vouchers, id)
	u.spoilers = without(u.spoilers, id)
	dropped := false
	for i, c := range u.claims {
		if c.weight > 0 && c.weight < trusted && c.by == id && c.second == "" {
			u.drop(i)
			dropped = true
		}
	}
	if dropped {
		s.askAll(w)
	}
}
