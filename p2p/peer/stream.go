package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// Plan is a range of a blob and whom to ask for it.
type Plan struct {
	Blob     p2p.Blob
	Off, N   int64
	Sources  []swarm.Source // best first; each is asked once
	Priority p2p.Priority
	Hops     int // of the request that this one serves, and one more; 0: it serves none
	// Hedge is how long the first byte may take before the next source is asked
	// as well, and the faster one taken; 0: the next is asked only when one fails.
	Hedge time.Duration
	// Origin asks the source that is the origin. The body may be shorter than n.
	// An *Error says how it failed; anything else is taken for Unreachable.
	// nil: the origin is left out.
	Origin func(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

// Part is what one source sent of a range. Took is all the time until the last byte.
type Part struct {
	p2p.Transfer
	Off        int64         // of the first byte
	First      time.Duration // until the first byte came
	RetryAfter time.Duration
}

var errSlower = errors.New("another source was faster")

// Stream is a range as it comes from one source after the other: where one
// fails, the next goes on. It is for one reader.
type Stream struct {
	c      *Client
	plan   Plan
	pos    int64
	rest   []swarm.Source // not asked yet
	cur    *attempt       // whose bytes are being read
	part   Part           // of cur
	began  time.Time      // when cur was asked
	race   *race          // the last one
	parts  []Part
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

// Range begins to read a range. Nothing is asked before the first Read. The
// Stream must be closed.
func (c *Client) Range(ctx context.Context, p Plan) *Stream {
	s := &Stream{c: c, plan: p, pos: p.Off}
	for _, source := range p.Sources {
		if !source.Origin() || p.Origin != nil {
			s.rest = append(s.rest, source)
		}
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s
}

// Parts returns who sent what so far, failures included. A source that was
// merely slower than another is left out. Not to be called while Read runs.
func (s *Stream) Parts() []Part {
	if s.cur == nil {
		return s.parts
	}
	return append(s.parts[:len(s.parts):len(s.parts)], s.part)
}

// Read reads what comes next; io.EOF after the range. Any other error says
// that no source is left, and joins why each of the last ones failed.
func (s *Stream) Read(p []byte) (int, error) {
	end := s.plan.Off + s.plan.N
	for s.pos < end {
		if s.cur == nil {
			if err := s.open(); err != nil {
				return 0, err
			}
		}
		n, err := s.cur.Read(p[:min(int64(len(p)), end-s.pos)])
		s.pos += int64(n)
		if n > 0 {
			s.part.Bytes, s.part.Took = s.part.Bytes+int64(n), time.Since(s.began)
		}
		if s.pos == end || err != nil {
			s.finish(err)
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if s.ctx.Err() != nil {
			return 0, context.Cause(s.ctx)
		}
	}
	return 0, io.EOF
}

// Close ends what is under way.
func (s *Stream) Close() error {
	s.finish(nil)
	s.cancel(ErrClosed)
	s.wg.Wait()
	if s.race != nil {
		s.race.drain()
	}
	return nil
}

// finish ends the current attempt, whose source ended with err.
func (s *Stream) finish(err error) {
	if s.cur == nil {
		return
	}
	_ = s.cur.close() // it was only read
	s.cur = nil
	s.note(s.part, err)
}

// note records what a source has sent, and how it failed if it did.
func (s *Stream) note(p Part, err error) {
	var e *Error
	if errors.As(err, &e) {
		p.Failed, p.RetryAfter = e.Failure, e.RetryAfter
	}
	if e != nil || p.Bytes > 0 {
		s.parts = append(s.parts, p)
	}
}

// open finds a source that sends the byte at s.pos.
func (s *Stream) open() error {
	s.race = &race{results: make(chan *attempt, len(s.rest))}
	var errs []error
	var running []*attempt
	late := time.NewTimer(max(s.plan.Hedge, 0))
	defer late.Stop()
	for {
		if len(running) == 0 {
			if len(s.rest) == 0 {
				return fmt.Errorf("read %s at %d: no source is left: %w", s.plan.Blob.Digest, s.pos, errors.Join(append(errs, ErrNotFound)...))
			}
			running = append(running, s.start(s.race, false))
			late.Reset(s.plan.Hedge)
		}
		select {
		case a := <-s.race.results:
			running = without(running, a)
			if a.err == nil {
				s.take(a, running)
				return nil
			}
			errs = append(errs, a.err)
			s.note(s.partOf(a), a.err)
		case <-late.C:
			if s.plan.Hedge > 0 && len(s.rest) > 0 {
				running = append(running, s.start(s.race, true))
			}
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// take makes a the current attempt and ends the slower ones.
func (s *Stream) take(a *attempt, slower []*attempt) {
	s.cur, s.part, s.began = a, s.partOf(a), time.Now().Add(-a.first)
	for _, o := range slower {
		o.cancel(errSlower)
		s.rest = append(s.rest, o.source) // it may still serve when a fails
	}
	if a.hedge || len(slower) > 0 {
		won := "no"
		if a.hedge {
			won = "yes"
		}
		s.c.metrics.hedges.WithLabelValues(won).Inc()
	}
}

func (s *Stream) partOf(a *attempt) Part {
	return Part{Transfer: p2p.Transfer{Parent: a.source.Peer.ID}, Off: s.pos, First: a.first}
}

func without(all []*attempt, a *attempt) []*attempt {
	kept := all[:0]
	for _, o := range all {
		if o != a {
			kept = append(kept, o)
		}
	}
	return kept
}

// race is attempts at the same byte, of which the first to have it wins.
type race struct {
	won     atomic.Bool
	results chan *attempt // losers that were not just slower, and the winner
}

// drain closes the body of a winner that nobody waited for. All attempts have
// ended.
func (r *race) drain() {
	for {
		select {
		case a := <-r.results:
			if a.err == nil {
				_ = a.close() // it was only read
			}
		default:
			return
		}
	}
}

// attempt is one source, asked for what is left of the range.
type attempt struct {
	source swarm.Source
	hedge  bool
	cancel context.CancelCauseFunc
	first  time.Duration // until the first byte, or the failure

	body  *Body
	front [512]byte
	have  []byte // of front, not read yet
	err   error
}

// start asks the next source.
func (s *Stream) start(r *race, hedge bool) *attempt {
	a := &attempt{source: s.rest[0], hedge: hedge}
	s.rest = s.rest[1:]
	ctx, cancel := context.WithCancelCause(s.ctx)
	a.cancel = cancel
	off := s.pos
	s.wg.Go(func() {
		began := time.Now()
		a.err = a.open(ctx, s, off)
		a.first = time.Since(began)
		won := a.err == nil && r.won.CompareAndSwap(false, true)
		if !won {
			cancel(ErrClosed)
			if a.body != nil {
				_ = a.body.Close()
			}
		}
		if won || a.err != nil {
			r.results <- a
		}
	})
	return a
}

// open asks the source and waits for the first byte.
func (a *attempt) open(ctx context.Context, s *Stream, off int64) (err error) {
	p := s.plan
	n := p.Off + p.N - off
	if a.source.Origin() {
		a.body, err = s.c.origin(ctx, p.Origin, off, n)
	} else {
		ask := Ask{Priority: p.Priority, Through: a.source.Through, Hops: p.Hops}
		a.body, err = s.c.Get(ctx, a.source.Peer, p.Blob, off, n, ask)
	}
	if err != nil {
		return err
	}
	got, err := a.body.Read(a.front[:])
	a.have = a.front[:got]
	if got > 0 {
		return nil
	}
	return err
}

// Read reads the source's bytes; nil, 0 and io.EOF alike mean that the next
// one goes on.
func (a *attempt) Read(p []byte) (int, error) {
	if len(a.have) > 0 {
		n := copy(p, a.have)
		a.have = a.have[n:]
		return n, nil
	}
	return a.body.Read(p)
}

func (a *attempt) close() error {
	err := a.body.Close()
	a.cancel(ErrClosed)
	return err
}
