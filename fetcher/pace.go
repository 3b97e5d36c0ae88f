package fetcher

import (
	"context"
	"errors"
	"time"
)

// Connections that share a line need not share it evenly: one that met a crowded
// line at its start may get a fraction of its part for as long as it lives, and
// who reads the blob in order waits for it. So when a request to the origin has
// brought all of its bytes, one that is older and far slower is ended: what is
// still to come is asked for again, on the connection that is free now.
const (
	paceBy   = 3 // so many times as fast
	paceMost = 3 // requests of one fetch that are ended
)

var errOutpaced = errors.New("another request for the blob is far faster")

// pacing lets a fetch be outpaced. c.mu guards it.
type pacing struct {
	end   context.CancelCauseFunc // of the request under way
	ended int                     // requests
}

// outpace ends the requests that are older than that of s and far slower. The
// caller holds c.mu.
func (c *content) outpace(s *fetch) {
	if s.pos < s.end || s.got < almost || !s.asksOrigin() {
		return
	}
	now := time.Now()
	speed := float64(s.got) / now.Sub(s.began).Seconds()
	for _, f := range c.fetches {
		if f.pacing.end == nil || f.pacing.ended == paceMost || f.place != s.place || f.prio != s.prio || f == c.stream {
			continue
		}
		if f.began.Before(s.began) && f.end-f.pos > almost && paceBy*float64(f.got) < speed*now.Sub(f.began).Seconds() {
			f.pacing.end(errOutpaced)
			f.pacing = pacing{ended: f.pacing.ended + 1}
		}
	}
}

// paced says what ends the request under way.
func (f *fetch) paced(end context.CancelCauseFunc) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.pacing.end = end
}
