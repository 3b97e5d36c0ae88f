package fetcher

import (
	"context"
	"errors"
	"time"
)

// Connections that share a line need not share it evenly: one that met a crowded
// line at its start may get a fraction of its part for as long as it lives, and
// who reads the blob in order waits for it. So when a request to the origin has
// brought all of its bytes, one that is older and far slower is ended, then or a
// moment later: what is still to come is asked for again, on the connection that is
// free now.
const (
	paceBy    = 3               // so many times as fast
	paceMost  = 3               // requests of one fetch that are ended
	paceWorth = time.Second     // that ending a request must save, as what it has under way is sent twice
	paceHolds = 2 * time.Second // for how long a speed is one that the line gives now
)

var errOutpaced = errors.New("another request for the blob is far faster")

// pacing lets a fetch be outpaced. c.mu guards it.
type pacing struct {
	end   context.CancelCauseFunc // of the request under way
	ended int                     // requests
}

// pace is what a request to the origin made that has brought all of its bytes.
type pace struct {
	speed        float64 // bytes per second
	began, ended time.Time
	place        place
	prio         Priority
}

// outpace ends the request of f if one that has ended is far faster; if that of f has,
// all to which that applies. The caller holds c.mu.
func (c *content) outpace(f *fetch) {
	now := time.Now()
	if f.pos < f.end {
		c.compare(f, now)
		return
	}
	if f.got < almost || !f.asksOrigin() {
		return
	}
	c.pace = pace{float64(f.got) / now.Sub(f.began).Seconds(), f.began, now, f.place, f.prio}
	for _, o := range c.fetches {
		c.compare(o, now)
	}
}

// compare ends the request of f if it is older than the one that has ended last, and
// far slower. The caller holds c.mu.
func (c *content) compare(f *fetch, now time.Time) {
	p := &c.pace
	if p.speed == 0 || now.Sub(p.ended) > paceHolds || !f.began.Before(p.began) || f.place != p.place || f.prio != p.prio {
		return
	}
	if f.pacing.end == nil || f.pacing.ended == paceMost || f == c.stream || f.end-f.pos <= almost || !f.slower(p.speed, now.Sub(f.began)) {
		return
	}
	f.pacing.end(errOutpaced)
	f.pacing = pacing{ended: f.pacing.ended + 1}
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
