package sched

import (
	"fmt"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// sums are what is known of a blob's pieces.
type sums struct {
	claims []claim       // by piece, those that count; nil before the first
	rivals map[int]claim // the heaviest that say otherwise
	known  int
	fresh  []int             // pieces whose sum is not told yet
	old    map[int][]p2p.Sum // that were told and do not count any more
	oldAt  time.Time         // when the last of them was taken back
	turned bool              // one was, in the call under way

	verified, seeded   bool // the whole matched with them; a seed says so
	vouchers, spoilers int  // peers who say so, or that it did not
	audit              *audit
	auditors           []p2p.HostID // the last ones, in turn
	audits, rounds     int          // hosts that were sent; audits of all pieces
}

// A claim is the word of one or two hosts for a sum.
type claim struct {
	sum           p2p.Sum
	first, second vote // first weighs as much, or more
}

// A vote is a host's word.
type vote struct {
	by     p2p.HostID
	weight uint8
}

// What a host's word weighs. Between them is room for a second one.
const (
	volunteer = 2 // has the piece, or had a lease
	lessee    = 4 // was sent to the origin for it
	auditor   = 6 // was sent there because the piece is in doubt; two more each time
	latest    = 250
	trusted   = 254 // a seed
)

const maxOld = 4 // sums of a piece that are remembered

// weight is 0 if nobody says so.
func (c *claim) weight() int {
	if c.second.by != "" {
		return int(c.first.weight) + 1
	}
	return int(c.first.weight)
}

// back adds a word to a claim.
func (c *claim) back(v vote) {
	switch {
	case v.by == c.first.by:
		c.first.weight = max(c.first.weight, v.weight)
	case v.weight > c.first.weight:
		c.first, c.second = v, c.first
	case v.weight > c.second.weight:
		c.second = v
	}
}

// forget takes a host's word back.
func (c *claim) forget(by p2p.HostID) {
	if c.first.by == by {
		c.first, c.second = c.second, vote{}
	}
	if c.second.by == by {
		c.second = vote{}
	}
}

func (c *claim) says(by p2p.HostID) bool { return c.first.by == by || c.second.by == by }

func (u *sums) open(pieces int) {
	if u.claims == nil {
		u.claims = make([]claim, pieces)
	}
}

func (u *sums) get(i int) (p2p.Sum, bool) {
	if i >= len(u.claims) || u.claims[i].weight() == 0 {
		return p2p.Sum{}, false
	}
	return u.claims[i].sum, true
}

// digests takes sums of pieces that a host has from the origin, or has.
func (s *State) digests(p *peer, m p2p.Digests) error {
	n := p.have.Len()
	if m.First < 0 || len(m.Sums) > maxSums || m.First > n-len(m.Sums) {
		return fmt.Errorf("sums of pieces %d to %d of %d: %w", m.First, m.First+len(m.Sums)-1, n, p2p.ErrInvalid)
	}
	u := &p.swarm.sums
	if s.isBanned(p.host.ID) || u.seeded || u.verified && !p.host.Seed {
		return nil
	}
	u.open(n)
	var liars []p2p.HostID
	for i, sum := range m.Sums {
		i += m.First
		if v := (vote{p.host.ID, p.weight(i)}); v.weight > 0 {
			liars = append(liars, u.hear(i, sum, v)...)
			u.audit.heard(s.now, p, i)
		}
	}
	s.unsay(p.swarm)
	if m.Verified {
		s.vouch(p)
	}
	s.conclude(p.swarm)
	s.punish(liars)
	s.told(p.swarm)
	return nil
}

// weight is what a peer's word about a piece counts.
func (p *peer) weight(i int) uint8 {
	w := p.swarm
	switch {
	case p.host.Seed:
		return trusted
	case w.sums.audit.doubts(i) && w.sums.audit.asked(p):
		return w.sums.audit.weight(p)
	case p.lease&(1<<(i%w.stripes)) != 0, w.book != nil && w.book[i] == p:
		return lessee
	case p.have.Has(i) || p.alone || !p.leasedAt.IsZero(): // what is on its way here when a lease ends counts, too
		return volunteer
	}
	return 0
}

// hear weighs a host's word and returns whom a seed proves wrong by it.
func (u *sums) hear(i int, sum p2p.Sum, v vote) (liars []p2p.HostID) {
	c, r := &u.claims[i], u.rivals[i]
	switch {
	case c.weight() == 0:
		r = claim{sum: sum, first: v}
	case c.sum == sum:
		c.back(v)
		u.forget(i, v.by, sum)
		return nil
	case r.weight() > 0 && r.sum == sum:
		r.back(v)
	case c.says(v.by) && v.weight <= c.first.weight:
		return nil // it has one word
	case int(v.weight) > r.weight():
		r = claim{sum: sum, first: v}
	default:
		return nil
	}
	u.rival(i, r)
	u.promote(i)
	u.forget(i, v.by, sum)
	if r := u.rivals[i]; c.weight() >= trusted && r.weight() > 0 && r.weight() < trusted {
		delete(u.rivals, i)
		return r.voters()
	}
	return nil
}

// rival makes r what somebody says against the claim that counts.
func (u *sums) rival(i int, r claim) {
	if r.weight() == 0 {
		delete(u.rivals, i)
		return
	}
	if u.rivals == nil {
		u.rivals = map[int]claim{}
	}
	u.rivals[i] = r
}

// forget takes back what a host said of a piece, if that was not this sum, and reports
// whether nobody says anything now.
func (u *sums) forget(i int, by p2p.HostID, but p2p.Sum) (lost bool) {
	c, r := &u.claims[i], u.rivals[i]
	if r.says(by) && r.sum != but {
		r.forget(by)
		u.rival(i, r)
	}
	if !c.says(by) || c.sum == but {
		return false
	}
	if c.forget(by); c.weight() == 0 {
		u.known--
	}
	u.promote(i)
	return c.weight() == 0
}

// promote makes the heavier claim the one that counts.
func (u *sums) promote(i int) {
	c, r := &u.claims[i], u.rivals[i]
	if r.weight() <= c.weight() {
		return
	}
	if c.weight() == 0 {
		u.known++
	}
	if c.sum != r.sum {
		u.takeBack(i, c.sum)
	}
	*c, r = r, *c
	u.rival(i, r)
	u.fresh = append(u.fresh, i)
}

func (c *claim) voters() (who []p2p.HostID) {
	for _, v := range []vote{c.first, c.second} {
		if v.by != "" {
			who = append(who, v.by)
		}
	}
	return who
}

// takeBack remembers a sum that was told: who has passed on such a piece was misled
// itself.
func (u *sums) takeBack(i int, sum p2p.Sum) {
	if sum == (p2p.Sum{}) {
		return
	}
	if u.old == nil {
		u.old = map[int][]p2p.Sum{}
	}
	u.turned = true
	if list := u.old[i]; !slices.Contains(list, sum) && len(list) < maxOld {
		u.old[i] = append(list, sum)
	}
}

// unclear reports whether a piece that has another sum than hosts are told now may
// come from an honest one: its sum is in doubt, another one who was sent to the origin
// says so, or hosts were told so a moment ago.
func (s *State) unclear(w *swarm, i int, sum p2p.Sum) bool {
	u := &w.sums
	r := u.rivals[i]
	lately := s.now.Before(u.oldAt.Add(soon)) && slices.Contains(u.old[i], sum)
	return u.audit.doubts(i) || r.sum == sum && r.first.weight >= lessee || lately
}

func (s *State) punish(liars []p2p.HostID) {
	slices.Sort(liars)
	for _, id := range slices.Compact(liars) {
		if h := s.hosts[id]; h != nil && !h.Seed && !s.isBanned(id) {
			s.ban(h, "false sums")
		}
	}
}

// discredit drops the word of a host that was found lying. Of pieces that nobody else
// has spoken of, another host is to ask the origin.
func (s *State) discredit(p *peer) {
	w := p.swarm
	u := &w.sums
	s.word(p, silent)
	s.excuse(p)
	if u.verified {
		return
	}
	var doubts []int
	for i := range u.claims {
		if u.forget(i, p.host.ID, p2p.Sum{}) {
			doubts = append(doubts, i)
		}
	}
	if len(doubts) > 0 {
		s.askAll(w)
		s.inquire(w, doubts, "who reported their sums is banned")
	}
	s.unsay(w)
	s.told(w)
}
