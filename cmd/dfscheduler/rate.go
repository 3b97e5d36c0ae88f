package main

import "time"

// burst is how many seconds' worth of messages may come at once: a host that
// joins tells a lot.
const burst = 10

// rate is a token bucket. A host that sends more is read more slowly, until it
// cannot send any faster: what it says counts, and it costs no memory.
type rate struct {
	perSecond, tokens float64
	last              time.Time
}

func newRate(perSecond int, now time.Time) *rate {
	return &rate{perSecond: float64(perSecond), tokens: burst * float64(perSecond), last: now}
}

// take takes n tokens and returns how long to wait for the first of them. The
// others are owed: what comes next waits for them.
func (r *rate) take(n int, now time.Time) time.Duration {
	r.tokens = min(burst*r.perSecond, r.tokens+r.perSecond*now.Sub(r.last).Seconds())
	r.last = now
	wait := max(1-r.tokens, 0) / r.perSecond
	r.tokens -= float64(n)
	return time.Duration(wait * float64(time.Second))
}
