package fetcher

import (
	"context"
	"sync"
	"time"
)

// patience is how long an on-demand wait keeps background work away. One that
// takes longer hangs on its source, and yielding would not help it.
const patience = 5 * time.Second

// quiet knows whether on-demand reads wait.
type quiet struct {
	mu      sync.Mutex
	waiting int
	last    time.Time     // when waiting was last above 0
	changed chan struct{} // closed and replaced when waiting changes to or from 0
}

// enter notes an on-demand wait. The caller calls leave when it ends; more
// than once does no harm.
func (q *quiet) enter() (leave func()) {
	q.add(1)
	var once sync.Once
	left := func() { once.Do(func() { q.add(-1) }) }
	late := time.AfterFunc(patience, left)
	return func() { late.Stop(); left() }
}

func (q *quiet) add(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting += n
	q.last = time.Now()
	if q.changed != nil && (q.waiting == 0 || q.waiting == n) {
		close(q.changed)
		q.changed = nil
	}
}

// state returns whether reads wait, when one last did, and a channel that is
// closed when that changes.
func (q *quiet) state() (waiting bool, last time.Time, changed <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	return q.waiting > 0, q.last, q.changed
}

// wait returns once no read has waited for d.
func (q *quiet) wait(ctx context.Context, d time.Duration) error {
	for {
		waiting, last, changed := q.state()
		left := d - time.Since(last)
		if !waiting && left <= 0 {
			return ctx.Err()
		}
		var elapsed <-chan time.Time
		if !waiting {
			elapsed = time.After(left)
		}
		select {
		case <-elapsed:
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
