package fetcher

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

const (
	originRun   = 4 << 20          // bytes of pieces in one request to the origin
	originStall = 20 * time.Second // without a piece of the origin, before others may try
	pieceStep   = 256 << 10        // read between two looks at the limits
	usualPiece  = 1 << 20
	sumAttempts = 3 // times a piece is read until all its bytes are the origin's own
)

var errMixed = errors.New("bytes of peers among those of the origin")

var pieces = sync.Pool{New: func() any { return new([usualPiece]byte) }}

// getBuffer returns a buffer for a piece, to be given back by putBuffer.
func getBuffer(n int64) []byte {
	if n > usualPiece {
		return make([]byte, n)
	}
	return pieces.Get().(*[usualPiece]byte)[:n]
}

func putBuffer(b []byte) {
	if cap(b) == usualPiece {
		pieces.Put((*[usualPiece]byte)(b[:usualPiece]))
	}
}

// fromPeer brings pieces from a peer.
func (s *share) fromPeer(ctx context.Context, a swarm.Request) {
	n := s.n
	err := s.receive(ctx, a)
	if err == nil || ctx.Err() != nil {
		return
	}
	n.log.Debug("pieces of a peer did not come", "blob", a.Blob.Digest, "peer", a.Peer.ID, "first", a.First, "last", a.Last, "err", err)
	n.tell(func(h *swarm.Host, now time.Time) []swarm.Action { return h.Failed(now, a.ID, failure(err)) })
}

// receive takes in what a peer sends. One piece may still be on its way to the
// disk while the next one comes.
func (s *share) receive(ctx context.Context, a swarm.Request) error {
	first, _ := a.Blob.Piece(a.First)
	last, size := a.Blob.Piece(a.Last)
	body, err := s.n.client.Get(ctx, a.Peer, a.Blob, first, last+size-first, peer.Ask{Priority: a.Priority, Through: a.Through, Wait: a.Wait})
	if err != nil {
		return err
	}
	defer body.Close()
	var before *landing
	for i := a.First; i <= a.Last; i++ {
		_, size := a.Blob.Piece(i)
		data := getBuffer(size)
		began := time.Now()
		if err := s.n.fill(ctx, body, data, a.Priority); err != nil {
			putBuffer(data)
			return errors.Join(err, before.wait(ctx))
		}
		took := time.Since(began)
		s.count(size)
		l := newLanding(data, sha256.Sum256(data))
		if err := before.wait(ctx); err != nil {
			return err
		}
		before = l
		if !s.land(a, i, l, took) {
			break
		}
	}
	return before.wait(ctx)
}

// wait returns when the disk has the piece, and gives its buffer back.
func (l *landing) wait(ctx context.Context) error {
	if l == nil {
		return nil
	}
	select {
	case <-l.done:
		putBuffer(l.buf)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx) // the buffer may be in use
	}
}

// fill reads a piece as fast as the limits allow, behind those who wait.
func (n *network) fill(ctx context.Context, r io.Reader, data []byte, p Priority) error {
	for len(data) > 0 {
		step := data[:min(len(data), pieceStep)]
		if err := n.f.limit(ctx, true, len(step), p); err != nil {
			return err
		}
		m, err := io.ReadFull(r, step)
		data = data[m:]
		if err != nil {
			return err
		}
		if p == Background {
			_ = n.f.standBack(ctx, nil)
		}
	}
	return nil
}

// count accounts for bytes of a peer.
func (s *share) count(n int64) {
	s.n.f.metrics.bytes.WithLabelValues("peer").Add(float64(n))
	if c := s.n.f.opened(s.blob.Digest); c != nil {
		c.mu.Lock()
		c.stats.Fetched["peer"] += n
		c.mu.Unlock()
	}
}

// failure is how the network calls err.
func failure(err error) p2p.Failure {
	var e *peer.Error
	var down *origin.UnavailableError
	switch {
	case errors.As(err, &e):
		return e.Failure
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, origin.ErrNotFound), errors.Is(err, origin.ErrChanged):
		return p2p.Missing
	case errors.Is(err, origin.ErrUnauthorized):
		return p2p.Refused
	case errors.As(err, &down) && down.RetryAfter > 0:
		return p2p.Busy
	case errors.Is(err, errStalled):
		return p2p.Stalled
	}
	return p2p.Unreachable
}

