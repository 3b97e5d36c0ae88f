package main

import "time"

// burst is how many seconds' worth of messages may come at once: a host that
// joins tells a lot.
const burst = 10

// rate is a token bucket. A host that sends more is read more slowly, until it
// cannot send any faster: what it says counts, and it costs no memory. It is for
// one goroutine.
type rate struct {
	perSecond, tokens float64
	last              time.Time
}

func newRate(perSecond int, now time.Time) *rate {
	return &rate{perSecond: float64(perSecond), tokens: burst * float64(perSecond), last: now}
}

// take takes a token and returns how long to wait before the message may be
// dealt with.
func (r *rate) take(now time.Time) time.Duration {
	r.tokens = min(burst*r.perSecond, r.tokens+r.perSecond*now.Sub(r.last).Seconds()) - 1
	r.last = now
	return time.Duration(max(-r.tokens, 0) / r.perSecond * float64(time.Second))
}
