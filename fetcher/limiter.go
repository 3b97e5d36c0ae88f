package fetcher

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Slots of one registry. Reads that wait must find one free, so the rest may
// not take them all; and no blob may take those of the others.
const (
	defaultSlots    = 16
	reservedShare   = 4 // one slot in so many is for on-demand requests only
	backgroundSlots = 3
	blobShare       = 2 // a blob gets one slot in so many
	suspectShare    = 4 // all blobs whose last request hung get one slot in so many, each one at most
)

// limiter grants the slots of one registry. A request that gets no bytes for a
// while is parked: it keeps its connection but gives its slot to others. A blob
// whose request was parked is suspect until bytes of it come again and gets one
// slot at a time, so that blobs whose source hangs do not slow the others.
type limiter struct {
	mu     sync.Mutex // guards what follows
	slots  int
	held   [priorities]int
	probes int // slots held by suspect blobs
	owners map[*content]*owner
	queue  []*ticket
	pause  time.Time // the registry asked for no requests before
}

type owner struct{ held, parked int }

// ticket is a request's place in the queue, then its slot.
type ticket struct {
	l     *limiter
	c     *content
	ready chan struct{} // closed when the slot is granted

	// guarded by l.mu
	prio   Priority
	own    bool // has a slot
	probe  bool // … as one of a suspect blob
	parked bool
	over   bool
}

func newLimiter(slots int) *limiter {
	return &limiter{slots: slots, owners: map[*content]*owner{}}
}

// resize changes how many slots there are.
func (l *limiter) resize(slots int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots = slots
	l.grant()
}

// enter queues a request of blob c.
func (l *limiter) enter(c *content, p Priority) *ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &ticket{l: l, c: c, prio: p, ready: make(chan struct{})}
	l.queue = append(l.queue, t)
	if l.owners[c] == nil {
		l.owners[c] = &owner{}
	}
	l.grant()
	return t
}

// wait returns when the slot is granted or ctx ends.
func (t *ticket) wait(ctx context.Context) error {
	select {
	case <-t.ready:
		return nil
	default:
	}
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave gives the slot, or the place in the queue, back.
func (t *ticket) leave() {
	l := t.l
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owners[t.c]
	switch {
	case t.parked:
		o.parked--
	case t.own:
		l.take(t, o, -1)
	default:
		l.queue = slices.DeleteFunc(l.queue, func(q *ticket) bool { return q == t })
	}
	t.over = true
	if *o == (owner{}) && !slices.ContainsFunc(l.queue, func(q *ticket) bool { return q.c == t.c }) {
		delete(l.owners, t.c)
	}
	l.grant()
}

// raise gives the request another priority.
func (t *ticket) raise(p Priority) {
	l := t.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.own && !t.parked && !t.over {
		l.held[t.prio]--
		l.held[p]++
	}
	t.prio = p
	l.grant()
}

// park takes the slot back while the request gets no bytes; unpark returns it,
// above the limit if need be, since the bytes flow already.
func (t *ticket) park()   { t.setParked(true) }
func (t *ticket) unpark() { t.setParked(false) }

func (t *ticket) setParked(parked bool) {
	l := t.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.over || t.parked == parked {
		return
	}
	t.parked = parked
	o := l.owners[t.c]
	if parked {
		l.take(t, o, -1)
		o.parked++
	} else {
		l.take(t, o, 1)
		o.parked--
	}
	l.grant()
}

// take counts n more slots for t. The caller holds l.mu.
func (l *limiter) take(t *ticket, o *owner, n int) {
	o.held += n
	l.held[t.prio] += n
	if t.probe {
		l.probes += n
	}
}

// hanging reports whether the request gets no bytes.
func (t *ticket) hanging() bool {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	return t.parked
}

// grant hands out free slots: to the highest priority, in it to the blob with
// the fewest, in that to whoever waits longest. The caller holds l.mu.
func (l *limiter) grant() {
	for {
		best := -1
		for i, t := range l.queue {
			if l.mayStart(t) && (best < 0 || l.before(t, l.queue[best])) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		t := l.queue[best]
		l.queue = slices.Delete(l.queue, best, best+1)
		t.own, t.probe = true, t.suspect()
		l.take(t, l.owners[t.c], 1)
		close(t.ready)
	}
}

func (l *limiter) before(a, b *ticket) bool {
	if a.prio != b.prio {
		return a.prio < b.prio
	}
	return l.owners[a.c].held < l.owners[b.c].held
}

func (l *limiter) mayStart(t *ticket) bool {
	total := l.held[OnDemand] + l.held[Prefetch] + l.held[Background]
	o := l.owners[t.c]
	ofBlob := l.slots / blobShare
	if t.prio != OnDemand {
		total += l.slots / reservedShare
		ofBlob -= l.slots / blobShare / reservedShare
	}
	switch {
	case total >= l.slots, o.held >= max(1, ofBlob), o.parked >= l.slots:
		return false
	case t.suspect() && (o.held > 0 || l.probes >= max(1, l.slots/suspectShare)):
		return false
	}
	return t.prio != Background || l.held[Background] < backgroundSlots
}

// suspect reports whether the blob's source hung when last asked.
func (t *ticket) suspect() bool { return t.c != nil && t.c.silent.Load() }

// inFlight returns the number of slots in use.
func (l *limiter) inFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[OnDemand] + l.held[Prefetch] + l.held[Background]
}

// hold keeps requests back for d: the registry said so.
func (l *limiter) hold(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until := time.Now().Add(d); until.After(l.pause) {
		l.pause = until
	}
}

// heldUntil returns when the registry may be asked again.
func (l *limiter) heldUntil() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pause
}
