package sched

import "github.com/dfsnapshotter/dfsnapshotter/p2p"

// A word is what a peer says of the whole blob.
type word uint8

const (
	silent  word = iota
	matched      // it is right
	spoilt       // it is not, with the sums that all were told
)

const fewLie = 8 // one host of so many, at most, is thought to lie together with others

// word takes a peer's last word in place of the one before.
func (s *State) word(p *peer, say word) {
	count := func(of word, n int) {
		switch of {
		case matched:
			p.swarm.sums.vouchers += n
		case spoilt:
			p.swarm.sums.spoilers += n
		}
	}
	count(p.word, -1)
	count(say, 1)
	p.word = say
}

// unsay forgets what was said of the whole if a sum was taken back since.
func (s *State) unsay(w *swarm) {
	u := &w.sums
	if !u.turned {
		return
	}
	u.turned, u.oldAt = false, s.now
	u.verified = false
	for _, p := range w.peers {
		s.word(p, silent)
	}
}

// confirm takes a host's word that the whole blob matched with the sums it was given.
func (s *State) confirm(p *peer) {
	s.vouch(p)
	s.told(p.swarm)
}

// vouch counts who says that the blob matched. A seed is believed, or two hosts if
// they are more than a few of all and than those who say that it did not; then those
// who reported other sums have lied.
func (s *State) vouch(p *peer) {
	w := p.swarm
	u := &w.sums
	if u.seeded || s.isBanned(p.host.ID) || s.now.Before(p.doubted) || !p.have.Full() && !p.host.Seed {
		return
	}
	s.word(p, matched)
	if u.known < p.have.Len() {
		s.ask(p)
		return
	}
	few := u.vouchers < 2 || u.vouchers*fewLie <= w.fillers+w.fulls || u.vouchers <= u.spoilers
	if u.seeded = p.host.Seed; u.verified || few && !u.seeded {
		return
	}
	u.verified, u.audit = true, nil
	var liars []p2p.HostID
	for _, r := range u.rivals {
		liars = append(liars, r.voters()...)
	}
	u.rivals = nil
	all := len(u.fresh) == u.known
	s.flush(w)
	if !all {
		s.toWanting(w, p2p.Digests{Digest: w.blob.Digest, Verified: true})
	}
	s.punish(liars)
}

// spoiled takes a host's word that all pieces matched and the blob did not.
func (s *State) spoiled(p *peer) {
	if s.isBanned(p.host.ID) || s.now.Before(p.swarm.sums.oldAt.Add(soon)) {
		return // or it does not know yet what was taken back
	}
	if p.word == spoilt {
		s.tellAll(p) // perhaps it has missed that
	}
	s.word(p, spoilt)
	s.suspect(p.swarm)
}

// suspect has all sums audited that no seed vouches for, if more hosts say that the
// blob does not match than that it does. The first time one is enough, and each time
// twice as many as before: so liars cannot send hosts to the origin often, and the
// others, who are more, can as often as it takes.
func (s *State) suspect(w *swarm) {
	u := &w.sums
	if u.audit != nil || u.seeded || u.spoilers <= u.vouchers || u.spoilers < 1<<u.rounds {
		return
	}
	var doubts []int
	for i := range u.claims {
		if u.claims[i].weight() < trusted {
			doubts = append(doubts, i)
		}
	}
	if len(doubts) > 0 && s.inquire(w, doubts, "the blob does not match its digest") {
		u.verified = false
		u.rounds++
	}
}
