package sched

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A trial begins with a complaint that a parent's piece is wrong, and ends with
// the word of a second host that fetched the same piece: a ban, or a mark
// against the accuser. As long as seeds are busy with others it has no witness; those
// come first whose accuser had no other complaint open. They alone count against the
// accused before that: a host that accuses all who serve it costs them nothing.
type trial struct {
	accuser, witness p2p.HostID
	tried            []p2p.HostID
	since            time.Time
	got              p2p.Sum
	credible         bool // its accuser had accused nobody else
	waits            bool // is in swarm.waiting
}

type trialKey struct {
	blob    digest.Digest
	piece   int
	accused p2p.HostID
}

const (
	maxFalse = 3 // false complaints, about different hosts, that lead to a ban
	atOnce   = 2 // pieces that a seed fetches as a witness: all others wait for its line
)

func (p *peer) checkPiece(i int) error {
	if i < 0 || i >= p.have.Len() {
		return fmt.Errorf("piece %d of %s, which has %d: %w", i, p.swarm.blob.Digest, p.have.Len(), p2p.ErrInvalid)
	}
	return nil
}

// wrong takes a complaint. The accuser gets another parent at once.
func (s *State) wrong(p *peer, m p2p.Wrong) error {
	if err := p.checkPiece(m.Piece); err != nil {
		return err
	}
	w := p.swarm
	q := s.hosts[m.Parent].peerOf(w)
	if q == nil || q == p || !p.childOf(q) && !s.avoids(p, q) {
		return nil // it was not sent there, or not lately
	}
	switch sum, ok := w.sums.get(m.Piece); {
	case !ok || sum == m.Got:
		return nil // what it was told is no longer true
	case s.unclear(w, m.Piece, m.Got):
		s.replace(p, q)
		return nil
	}
	if s.isBanned(p.host.ID) {
		return nil
	}
	if p.host.open >= s.cfg.MaxTrial {
		return fmt.Errorf("complaint about %s: %w", m.Parent, ErrLimit)
	}
	key := trialKey{m.Digest, m.Piece, m.Parent}
	open := s.trials[key] != nil
	credible := p.host.open == 0 && !open // what others say of the same piece costs them nothing
	if credible {
		s.fail(p, q, p2p.Mismatch)
	} else {
		s.replace(p, q)
	}
	if open || s.hosts[m.Parent] != q.host {
		return nil
	}
	t := &trial{accuser: p.host.ID, got: m.Got, credible: credible}
	s.trials[key] = t
	p.host.open++
	s.summon(key, t)
	s.plan()
	return nil
}

// summon asks the next witness: a seed, as soon as one is free, or else anyone in the
// swarm of good standing. Without one, or when one of the two is banned, the trial ends
// with no verdict.
func (s *State) summon(key trialKey, t *trial) {
	s.dismiss(t)
	w, accused := s.swarms[key.blob], s.hosts[key.accused]
	if w == nil || accused == nil || len(t.tried) >= maxChecks || s.isBanned(key.accused) || s.isBanned(t.accuser) {
		s.close(key, t)
		return
	}
	fit := func(p *peer) bool {
		banned, slow := s.outcast(p.host.ID)
		return !banned && !slow && p.host.left == "" && p.host.ID != t.accuser && p.host.ID != key.accused && !slices.Contains(t.tried, p.host.ID)
	}
	busy := false
	witness := slices.IndexFunc(w.peers, func(p *peer) bool {
		if !p.host.Seed || !fit(p) {
			return false
		}
		busy = busy || p.host.checks >= atOnce
		return p.host.checks < atOnce
	})
	if witness < 0 && busy {
		t.wait(w, key)
		return
	}
	for i := 0; witness < 0 && i < min(len(w.peers), maxLook); i++ {
		if j := (key.piece + i) % len(w.peers); fit(w.peers[j]) {
			witness = j
		}
	}
	if witness < 0 {
		s.close(key, t)
		return
	}
	h := w.peers[witness].host
	h.checks++
	t.witness, t.since = h.ID, s.now
	t.tried = append(t.tried, t.witness)
	s.send(t.witness, p2p.Check{Digest: key.blob, Piece: key.piece, Parent: accused.Host})
}

