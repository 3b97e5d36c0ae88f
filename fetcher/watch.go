package fetcher

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	parkAfter = time.Second      // without a byte, before a request loses its slot
	stallMin  = 10 * time.Second // without a byte, before a request is abandoned
	stallMax  = 20 * time.Second // the same, when earlier ones of it were abandoned
)

// watch looks after a request that may fall silent.
type watch struct {
	ticket *ticket
	cancel context.CancelCauseFunc
	stall  time.Duration
	begin  time.Time
	last   atomic.Int64 // time of the last byte, since begin
	parked atomic.Bool
	held   atomic.Bool // the host itself holds the request back
	over   atomic.Bool
	timer  atomic.Pointer[time.Timer]
}

// startWatch parks t after a moment of silence and cancels the request after
// stall. The caller stops it.
func startWatch(t *ticket, stall time.Duration, cancel context.CancelCauseFunc) *watch {
	w := &watch{ticket: t, cancel: cancel, stall: stall, begin: time.Now()}
	timer := time.AfterFunc(time.Hour, w.tick)
	w.timer.Store(timer)
	timer.Reset(parkAfter)
	return w
}

// touch notes that bytes have come.
func (w *watch) touch() {
	if c := w.ticket.c; c.silent.Load() {
		c.silent.Store(false)
	}
	w.excuse()
}

// excuse notes that the silence until now was not the source's.
func (w *watch) excuse() {
	w.last.Store(int64(time.Since(w.begin)))
	if w.parked.CompareAndSwap(true, false) {
		w.ticket.unpark()
	}
}

func (w *watch) tick() {
	if w.over.Load() {
		return
	}
	if w.held.Load() {
		w.excuse()
	}
	silent := time.Since(w.begin) - time.Duration(w.last.Load())
	switch {
	case silent >= w.stall:
		w.cancel(errStalled)
	case silent >= parkAfter:
		w.parked.Store(true)
		w.ticket.c.silent.Store(true)
		w.ticket.park()
		w.timer.Load().Reset(w.stall - silent)
	default:
		w.timer.Load().Reset(parkAfter - silent)
	}
}

// hold says whether the host itself holds the request back from now on.
func (w *watch) hold(held bool) {
	w.held.Store(held)
	w.excuse()
}

func (w *watch) stop() {
	w.over.Store(true)
	w.timer.Load().Stop()
}
