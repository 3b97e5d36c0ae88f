package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

const (
	yieldStep = time.Second // how long a background request stands back per block at most
	bufSize   = 128 << 10

	maxRenewals = 2 // of a token, for one fetch
)

var buffers = sync.Pool{New: func() any { return new([bufSize]byte) }}

// fetch brings the bytes [pos, end) of a blob. Its goroutine alone changes pos
// once the request is sent.
type fetch struct {
	c      *content
	only   only
	ctx    context.Context // the fetch's own life
	cancel context.CancelCauseFunc
	kick   chan struct{} // the priority was raised
	done   chan struct{} // closed when it has ended

	// guarded by c.mu
	pos, end int64
	prio     Priority
	ticket   *ticket                 // of the attempt under way
	sent     bool                    // a request is under way; else it may still grow
	opened   bool                    // … and answered
	began    time.Time               // when the request was sent
	got      int64                   // bytes it brought
	trouble  time.Time               // since when nothing comes; zero: all is well
	failed   error                   // why the last attempt ended
	place    place                   // asked last
	stretch  *stretch                // what the attempt under way brought
	grace    *time.Timer             // ends the fetch if nobody wants it then
	revoked  bool                    // without that
	hurry    context.CancelCauseFunc // ends the wait for a limit; nil: it does not wait
	pacing   pacing
}

// raise gives f priority p if that is higher. The caller holds c.mu.
func (f *fetch) raise(p Priority) {
	if p >= f.prio {
		return
	}
	f.prio = p
	if f.ticket != nil {
		f.ticket.raise(p)
	}
	if f.hurry != nil {
		f.hurry(errRaised)
	}
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// takes estimates how long the next n bytes take. The caller holds c.mu.
func (f *fetch) takes(n int64) time.Duration {
	if f.got < 64<<10 {
		return time.Hour // no idea yet
	}
	return time.Duration(float64(time.Since(f.began)) / float64(f.got) * float64(n))
}

func (f *fetch) run() {
	defer close(f.done)
	err := f.bring()
	c := f.c
	if err != nil {
		c.f.log.Debug("fetch ended", "blob", c.digest, "err", err)
	}
	f.cancel(nil)
	c.mu.Lock()
	if f.grace != nil {
		f.grace.Stop()
	}
	c.remove(f)
	for w := range c.waiters {
		if f.pos <= w.pos && w.pos < f.end && c.covering(w.pos) == nil {
			// Who may ask the origin is not stopped by one who may not.
			if w.peers == f.only.peers && !errors.Is(err, errShared) && !errors.Is(err, errAlone) {
				w.err = err
			}
			c.wake(w)
		}
	}
	c.release()
}

// covering returns a fetch that will bring the byte at pos. The caller holds
// c.mu.
func (c *content) covering(pos int64) *fetch {
	i := slices.IndexFunc(c.fetches, func(f *fetch) bool { return f.pos <= pos && pos < f.end })
	if i < 0 {
		return nil
	}
	return c.fetches[i]
}

// bring asks one place after the other, and again after a pause, until all
// bytes have come, nobody wants them, or no place has them.
func (f *fetch) bring() error {
	var tries tries
	renewals := 0
	if n := f.c.f.network; n != nil && !f.only.origin {
		n.await(f.ctx, f.c)
	}
	for {
		p, ready, err := tries.next(f)
		if err != nil {
			return err
		}
		if d := time.Until(ready); d > 0 {
			if err := f.sleep(d); err != nil {
				return err
			}
			continue
		}
		began := time.Now()
		got, err := f.attempt(p, tries.stall(p))
		if err == nil && f.more() || errors.Is(err, errOutpaced) {
			continue
		}
		if errors.Is(err, origin.ErrUnauthorized) && renewals < maxRenewals && f.renewed(began) {
			renewals++
			continue
		}
		if err == nil || f.ctx.Err() != nil || errors.Is(err, errShared) || errors.Is(err, ErrFull) {
			return err
		}
		tries.note(f, p, got, err)
		if f.unwanted() {
			return errAlone
		}
	}
}

// renewed reports whether a read for another host may be tried again with a new token.
func (f *fetch) renewed(began time.Time) bool {
	return f.only.hops > 0 && f.c.f.network != nil && f.c.f.network.renewed(f.ctx, f.c, began)
}

// more reports whether bytes are still to come: those of another place than the
// last.
func (f *fetch) more() bool {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	return f.pos < f.end
}

// places returns where the byte at pos may be had, the best first.
func (f *fetch) places(pos, end int64) []place {
	var all []place
	if !f.only.peers {
		all = f.c.places()
	}
	if n := f.c.f.network; n != nil && !f.only.origin {
		if peers, _ := n.nextRun(f.c, pos, end); peers {
			all = append([]place{f.c.f.peers()}, all...)
		}
	}
	return all
}

// sleep waits for d, or less if the priority is raised meanwhile.
func (f *fetch) sleep(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.kick:
	case <-f.ctx.Done():
		return context.Cause(f.ctx)
	}
	return nil
}