// fromOrigin brings pieces from the origin: by an ordinary read, so that what
// is there already, or under way, is not asked for again.
func (s *share) fromOrigin(ctx context.Context, a swarm.Origin) {
	n := s.n
	n.mu.Lock()
	if s.origin.Registry == "" {
		s.origin = a.Origin
	}
	for i := a.First; i <= a.Last; i++ {
		s.adding[i] = true
	}
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		for i := a.First; i <= a.Last; i++ {
			delete(s.adding, i)
		}
		n.mu.Unlock()
		if c := n.f.opened(a.Blob.Digest); c != nil { // what came although nobody waited for all of it
			first, _ := a.Blob.Piece(a.First)
			last, size := a.Blob.Piece(a.Last)
			n.inspect(c, first, last+size)
		}
	}()
	err := s.fetch(ctx, a)
	if err == nil || ctx.Err() != nil {
		return
	}
	n.log.Debug("pieces of the origin did not come", "blob", a.Blob.Digest, "first", a.First, "last", a.Last, "err", err)
	if c := n.f.opened(a.Blob.Digest); c != nil && errors.Is(err, ErrFull) {
		s.unkept(c, a.First, err)
		return
	}
	n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
		s.trouble = err
		return h.Failed(now, a.ID, failure(err))
	})
	if final(err) {
		n.hopeless(s, err)
	}
}

// hopeless fails the readers of a blob that the origin does not give, unless
// peers may.
func (n *network) hopeless(s *share, err error) {
	c := n.f.opened(s.blob.Digest)
	if c == nil {
		return
	}
	if peers, _ := n.nextRun(c, 0, c.size); peers {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiters {
		if c.covering(w.pos) == nil {
			w.err = err
			c.wake(w)
		}
	}
}

// fetch reads pieces of the origin one after the other and tells the host.
func (s *share) fetch(ctx context.Context, a swarm.Origin) error {
	b, err := s.n.open(a.Blob, a.Origin)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := s.clear(ctx, a.First, a.Last); err != nil {
		return err
	}
	for i, tries := a.First, 0; i <= a.Last; {
		next, err := s.stream(ctx, b, a, i)
		switch {
		case err != nil:
			return err
		case next < 0:
			return nil
		case next > i:
			tries = 0
		}
		if tries++; tries > sumAttempts {
			return errMixed
		}
		i = next
	}
	return nil
}

// stream reads pieces from i on until all have come, or one that is not wholly
// the origin's and that nobody knows to be right: the rest of that is to be read
// again. A negative result says that nobody wants what is left.
func (s *share) stream(ctx context.Context, b *Blob, a swarm.Origin, i int) (next int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(originStall, func() { cancel(errStalled) })
	defer stall.Stop()
	first, _ := a.Blob.Piece(i)
	last, size := a.Blob.Piece(a.Last)
	r, err := b.reader(ctx, first, last+size-first, a.Priority, only{origin: true})
	if err != nil {
		return i, err
	}
	defer r.Close()
	for ; i <= a.Last; i++ {
		off, size := a.Blob.Piece(i)
		data := getBuffer(size)
		began := time.Now()
		_, err := io.ReadFull(r, data)
		sum := sha256.Sum256(data)
		tiny := data
		if a.Blob.Scope() != p2p.Tiny {
			putBuffer(data)
			tiny = nil
		}
		if err != nil {
			return i, stalled(ctx, err)
		}
		stall.Reset(originStall)
		if b.c.stored.Present(off, size) < size {
			return i, fmt.Errorf("piece %d: %w", i, ErrFull) // it came past the disk
		}
		if others := b.c.foreign(off, size); len(others) > 0 && !s.vouched(i, sum) {
			for _, o := range others {
				if err := b.c.erase(o.Off, o.Len); err != nil {
					return i, err
				}
			}
			return i, nil
		}
		if !s.arrived(a.ID, i, sum, time.Since(began), tiny) {
			return -1, nil
		}
	}
	return i, nil
}

// vouched has a piece stored that has the sum which the scheduler told.
func (s *share) vouched(i int, sum p2p.Sum) bool {
	n := s.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if known, ok := n.host.Sum(s.blob.Digest, i); !ok || known != sum {
		return false
	}
	n.do(n.host.Filled(time.Now(), s.blob.Digest, i, sum, false))
	return true
}

func stalled(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("origin: %w", cause)
	}
	return err
}

// arrived tells the host of a piece whose bytes are in the store.
func (s *share) arrived(id uint64, i int, sum p2p.Sum, took time.Duration, tiny []byte) bool {
	n := s.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running[id] == nil {
		return false
	}
	delete(s.adding, i)
	s.moved, s.trouble = time.Now(), nil
	if l := s.landed[i]; l != nil { // of a peer; the origin's counts
		l.close()
		delete(s.landed, i)
	}
	n.do(n.host.Piece(s.moved, id, i, sum, took))
	if tiny != nil {
		n.do(n.host.Content(s.moved, s.blob.Digest, tiny))
	}
	return true
}
