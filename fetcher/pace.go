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
	paceBy    = 3           // so many times as fast
	paceMost  = 3           // requests of one fetch that are ended
	paceWorth = time.Second // that ending a request must save, as what it has under way is sent twice
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
		if f.began.Before(s.began) && f.end-f.pos > almost && f.slower(speed, now.Sub(f.began)) {
			f.pacing.end(errOutpaced)
			f.pacing = pacing{ended: f.pacing.ended + 1}
		}
	}
}

// slower reports whether f, which has run for so long, is so far below a speed
// in bytes per second that beginning again with it is worth while.
func (f *fetch) slower(speed float64, ran time.Duration) bool {
	if ran < paceWorth || paceBy*float64(f.got) >= speed*ran.Seconds() {
		return false
	}
	left := float64(f.end - f.pos)
	saved := left*ran.Seconds()/max(float64(f.got), 1) - left/speed
	return saved >= paceWorth.Seconds()
}

// paced says what ends the request under way.
func (f *fetch) paced(end context.CancelCauseFunc) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.pacing.end = end
}
