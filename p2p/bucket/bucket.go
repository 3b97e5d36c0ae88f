// Package bucket holds traffic back to so many bytes per second, those first
// for whom somebody waits.
package bucket

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	// burstTime is for how long what was not used is kept. Timers are exact to a
	// millisecond or so, and a link that starts from rest may catch up a bit.
	burstTime = time.Second / 16
	// leastBurst lets a small read pass at once where the limit is low.
	leastBurst = 64 << 10
)

// Bucket is a token bucket whose tokens are bytes. Who is of a lower priority
// gets none while one of a higher priority waits; equals take turns in the
// order in which they came. A nil Bucket holds nothing back.
//
// Large amounts are best asked for in steps: bytes that were let through are
// the past, and whoever comes next must wait until they are paid for.
type Bucket struct {
	mu      sync.Mutex // guards what follows
	rate    float64    // bytes per second; 0: no limit
	burst   float64
	tokens  float64 // at the time of filled
	filled  time.Time
	waiting [p2p.Background + 1][]*waiter
	timer   *time.Timer // set for when the first one in line has its tokens; nil: nobody has waited yet
}

type waiter struct {
	n    float64
	turn chan struct{} // closed when it has its tokens
}

// New makes a bucket that is full. 0 bytes per second, or less, is no limit:
// the result is nil.
func New(bytesPerSecond int64) *Bucket {
	if bytesPerSecond <= 0 {
		return nil
	}
	b := &Bucket{filled: time.Now()}
	b.SetRate(bytesPerSecond)
	b.tokens = b.burst
	return b
}

// SetRate changes the limit, also for those who wait; 0 or less is none. Of a
// Bucket that may be changed there is one from the beginning: &Bucket{} has no
// limit.
func (b *Bucket) SetRate(bytesPerSecond int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	b.rate = float64(max(bytesPerSecond, 0))
	b.burst = max(b.rate*burstTime.Seconds(), leastBurst)
	b.tokens = min(b.tokens, b.burst)
	b.serve()
}

// Wait returns when n more bytes may pass, or with the cause of ctx's end.
func (b *Bucket) Wait(ctx context.Context, n int, p p2p.Priority) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if b == nil || n <= 0 {
		return nil
	}
	w := b.enter(float64(n), p)
	if w == nil {
		return nil
	}
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
		b.leave(w, p)
		return context.Cause(ctx)
	}
}

// enter takes n tokens, or gets in line for them.
func (b *Bucket) enter(n float64, p p2p.Priority) *waiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate == 0 {
		return nil
	}
	b.fill()
	if n <= b.tokens && !b.before(p) {
		b.tokens -= n
		return nil
	}
	w := &waiter{n: n, turn: make(chan struct{})}
	b.waiting[p] = append(b.waiting[p], w)
	b.serve()
	return w
}

// before reports whether somebody waits whose turn is before that of one who
// comes with p. The caller holds b.mu.
func (b *Bucket) before(p p2p.Priority) bool {
	for _, line := range b.waiting[:p+1] {
		if len(line) > 0 {
			return true
		}
	}
	return false
}

// leave takes one out of line who no longer wants to wait.
func (b *Bucket) leave(w *waiter, p p2p.Priority) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	if i := slices.Index(b.waiting[p], w); i >= 0 {
		b.waiting[p] = slices.Delete(b.waiting[p], i, i+1)
	} else {
		b.tokens += w.n // its turn came at the same moment: others may have them
	}
	b.serve()
}

// first returns who is first in line, and where. The caller holds b.mu.
func (b *Bucket) first() (*waiter, p2p.Priority) {
	for p, line := range b.waiting {
		if len(line) > 0 {
			return line[0], p2p.Priority(p)
		}
	}
	return nil, 0
}

// fill adds what has come since it was last called. The bucket holds what the
// first in line wants, even if that is more than a burst, and whoever comes
// before it then may have that instead. The caller holds b.mu.
func (b *Bucket) fill() {
	limit := b.burst
	if w, _ := b.first(); w != nil {
		limit = max(limit, w.n)
	}
	now := time.Now()
	b.tokens = max(b.tokens, min(limit, b.tokens+b.rate*now.Sub(b.filled).Seconds()))
	b.filled = now
}

// serve gives those their tokens whose turn it is, and sets the timer for the
// next one. The caller holds b.mu and has called fill.
func (b *Bucket) serve() {
	for {
		w, p := b.first()
		if w == nil {
			return
		}
		if missing := w.n - b.tokens; missing > 0 && b.rate > 0 {
			b.wake(time.Duration(missing/b.rate*float64(time.Second)) + 1)
			return
		}
		if b.rate > 0 {
			b.tokens -= w.n
		}
		b.waiting[p] = slices.Delete(b.waiting[p], 0, 1)
		close(w.turn)
	}
}

// wake has serve called then. The caller holds b.mu.
func (b *Bucket) wake(after time.Duration) {
	if b.timer != nil {
		b.timer.Reset(after)
		return
	}
	b.timer = time.AfterFunc(after, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.fill()
		b.serve()
	})
}
