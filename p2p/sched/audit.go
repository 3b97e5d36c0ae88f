package sched

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// An audit is pieces whose sums are in doubt. One host at a time asks the origin for
// all that are left: if it is honest, all of them are right then, and others who have
// the blob see that by its digest. Where a seed has the blob, or fetches it, there is
// none: its word is enough.
type audit struct {
	by     *peer // nil: nobody could be found
	since  time.Time
	left   *p2p.Have
	reason string
}

// inquire has pieces audited, if that is needed.
func (s *State) inquire(w *swarm, pieces []int, reason string) bool {
	if len(w.sources) > 0 {
		return false
	}
	u := &w.sums
	more := p2p.NewHave(w.blob.Pieces())
	for _, i := range pieces {
		more.Add(i)
	}
	if u.audit == nil {
		u.audit = &audit{left: more, reason: reason}
		s.appoint(w)
	} else if u.audit.left.Or(more); u.audit.by != nil {
		s.send(u.audit.by.host.ID, p2p.Audit{Digest: w.blob.Digest, Pieces: pieces, Reason: reason})
	}
	if !slices.Contains(s.audited, w) {
		s.audited = append(s.audited, w)
		s.plan()
	}
	return true
}

// appoint sends a host to the origin.
func (s *State) appoint(w *swarm) {
	u := &w.sums
	q := s.auditor(w)
	if q == nil {
		return
	}
	u.audit.by, u.audit.since = q, s.now
	u.audits++
	u.auditors = append(without(u.auditors, q.host.ID), q.host.ID)
	if len(u.auditors) > maxWitnesses {
		u.auditors = slices.Delete(u.auditors, 0, 1)
	}
	s.send(q.host.ID, p2p.Audit{Digest: w.blob.Digest, Pieces: slices.Collect(u.audit.left.All()), Reason: u.audit.reason})
}

// auditor returns a host of good standing that has the blob or wants it, or nil: at
// random as far as hosts can tell, but those that were not asked yet, and those that
// want or have all of it, first.
func (s *State) auditor(w *swarm) *peer {
	u := &w.sums
	h := fnv.New32a()
	_, _ = h.Write([]byte(w.blob.Digest)) // it returns nil
	start := int(h.Sum32()>>1) + u.audits*7919
	var best *peer
	least := 0
	for k := range min(len(w.peers), maxLook) {
		q := w.peers[(start+k)%len(w.peers)]
		if banned, slow := s.outcast(q.host); banned || slow || q.host.left != "" || !q.wants && !q.have.Full() {
			continue
		}
		rank := 0
		if q.lazy {
			rank++
		}
		if at := slices.Index(u.auditors, q.host.ID); at >= 0 {
			rank += 2 + at
		}
		if best == nil || rank < least {
			best, least = q, rank
		}
	}
	return best
}

// doubts reports whether a piece's sum is in doubt.
func (a *audit) doubts(i int) bool { return a != nil && a.left.Has(i) }

// asks reports whether p is to ask the origin for a piece.
func (a *audit) asks(p *peer, i int) bool { return a.doubts(i) && a.by == p }

// heard takes note of an auditor's word.
func (a *audit) heard(now time.Time, p *peer, i int) {
	if a.asks(p, i) {
		a.left.Remove(i)
		a.since = now
	}
}

// conclude ends an audit if nothing is left. If nothing has changed by it, those who
// said that the blob does not match say so still.
func (s *State) conclude(w *swarm) {
	if u := &w.sums; u.audit != nil && u.audit.left.Count() == 0 {
		u.audit = nil
	}
	s.suspect(w)
}

// excuse has another host go on in the place of an auditor.
func (s *State) excuse(p *peer) {
	if a := p.swarm.sums.audit; a != nil && a.by == p {
		a.by = nil
		s.appoint(p.swarm)
	}
}

// remindAuditors goes on with audits that take too long, or wait for a host.
func (s *State) remindAuditors() {
	s.audited = slices.DeleteFunc(s.audited, func(w *swarm) bool {
		u := &w.sums
		if len(w.peers) == 0 {
			u.audit = nil
		}
		switch a := u.audit; {
		case a == nil:
			return true
		case a.by == nil:
			s.appoint(w)
		case s.now.Sub(a.since) >= s.cfg.LeaseFor/3: // it can hardly take longer for one piece
			s.excuse(a.by)
		}
		if u.audit.by == nil && w.wanting == 0 {
			u.audit = nil
		}
		return u.audit == nil
	})
}
