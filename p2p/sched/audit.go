package sched

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// An audit is pieces whose sums are in doubt. A host asks the origin for all that are
// left: if it is honest, all of them are right then, and others who have the blob see
// that by its digest. Where a seed has the blob, or fetches it, there is none: its word
// is enough.
//
// A host may know nothing of audits, being of an older build, or not reach the origin
// and not say so. As long as nobody has said a word, as many as were sent so far are
// sent as well, every few seconds, but not more than a few: so one that can is found soon,
// wherever there is one, and an origin that is slow itself is not asked by everybody.
type audit struct {
	sent   []auditing
	since  time.Time // the last were sent, or said something
	spoken bool      // one has said something
	left   *p2p.Have
	reason string
}

// auditing is a host that was sent to the origin.
type auditing struct {
	by     *peer
	weight uint8 // of its word
}

// How long auditors have for the first piece, beside what it takes on a thin line.
const (
	speaksIn = 3 * time.Second
	thinLine = 2 << 20 // bytes a second
)

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
		s.appoint(w, 1)
	} else {
		u.audit.left.Or(more)
		for _, a := range u.audit.sent {
			s.send(a.by.host.ID, p2p.Audit{Digest: w.blob.Digest, Pieces: pieces, Reason: reason})
		}
	}
	if !slices.Contains(s.audited, w) {
		s.audited = append(s.audited, w)
		s.plan()
	}
	return true
}

// appoint sends up to n hosts more to the origin.
func (s *State) appoint(w *swarm, n int) {
	u := &w.sums
	a := u.audit
	a.since = s.now
	for range n {
		q := s.auditor(w)
		if q == nil {
			return
		}
		u.audits++
		u.auditors = append(without(u.auditors, q.host.ID), q.host.ID)
		if len(u.auditors) > maxWitnesses {
			u.auditors = slices.Delete(u.auditors, 0, 1)
		}
		a.sent = append(a.sent, auditing{q, uint8(min(auditor+2*u.audits, latest))})
		s.send(q.host.ID, p2p.Audit{Digest: w.blob.Digest, Pieces: slices.Collect(a.left.All()), Reason: a.reason})
	}
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
		if banned, slow := s.outcast(q.host.ID); banned || slow || q.host.left != "" || !q.wants && !q.have.Full() || u.audit.asked(q) {
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

// asked reports whether p was sent to the origin.
func (a *audit) asked(p *peer) bool { return a.weight(p) > 0 }

// weight is that of p's word if it was sent to the origin, else 0.
func (a *audit) weight(p *peer) uint8 {
	if a == nil {
		return 0
	}
	if k := slices.IndexFunc(a.sent, func(x auditing) bool { return x.by == p }); k >= 0 {
		return a.sent[k].weight
	}
	return 0
}

// heard takes note of an auditor's word.
func (a *audit) heard(now time.Time, p *peer, i int) {
	if a.doubts(i) && a.asked(p) {
		a.left.Remove(i)
		a.since, a.spoken = now, true
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

// excuse has another host go on in the place of an auditor, if that was the only one.
func (s *State) excuse(p *peer) {
	a := p.swarm.sums.audit
	if !a.asked(p) {
		return
	}
	a.sent = slices.DeleteFunc(a.sent, func(x auditing) bool { return x.by == p })
	if len(a.sent) == 0 {
		s.appoint(p.swarm, 1)
	}
}

// remindAuditors goes on with audits that take too long, or wait for a host.
func (s *State) remindAuditors() {
	s.audited = slices.DeleteFunc(s.audited, func(w *swarm) bool {
		u := &w.sums
		if len(w.peers) == 0 {
			u.audit = nil
		}
		a := u.audit
		if a == nil {
			return true
		}
		switch {
		case len(a.sent) == 0:
			s.appoint(w, 1)
		case s.now.Sub(a.since) >= s.lateAudit(w):
			s.urge(w)
		}
		if len(a.sent) == 0 && w.wanting == 0 {
			u.audit = nil
		}
		return u.audit == nil
	})
}

// lateAudit is how long auditors may be silent.
func (s *State) lateAudit(w *swarm) time.Duration {
	a, most := w.sums.audit, s.cfg.LeaseFor/3 // it can hardly take longer for one piece
	if a.spoken || len(a.sent) >= maxSources {
		return most
	}
	return min(most, speaksIn+time.Duration(p2p.PieceSize(w.blob.Size))*time.Second/thinLine)
}

// urge sends others to the origin: besides those who have said nothing yet, or in the
// place of those who fell silent, or are as many as may be there at a time. When all
// were sent they are asked anew.
func (s *State) urge(w *swarm) {
	u := &w.sums
	a := u.audit
	n := min(len(a.sent), maxSources-len(a.sent))
	switch {
	case a.spoken:
		a.sent, a.spoken, n = nil, false, 1
	case n == 0:
		a.sent, n = nil, maxSources
	}
	before := u.audits
	if s.appoint(w, n); u.audits == before {
		a.sent = nil
		s.appoint(w, 1)
	}
}
