package fetcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

// Reader streams a range of a blob. It is for one goroutine, but for Raise.
type Reader struct {
	c    *content
	ctx  context.Context // io.Reader has no other way to it
	prio atomic.Int32    // a Priority
	only only
	pos  int64
	end  int64
	long bool   // more than one request is needed for it
	all  bool   // it is a read of the whole blob
	data []byte // bytes from pos on that are not in the store

	next    int64 // where to plan again
	planned bool
	begun   bool // bytes were read
	broken  bool // a read from the store failed once
	closed  bool
	over    chan struct{} // closed by Close
	pieces  bool          // the network brings all of the blob; what it has not judged is not read
	waited  time.Duration
	source  string // who gave the last bytes waited for

	from, to int64 // what was planned for; guarded by c.mu
}

var _ io.ReadCloser = (*Reader)(nil)

func (r *Reader) priority() Priority { return Priority(r.prio.Load()) }

// Raise gives the read priority p from now on, if that is higher: what is still to
// come is asked for as if it had been so from the start. It may be called while
// another goroutine reads.
func (r *Reader) Raise(p Priority) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if p >= r.priority() {
		return
	}
	r.prio.Store(int32(p))
	switch _, open := c.readers[r]; {
	case open && r.pieces: // which come in the network's order: it is to ask for its own bytes
		c.wakeAll()
	case open:
		c.cover(r)
	}
}

func (r *Reader) Read(p []byte) (int, error) {
	switch {
	case r.closed:
		return 0, ErrClosed
	case r.pos >= r.end:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	p = p[:min(int64(len(p)), r.end-r.pos)]
	for {
		n, err := r.take(p)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			r.pos += int64(n)
			r.begun = true
			if r.planned && r.pos >= r.next && r.pos < r.end {
				r.plan()
			}
			return n, nil
		}
		if err := r.wait(); err != nil {
			return 0, err
		}
	}
}

// take reads what is here of the bytes from pos on.
func (r *Reader) take(p []byte) (int, error) {
	if len(r.data) > 0 {
		n := copy(p, r.data)
		r.data = r.data[n:]
		return n, nil
	}
	n := r.present(int64(len(p)))
	if n == 0 {
		return copy(p, r.c.f.memory.at(r.c, r.pos)), nil
	}
	got, err := r.c.stored.ReadAt(p[:n], r.pos)
	switch {
	case err == nil:
		return got, nil
	case errors.Is(err, store.ErrMissing): // taken away this moment
		return 0, nil
	case r.broken:
		return 0, err
	}
	// The disk does not give back what it took: fetch it once more.
	r.broken = true
	r.c.f.log.Warn("stored bytes not readable", "blob", r.c.digest, "err", err)
	err = r.c.stored.Discard(r.pos, n)
	if r.c.f.network != nil {
		r.c.f.network.lost(r.c, r.pos, n)
	}
	return 0, err
}

// present returns how many of the next n bytes can be read from the store.
func (r *Reader) present(n int64) int64 {
	if r.pieces {
		n = r.c.f.network.judged(r.c, r.pos, n)
	}
	return r.c.stored.Present(r.pos, n)
}

func (r *Reader) plan() {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.planned = true
	r.c.plan(r)
}

// wait returns when the byte at pos may be here.
func (r *Reader) wait() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	c := r.c
	if r.priority() == Background && c.f.store.Full() {
		return fmt.Errorf("read %s at %d: %w", c.digest, r.pos, ErrFull)
	}
	w := &waiter{pos: r.pos, peers: r.only.peers, done: make(chan struct{})}
	c.mu.Lock()
	r.planned = true
	c.plan(r)
	if r.present(1) > 0 || c.f.memory.at(c, r.pos) != nil {
		c.mu.Unlock()
		return nil
	}
	c.waiters[w] = struct{}{}
	c.mu.Unlock()
	defer r.since(time.Now())
	if r.priority() == OnDemand {
		defer c.f.quiet.enter()()
	}
	gauge := c.f.metrics.waiting.WithLabelValues(r.priority().String())
	gauge.Inc()
	defer gauge.Dec()
	err := r.await(w)
	if err != nil {
		c.mu.Lock()
		delete(c.waiters, w)
		c.mu.Unlock()
		return err
	}
	r.data, r.source = w.data, w.from
	return nil
}

func (r *Reader) since(t time.Time) { r.waited += time.Since(t) }

// await waits for w within the budget.
func (r *Reader) await(w *waiter) error {
	start := time.Now()
	t := time.NewTimer(budget(r.priority()))
	defer t.Stop()
	for {
		select {
		case <-w.done:
			return w.err
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-r.c.f.ctx.Done():
			return context.Cause(r.c.f.ctx)
		case <-t.C:
			left, err := r.spent(w, start)
			if err != nil {
				return err
			}
			t.Reset(left)
		}
	}
}

// spent returns how much of the budget is left, or why the read failed when
// nothing is. Time counts in which a source was asked and gave nothing; not
// the time in which slots were taken, or bytes before w.pos came.
func (r *Reader) spent(w *waiter, start time.Time) (time.Duration, error) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	most := budget(r.priority())
	f := c.covering(w.pos)
	switch {
	case f == nil && r.pieces:
		moved, err := c.f.network.progress(c)
		if left := most - time.Since(latest(moved, start)); left > 0 {
			return left, nil
		}
		return 0, r.unavailable(err)
	case f == nil:
		if _, still := c.waiters[w]; still {
			c.wake(w)
		}
		return most, nil
	case f.trouble.IsZero():
		return most, nil
	}
	if left := most - time.Since(latest(f.trouble, start)); left > 0 {
		return left, nil
	}
	return 0, r.unavailable(f.failed)
}

// unavailable says that the budget is spent, and how the last attempt failed.
func (r *Reader) unavailable(err error) error {
	if err == nil {
		err = errStalled
	}
	return fmt.Errorf("read %s bytes %d-%d: %w: %w", r.c.digest, r.pos, r.end-1, ErrUnavailable, err)
}

// Close ends the read. What it still wanted is given up if nobody else does.
func (r *Reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	defer close(r.over)
	c := r.c
	if r.priority() == OnDemand {
		source := cmp.Or(r.source, "store")
		c.f.metrics.latency.WithLabelValues(source).Observe(r.waited.Seconds())
	}
	c.mu.Lock()
	if r.planned {
		delete(c.readers, r)
		c.revoke(r)
		c.giveUpUnwanted()
	}
	c.release()
	return nil
}