func (f *fetch) unwanted() bool {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	if f.c.wanted(f) {
		return false
	}
	f.c.remove(f)
	return true
}

// attempt makes one request for what is still to come. It returns how many
// bytes came; err is nil when all have.
func (f *fetch) attempt(p place, stall time.Duration) (got int64, err error) {
	c := f.c
	t := f.queue(c.f.host(p.repo.Host))
	defer f.unqueue(t)
	if err := t.wait(f.ctx); err != nil {
		return 0, err
	}
	off, n, err := f.send(p)
	if err != nil || n == 0 {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(f.ctx)
	w := startWatch(t, stall, cancel)
	f.paced(cancel)
	err = f.receive(ctx, w, Ref{Digest: c.digest, Size: c.size, Repo: p.repo}, off, n)
	w.stop()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	c.f.metrics.requests.WithLabelValues(c.f.source(p).Name(), result(err)).Inc()
	return f.settle(err), err
}

// queue asks for a slot.
func (f *fetch) queue(l *limiter) *ticket {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.ticket = l.enter(f.c, f.prio)
	return f.ticket
}

func (f *fetch) unqueue(t *ticket) {
	f.c.mu.Lock()
	f.ticket = nil
	f.c.mu.Unlock()
	t.leave()
}

// send fixes the range of the request: what of [pos, end) did not come by
// other requests meanwhile.
func (f *fetch) send(p place) (off, n int64, err error) {
	c := f.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.ctx.Err() != nil { // given up while it got its slot
		return 0, 0, context.Cause(f.ctx)
	}
	gaps := c.missing(f.pos, f.end)
	if len(gaps) == 0 {
		f.pos = f.end
		return f.pos, 0, nil
	}
	f.pos = gaps[0].Off
	if f != c.stream {
		f.end = gaps[len(gaps)-1].End()
	}
	f.sent, f.opened, f.place, f.stretch, f.got, f.began = true, false, p, nil, 0, time.Now()
	if f.trouble.IsZero() {
		f.trouble = f.began
	}
	c.stats.Requests++
	n = f.end - f.pos
	if network := c.f.network; network != nil && !f.only.origin && f != c.stream {
		_, n = network.nextRun(c, f.pos, f.end) // behind it another place may be better
	}
	return f.pos, n, nil
}

// settle notes that the request ended and returns how many bytes it brought.
func (f *fetch) settle(err error) int64 {
	c := f.c
	c.mu.Lock()
	defer c.mu.Unlock()
	f.sent, f.opened, f.failed, f.pacing.end = false, false, err, nil
	if f.trouble.IsZero() {
		f.trouble = time.Now()
	}
	return f.got
}

// receive asks for n bytes from off on and takes in what comes.
func (f *fetch) receive(ctx context.Context, w *watch, ref Ref, off, n int64) error {
	c := f.c
	source := c.f.source(f.place)
	prepared := f.prepare()
	body, err := f.ask(ctx, source, ref, off, n)
	<-prepared
	if err != nil {
		return err
	}
	shut := sync.OnceFunc(func() { _ = body.Close() }) // nothing depends on how it closes
	defer shut()
	defer context.AfterFunc(ctx, shut)() // a Read may hang
	if body.Size >= 0 && body.Size != c.size {
		if c.f.network != nil {
			c.f.network.disown(c)
		}
		return fmt.Errorf("%w: %d, not %d", ErrSize, body.Size, c.size)
	}
	if err := f.begin(off, body.Off); err != nil {
		return err
	}
	c.answered(ref.Repo)
	w.touch()
	buf := buffers.Get().(*[bufSize]byte)
	defer buffers.Put(buf)
	for end := off + n; ; {
		f.yield(w)
		n, err := body.Read(buf[:])
		if n > 0 {
			w.touch()
			if err := f.limit(ctx, w, n); err != nil {
				return err
			}
			if done, err := f.put(buf[:n]); done || err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) && f.pos >= end:
			return nil
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
}

// prepare has the store make the blob's files while the source is asked: who reads first
// waits for both.
func (f *fetch) prepare() (done <-chan struct{}) {
	prepared := make(chan struct{})
	if f.c.stored.Held() > 0 { // they are there
		close(prepared)
		return prepared
	}
	go func() {
		defer close(prepared)
		f.c.stored.Prepare()
	}()
	return prepared
}

// begin takes in where the body really starts. A source that ignores ranges
// sends the blob from its start: all of it is stored on the way, and other
// requests of the blob are joined to this one.
func (f *fetch) begin(asked, off int64) error {
	c := f.c
	c.mu.Lock()
	defer c.mu.Unlock()
	f.opened = true
	if off > asked || off < 0 {
		return fmt.Errorf("%w: asked for bytes from %d on, got them from %d on", origin.ErrResponse, asked, off)
	}
	if off == asked {
		if asked > 0 {
			c.unranged = false
		}
		return nil
	}
	c.unranged = true
	if s := c.stream; s != nil && s != f && s.opened && s.pos <= f.pos {
		c.remove(f)
		return errShared
	}
	f.pos = off
	if c.stream == nil || !c.stream.opened {
		c.stream = f
	}
	if c.stream != f {
		return nil // the stream has passed what this one is for
	}
	f.end = c.size
	for _, g := range slices.Clone(c.fetches) {
		if g != f && !g.opened && g.pos >= f.pos {
			g.cancel(errShared)
			c.remove(g)
		}
	}
	return nil
}

// put stores bytes and hands them out; done says that they were the last ones.
// What the disk has no room for goes through memory, but not in the background.
func (f *fetch) put(p []byte) (done bool, err error) {
	c := f.c
	pos, n, prio := c.arriving(f, len(p))
	p = p[:n]
	var data []byte
	if _, err := c.stored.Fill(p, pos); err != nil {
		if prio == Background {
			return false, fmt.Errorf("%w: %w", ErrFull, err) // whatever the reason, it cannot be kept
		}
		c.f.log.Debug("bytes not kept", "blob", c.digest, "err", err)
		data = slices.Clone(p)
		c.f.memory.put(block{c, pos, data})
	}
	c.f.metrics.bytes.WithLabelValues(c.f.source(f.place).Name()).Add(float64(n))
	c.arrived(f, n, data)
	return f.pos == f.end, nil
}

// yield lets on-demand reads have the line for themselves.
func (f *fetch) yield(w *watch) {
	f.c.mu.Lock()
	prio := f.prio
	f.c.mu.Unlock()
	if prio != Background {
		return
	}
	if f.c.f.standBack(f.ctx, f.kick) {
		w.excuse()
	}
}

var errRaised = errors.New("the priority was raised")

// limit waits until what came may have come: anew, if its priority is raised.
func (f *fetch) limit(ctx context.Context, w *watch, n int) error {
	if c := f.c.f.cfg; c.Download == nil && c.Origin == nil {
		return nil
	}
	w.hold(true)
	defer w.hold(false)
	for {
		ctx, cancel := context.WithCancelCause(ctx)
		f.c.mu.Lock()
		prio := f.prio
		f.trouble = time.Time{} // the source has given the bytes
		f.hurry = cancel
		f.c.mu.Unlock()
		err := f.c.f.limit(ctx, f.place == f.c.f.peers(), n, prio)
		f.c.mu.Lock()
		f.hurry = nil
		f.c.mu.Unlock()
		cancel(nil)
		if !errors.Is(err, errRaised) {
			return err
		}
	}
}

// ask asks a source for a range.
func (f *fetch) ask(ctx context.Context, source Source, ref Ref, off, n int64) (*Body, error) {
	if f.place != f.c.f.peers() {
		return source.Open(ctx, ref, off, n)
	}
	f.c.mu.Lock()
	prio := f.prio
	f.c.mu.Unlock()
	return f.c.f.network.ask(ctx, ref, off, n, prio, f.only.hops)
}
