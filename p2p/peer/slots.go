package peer

import "sync"

// slots bounds the bodies that are sent at once. Those that nobody waits for
// leave a quarter of the slots free for the others, which moreover may take
// half as many again: turning them away costs their reader a round trip to a
// worse parent, sending them late costs a little of everybody's time.
type slots struct {
	n int

	mu   sync.Mutex
	busy int // guarded by mu
}

// take takes a slot, if one is free for such a request.
func (s *slots) take(waitedFor bool) bool {
	limit := max(s.n-s.n/4, 1)
	if waitedFor {
		limit = s.n + (s.n+1)/2
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy >= limit {
		return false
	}
	s.busy++
	return true
}

func (s *slots) free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
}

func (s *slots) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}
