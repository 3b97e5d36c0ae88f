package sched

import (
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A place is where a blob can be fetched, and who said so.
type place struct {
	p2p.Origin
	from    p2p.HostID
	refused bool      // the token does not count, wait for another
	asked   time.Time // for that one
}

// place remembers where a blob can be fetched.
func (s *State) place(p *peer, o p2p.Origin) {
	w := p.swarm
	if w.held() {
		o.Token = "" // the less is kept, the better
	}
	i := slices.IndexFunc(w.places, func(x place) bool {
		return x.Registry == o.Registry && x.Repository == o.Repository
	})
	switch {
	case i < 0 && len(w.places) < maxOrigins:
		w.places = append(w.places, place{Origin: o, from: p.host.ID})
		if len(w.places) == 1 && w.owner != nil {
			s.fetch(w)
		}
	case i >= 0 && o.Token != "" && (w.places[i].Token == "" || w.places[i].refused || w.places[i].from == p.host.ID):
		again := w.places[i].refused
		w.places[i] = place{Origin: o, from: p.host.ID}
		if again && w.owner != nil {
			s.fetch(w)
		}
	}
}

// held reports whether somebody has all of the blob.
func (w *swarm) held() bool {
	return w.fulls > 0 || slices.ContainsFunc(w.sources, func(p *peer) bool { return p.have.Full() })
}

// forgetTokens drops the secrets of a blob that is in the cluster.
func (w *swarm) forgetTokens() {
	for i := range w.places {
		w.places[i].Token = ""
	}
}

// own makes sure that a wanted blob which nobody has is fetched by a seed.
func (s *State) own(w *swarm) {
	if w.wanting == 0 || w.owner != nil || len(w.sources) > 0 || w.fulls > 0 && len(w.starving) == 0 {
		return
	}
	for _, id := range p2p.Rendezvous(string(w.blob.Digest), s.able(w)) {
		p, err := s.join(s.hosts[p2p.HostID(id)], w.blob)
		if err != nil {
			continue // that seed is full, the next may not be
		}
		w.owner, p.progressAt = p, s.now
		for st := range p.links {
			s.detach(p, st)
		}
		s.fetch(w)
		s.relist(p)
		return
	}
}

// able returns the seeds that could fetch the blob.
func (s *State) able(w *swarm) []string {
	var ids []string
	for _, h := range s.seeds {
		banned, slow := s.outcast(h.ID)
		if until, ok := w.failed[h.ID]; !banned && !slow && (!ok || !s.now.Before(until)) {
			ids = append(ids, string(h.ID))
		}
	}
	return ids
}

// fetch tells the owner what to do.
func (s *State) fetch(w *swarm) {
	if w.owner == nil || w.owner.have.Full() {
		return
	}
	m := p2p.Fetch{Blob: w.blob, Whole: w.whole && !w.rests, Background: w.pressing == 0}
	for _, p := range w.places {
		if !p.refused {
			m.Origin = p.Origin
			break
		}
	}
	s.send(w.owner.host.ID, m)
}

// pass makes sure that a seed is not asked to own the swarm for a while.
func (s *State) pass(p *peer) {
	if p.swarm.failed == nil {
		p.swarm.failed = map[p2p.HostID]time.Time{}
	}
	p.swarm.failed[p.host.ID] = s.now.Add(2 * s.cfg.LeaseFor)
}

// resign ends a seed's ownership: the next one, or leases, take over.
func (s *State) resign(w *swarm) {
	p := w.owner
	s.pass(p)
	w.owner = nil
	s.relist(p)
	kids := s.disown(p)
	s.own(w)
	for _, k := range append(kids, p) {
		s.settle(k)
	}
}

// fromOrigin takes what an owner or another host says of the origin.
func (s *State) fromOrigin(p *peer, t p2p.Transfer) {
	w := p.swarm
	if t.Failed != p2p.None {
		s.excuse(p)
	}
	if p != w.owner {
		if t.Failed != p2p.None && t.Failed != p2p.Busy && p.lease != 0 {
			s.unlease(p)
		}
		return
	}
	switch t.Failed {
	case p2p.Refused, p2p.Missing:
		s.refused(w, t.Failed == p2p.Refused)
	case p2p.Unreachable, p2p.Stalled, p2p.Mismatch:
		s.resign(w)
	}
}

// refused goes on to the next place where the blob can be fetched, and asks for a
// new token for this one. Requests that were under way with the old one are refused,
// too, and say nothing new.
func (s *State) refused(w *swarm, renew bool) {
	left := false
	for i := range w.places {
		p := &w.places[i]
		if p.refused {
			continue
		}
		if !left {
			left, p.refused = true, true
			if renew {
				p.asked = s.now
				s.renewToken(w, p.from)
			}
			continue
		}
		s.fetch(w)
		return
	}
	if !renew || !left && !slices.ContainsFunc(w.places, func(p place) bool { return s.now.Sub(p.asked) < renewsIn }) {
		s.resign(w)
	}
}

// renewToken asks the host that gave a token, or else another that wants the
// blob, for a new one.
func (s *State) renewToken(w *swarm, id p2p.HostID) {
	if h := s.hosts[id]; h == nil || h.peer(w) == nil || !h.peer(w).wants {
		i := slices.IndexFunc(w.peers, func(p *peer) bool { return p.wants && p.host.left == "" })
		if i < 0 {
			return
		}
		id = w.peers[i].host.ID
	}
	s.send(id, p2p.Renew{Digest: w.blob.Digest})
}

// inspect tells a peer of its lease and of its leave to go to the origin.
func (s *State) inspect(p *peer) {
	w := p.swarm
	if lease := p.leases(); lease != p.lease {
		p.lease = lease
		p.progressAt = s.now
		s.renew(p)
	}
	switch {
	case p.starves && !p.alone && w.alone < maxSources:
		w.alone++
	case !p.starves && p.alone:
		w.alone--
	default:
		return
	}
	p.alone = !p.alone
	s.send(p.host.ID, p2p.Source{Digest: w.blob.Digest, Allowed: p.alone})
}
