package fetcher

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	budgetUrgent     = 60 * time.Second // without a byte, before a read fails
	budgetBackground = 10 * time.Minute

	pauseMin           = 200 * time.Millisecond // after a first failure; doubled by each further one
	pauseMaxUrgent     = 5 * time.Second
	pauseMaxBackground = time.Minute
)

func budget(p Priority) time.Duration {
	if p == Background {
		return budgetBackground
	}
	return budgetUrgent
}

// tries is what a fetch has learned of the places it asked.
type tries struct {
	of map[place]*try
}

type try struct {
	failures int // in a row, without a byte
	stalls   int // the same, of those that stalled
	at       time.Time
	jitter   float64
	after    time.Time // the place asked not to be asked before
	final    error     // asking again cannot help
}

// next returns where to ask now, or from when on; an error if there is no
// place left.
func (t *tries) next(f *fetch) (p place, ready time.Time, err error) {
	f.c.mu.Lock()
	prio, pos, end := f.prio, f.pos, f.end
	f.c.mu.Unlock()
	now := time.Now()
	var finals []error
	found := false
	for _, candidate := range f.places(pos, end) {
		try := t.of[candidate]
		if try == nil {
			try = &try0
		}
		if try.final != nil {
			finals = append(finals, try.final)
			continue
		}
		at := latest(try.ready(prio), f.c.f.host(candidate.repo.Host).heldUntil())
		if !found || at.Before(ready) && ready.After(now) {
			p, ready, found = candidate, at, true
		}
	}
	if !found {
		if len(finals) == 0 {
			finals = []error{errNowhere}
		}
		return p, ready, fmt.Errorf("fetch %s bytes %d-%d: %w", f.c.digest, pos, end-1, errors.Join(finals...))
	}
	return p, ready, nil
}

var try0 try // of a place that was not asked yet

// ready returns when the place may be asked again.
func (t *try) ready(p Priority) time.Time {
	if t.failures == 0 {
		return t.after
	}
	most := pauseMaxUrgent
	if p == Background {
		most = pauseMaxBackground
	}
	pause := min(pauseMin<<min(t.failures-1, 20), most)
	return latest(t.at.Add(time.Duration(float64(pause)*t.jitter)), t.after)
}

// note takes in how an attempt ended.
func (t *tries) note(f *fetch, p place, got int64, err error) {
	if t.of == nil {
		t.of = map[place]*try{}
	}
	if t.of[p] == nil {
		t.of[p] = &try{}
	}
	y := t.of[p]
	if got > 0 {
		y.failures, y.stalls = 0, 0
	}
	y.failures++
	y.at = time.Now()
	y.jitter = 0.5 + rand.Float64() // spreads load, keeps no secret
	if final(err) {
		y.final = err
	}
	if errors.Is(err, errStalled) {
		y.stalls++
	}
	var down *origin.UnavailableError
	if errors.As(err, &down) && down.RetryAfter > 0 {
		y.after = y.at.Add(down.RetryAfter)
		if down.Status == http.StatusTooManyRequests { // that holds for all blobs
			f.c.f.host(p.repo.Host).hold(down.RetryAfter)
		}
	}
	f.c.f.log.Debug("request failed", "blob", f.c.digest, "repo", p.repo.String(), "source", f.c.f.source(p).Name(), "err", err)
}

// stall returns after how much silence a request to p is abandoned: longer
// after each one that was, in case the place is merely slow to begin.
func (t *tries) stall(p place) time.Duration {
	if y := t.of[p]; y != nil {
		return min(stallMin<<min(y.stalls, 8), stallMax)
	}
	return stallMin
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