// wait has a trial wait for a witness, behind those of its kind.
func (t *trial) wait(w *swarm, key trialKey) {
	if t.waits {
		return
	}
	t.waits = true
	kind := 1
	if t.credible {
		kind = 0
	}
	w.waiting[kind] = append(w.waiting[kind], key)
}

// proceed goes on with the trials of a swarm that wait for a witness: one is free.
func (s *State) proceed(w *swarm) {
	for kind := range w.waiting {
		for len(w.waiting[kind]) > 0 {
			key := w.waiting[kind][0]
			if t := s.trials[key]; t != nil {
				if t.witness == "" {
					s.summon(key, t)
				}
				if t.witness == "" && s.trials[key] == t {
					return
				}
				t.waits = false
			}
			w.waiting[kind] = w.waiting[kind][1:]
		}
	}
}

// dismiss ends what the witness was asked for.
func (s *State) dismiss(t *trial) {
	if h := s.hosts[t.witness]; h != nil {
		h.checks = max(0, h.checks-1)
	}
	t.witness = ""
}

func (s *State) close(key trialKey, t *trial) {
	s.dismiss(t)
	delete(s.trials, key)
	if h := s.hosts[t.accuser]; h != nil {
		h.open = max(0, h.open-1)
	}
}

// checked takes a witness's word.
func (s *State) checked(p *peer, m p2p.Checked) error {
	if err := p.checkPiece(m.Piece); err != nil {
		return err
	}
	key := trialKey{m.Digest, m.Piece, m.Parent}
	t := s.trials[key]
	if t == nil || t.witness != p.host.ID {
		return nil // it was not asked, or answers late
	}
	defer s.proceed(p.swarm)
	switch m.Failed {
	case p2p.None:
		s.close(key, t)
		st := s.record(t.accuser)
		if n := note(&st.falses, m.Parent, s.now, s.cfg.MaxBan); n >= maxFalse {
			st.falses = nil
			if h := s.hosts[t.accuser]; h != nil {
				s.ban(h, fmt.Sprintf("%d false complaints", n))
			}
		}
	case p2p.Mismatch:
		s.close(key, t)
		if sum, ok := p.swarm.sums.get(m.Piece); !ok || sum == t.got || s.unclear(p.swarm, m.Piece, t.got) {
			return nil // the sum has changed meanwhile
		}
		if h := s.hosts[m.Parent]; h != nil {
			s.ban(h, fmt.Sprintf("wrong bytes, say %s and %s", t.accuser, p.host.ID))
		}
	default:
		s.summon(key, t)
	}
	return nil
}

// pending returns the trials that fit, in order.
func (s *State) pending(fit func(trialKey, *trial) bool) []trialKey {
	var keys []trialKey
	for k, t := range s.trials {
		if fit(k, t) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b trialKey) int {
		return cmp.Or(cmp.Compare(a.blob, b.blob), cmp.Compare(a.piece, b.piece), cmp.Compare(a.accused, b.accused))
	})
	return keys
}

// abandon goes on with the trials in which a host that left was needed.
func (s *State) abandon(h *host) {
	for _, k := range s.pending(func(k trialKey, t *trial) bool { return k.accused == h.ID || t.witness == h.ID }) {
		s.summon(k, s.trials[k])
	}
}

// remind goes on with the trials that wait for a witness, or whose does not answer.
func (s *State) remind() {
	for _, k := range s.pending(func(_ trialKey, t *trial) bool { return t.witness == "" || s.now.Sub(t.since) >= s.cfg.LeaseFor }) {
		s.summon(k, s.trials[k])
	}
}
