package peer

import (
	"net"
	"net/http"
	"sync"
)

// slots bounds the bodies that are sent at once. Those that nobody waits for
// leave a quarter of the slots free: for hosts that have none yet, lest a few whose
// lines are slow keep all others out; and for readers, who moreover may take half as
// many again: turning them away costs them a round trip to a worse parent, sending
// them late costs a little of everybody's time.
type slots struct {
	n int

	mu   sync.Mutex
	busy int            // guarded by mu
	held map[string]int // of them, by host; guarded by mu
}

// take takes a slot for a host, if one is free for such a request.
func (s *slots) take(host string, waitedFor bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := max(s.n-s.n/4, 1)
	switch {
	case waitedFor:
		limit = s.n + (s.n+1)/2
	case s.held[host] == 0:
		limit = s.n
	}
	if s.busy >= limit {
		return false
	}
	if s.held == nil {
		s.held = map[string]int{}
	}
	s.busy++
	s.held[host]++
	return true
}

func (s *slots) free(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	if s.held[host]--; s.held[host] == 0 {
		delete(s.held, host)
	}
}

func (s *slots) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

// hostOf names the host that a request comes from: its address without the port.
func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
