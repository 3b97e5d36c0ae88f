package fetcher

import (
	"context"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// renewsIn is how long a read for another host waits for a new token. That host turns
// elsewhere after peerStall.
const renewsIn = peerStall - time.Second

// renewed has the scheduler ask for a new token for a blob that this seed was ordered
// to fetch, since the origin refused the one that it used at began, and reports whether
// there is one.
func (n *network) renewed(ctx context.Context, c *content, began time.Time) bool {
	n.mu.Lock()
	s := n.shares[c.digest]
	if s == nil || !s.ordered || n.tokens == nil {
		n.mu.Unlock()
		return false
	}
	if s.lent.After(began) {
		n.mu.Unlock()
		return true
	}
	if s.renewal == nil {
		s.renewal = make(chan struct{})
	}
	renewal := s.renewal
	n.mu.Unlock()
	n.tell(func(h *swarm.Host, now time.Time) []swarm.Action { return h.Refused(now, c.digest) })
	t := time.NewTimer(renewsIn)
	defer t.Stop()
	select {
	case <-renewal:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// learn takes a token that another host lent. The caller holds n.mu.
func (s *share) learn(token string) {
	s.n.tokens.Learn(repo(s.origin), token)
	s.lent = time.Now()
	if s.renewal != nil {
		close(s.renewal)
		s.renewal = nil
	}
}
