package web

import (
	"sync"
	"time"
)

// limits bound how many requests an address may make: rate per second for long,
// and ten times that at once.
type limits struct {
	rate float64

	mu   sync.Mutex // guards what follows
	left map[string]allowance
}

type allowance struct {
	tokens float64
	at     time.Time
}

const burst, maxAddresses = 10, 100_000

func newLimits(rate int) *limits { return &limits{rate: float64(rate), left: map[string]allowance{}} }

// take returns how long the address has to wait before its next request; 0: it
// may go on.
func (l *limits) take(address string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	full := burst * l.rate
	a, known := l.left[address]
	if !known {
		if len(l.left) >= maxAddresses {
			l.forget(now)
		}
		a = allowance{full, now}
	}
	a.tokens = min(full, a.tokens+now.Sub(a.at).Seconds()*l.rate)
	a.at = now
	var wait time.Duration
	if a.tokens < 1 {
		wait = time.Duration((1 - a.tokens) / l.rate * float64(time.Second))
	} else {
		a.tokens--
	}
	l.left[address] = a
	return wait
}

// forget drops those who have all they may have, and everybody if that does not
// help. The caller holds l.mu.
func (l *limits) forget(now time.Time) {
	for k, a := range l.left {
		if now.Sub(a.at) > burst*time.Second {
			delete(l.left, k)
		}
	}
	if len(l.left) >= maxAddresses {
		clear(l.left)
	}
}
