package fetcher

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// landing is a piece that has arrived.
type landing struct {
	sum  p2p.Sum
	buf  []byte        // that whoever brought it lent
	done chan struct{} // closed when buf is not used any more

	// guarded by network.mu
	data  []byte // nil: it is in the file of held pieces
	inUse bool   // by settle
}

func newLanding(data []byte, sum p2p.Sum) *landing {
	return &landing{sum: sum, buf: data, data: data, done: make(chan struct{})}
}

// close gives buf back, as soon as nobody uses it. The caller holds n.mu.
func (l *landing) close() {
	if l.inUse {
		return
	}
	select {
	case <-l.done:
	default:
		close(l.done)
	}
}

// land hands a piece that arrived to the host. It reports whether the request
// goes on.
func (s *share) land(a swarm.Request, i int, l *landing, took time.Duration) bool {
	n := s.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running[a.ID] == nil {
		l.close()
		return false
	}
	s.moved = time.Now()
	actions := n.host.Piece(s.moved, a.ID, i, l.sum, took)
	drop := slices.Index(actions, swarm.Action(swarm.Drop{Digest: s.blob.Digest, Piece: i}))
	switch {
	case slices.Contains(actions, swarm.Action(swarm.Ignore{ID: a.ID, Piece: i})):
		l.close()
	case drop >= 0: // nothing of it is in the store
		l.close()
		actions = slices.Delete(actions, drop, drop+1)
		n.metrics.pieces.WithLabelValues("refused").Inc()
		n.log.Warn("a peer gave a wrong piece", "blob", s.blob.Digest, "piece", i, "peer", a.Peer.ID)
	default:
		if old := s.landed[i]; old != nil {
			old.close()
		}
		s.landed[i] = l
		s.soil(i)
	}
	n.do(actions)
	return true
}

// refuse notes that a piece that is held or stored is wrong. The caller holds
// n.mu.
func (s *share) refuse(i int) {
	if l := s.landed[i]; l != nil {
		l.close()
		delete(s.landed, i)
	}
	s.n.metrics.pieces.WithLabelValues("refused").Inc()
	s.keep.Remove(i)
	s.refused[i] = true
	s.soil(i)
}

// soil has a piece looked at. The caller holds n.mu.
func (s *share) soil(i int) {
	s.dirty = append(s.dirty, i)
	if s.busy {
		return
	}
	s.busy, s.idle = true, make(chan struct{})
	if !s.n.f.start(s.settle) {
		s.busy = false
		close(s.idle)
	}
}

// settle makes the store agree with what was decided.
func (s *share) settle() {
	b, err := s.n.open(s.blob, s.n.repoOf(s))
	if err == nil {
		defer b.Close()
	}
	for {
		s.n.mu.Lock()
		if len(s.dirty) == 0 || err != nil || s.n.f.ctx.Err() != nil {
			s.busy, s.dirty = false, nil
			close(s.idle)
			s.closeHeld()
			if err != nil {
				s.n.log.Error("pieces not kept", "blob", s.blob.Digest, "err", err)
				s.n.forget(s)
			}
			s.n.mu.Unlock()
			return
		}
		i := s.dirty[0]
		s.dirty = s.dirty[1:]
		l, keep, have, refused := s.landed[i], s.keep.Has(i), s.have.Has(i), s.refused[i]
		if refused {
			s.refused[i] = false
		}
		if refused && have {
			s.have.Remove(i)
			s.notify()
		}
		if l != nil {
			l.inUse = true
		}
		s.n.mu.Unlock()
		if refused {
			s.discard(b.c, i)
			s.discarded(i)
		}
		switch {
		case l != nil && keep:
			s.put(b.c, i, l)
		case l != nil:
			s.hold(b.c, i, l)
		case l == nil && keep && (!have || refused):
			s.show(b.c, i)
		}
	}
}

// discarded says that a piece that was refused is out of the store, unless it was refused
// once more.
func (s *share) discarded(i int) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	if !s.refused[i] {
		delete(s.refused, i)
		s.notify()
	}
}

// clear waits until those of pieces first to last that were refused are out of the store.
func (s *share) clear(ctx context.Context, first, last int) error {
	for {
		s.n.mu.Lock()
		waits, changed := false, s.changed
		for i := first; i <= last; i++ {
			_, refused := s.refused[i]
			waits = waits || refused
		}
		s.n.mu.Unlock()
		if !waits {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *share) discard(c *content, i int) {
	off, n := s.blob.Piece(i)
	if err := c.erase(off, n); err != nil {
		s.n.log.Warn("wrong piece not discarded", "blob", s.blob.Digest, "piece", i, "err", err)
	}
}

// put stores a piece that is right.
func (s *share) put(c *content, i int, l *landing) {
	off, size := s.blob.Piece(i)
	data, err := s.bytes(off, size, l)
	if err == nil {
		err = c.adopt(off, data)
	}
	s.n.mu.Lock()
	if s.landed[i] == l {
		delete(s.landed, i)
	}
	if err == nil && s.keep.Has(i) && s.have.Add(i) {
		s.n.metrics.pieces.WithLabelValues("kept").Inc()
		s.notify()
	}
	s.n.mu.Unlock()
	if err != nil {
		c.came(off, int64(len(data)), slices.Clone(data)) // whoever waits need not wait for it again
		s.unkept(c, i, err)
	} else {
		c.came(off, size, nil)
	}
	s.n.mu.Lock()
	l.inUse = false
	l.close()
	s.n.mu.Unlock()
}

// bytes returns those of a piece that has landed, in memory or in the file of
// held ones; none with an error.
func (s *share) bytes(off, size int64, l *landing) ([]byte, error) {
	if l.data != nil {
		return l.data, nil
	}
	data := make([]byte, size)
	if _, err := s.held.ReadAt(data, off); err != nil {
		return nil, err
	}
	return data, nil
}

// closeHeld gives the room of held pieces back if there are none. The caller
// holds n.mu.
func (s *share) closeHeld() {
	if s.held == nil || s.busy || len(s.landed) > 0 && s.n.f.ctx.Err() == nil {
		return
	}
	if err := s.held.Close(); err != nil {
		s.n.log.Debug("file of held pieces not closed", "blob", s.blob.Digest, "err", err)
	}
	s.held = nil
}

// unkept leaves the swarm, because the disk does not take a piece: there is no
// other way to take back that it is here, and that this host fetches some for
// others. Who reads the blob gets it from the origin.
func (s *share) unkept(c *content, i int, err error) {
	s.n.log.Debug("piece not kept", "blob", s.blob.Digest, "piece", i, "err", err)
	s.n.metrics.pieces.WithLabelValues("unkept").Inc()
	s.n.mu.Lock()
	s.n.forget(s)
	s.n.mu.Unlock()
	c.replan()
}

// hold keeps a piece that cannot be judged where no reader sees it.
func (s *share) hold(c *content, i int, l *landing) {
	off, _ := s.blob.Piece(i)
	var err error
	if l.data != nil {
		if s.held == nil {
			s.held, err = unnamed(s.n.f.cfg.Dir)
		}
		if err == nil {
			_, err = s.held.WriteAt(l.data, off)
		}
	}
	if err != nil {
		s.unkept(c, i, err)
	}
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	l.inUse, l.data = false, nil
	l.close()
}

// unnamed makes a file that goes away with its last user.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "held")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// show gives others a piece whose bytes are in the store already.
func (s *share) show(c *content, i int) {
	off, size := s.blob.Piece(i)
	if c.stored.Present(off, size) < size {
		s.unkept(c, i, store.ErrMissing)
		return
	}
	s.n.mu.Lock()
	if s.keep.Has(i) && s.have.Add(i) {
		s.n.metrics.pieces.WithLabelValues("kept").Inc()
		s.notify()
	}
	s.n.mu.Unlock()
	c.wakeAt(off, size)
}

// take stores all of a tiny blob.
func (s *share) take(data []byte) {
	b, err := s.n.open(s.blob, s.n.repoOf(s))
	if err == nil {
		defer b.Close()
		err = b.c.adopt(0, data)
	}
	if err == nil {
		err = b.MarkVerified()
	}
	switch {
	case b == nil:
		s.n.log.Warn("tiny blob not kept", "blob", s.blob.Digest, "err", err)
	case err != nil:
		b.c.came(0, s.blob.Size, data)
		s.unkept(b.c, 0, err)
	default:
		s.n.mu.Lock()
		s.own()
		s.n.mu.Unlock()
		b.c.came(0, s.blob.Size, nil)
	}
}

// rest returns when settle has nothing to do.
func (s *share) rest() {
	for {
		s.n.mu.Lock()
		busy, idle := s.busy, s.idle
		s.n.mu.Unlock()
		if !busy {
			return
		}
		<-idle
	}
}

// adopt stores bytes that are known to be right, also in place of others that
// are there.
func (c *content) adopt(off int64, data []byte) error {
	const tries = 3
	for range tries {
		n, err := c.stored.Fill(data, off)
		if err != nil || n == int64(len(data)) {
			return err
		}
		if c.same(off, data) {
			return nil
		}
		if err := c.erase(off, int64(len(data))); err != nil {
			return err
		}
	}
	return fmt.Errorf("store %s at %d: %w", c.digest, off, store.ErrMissing)
}

// same reports whether these bytes are stored.
func (c *content) same(off int64, data []byte) bool {
	buf := buffers.Get().(*[bufSize]byte)
	defer buffers.Put(buf)
	for part := range slices.Chunk(data, bufSize) {
		there := buf[:len(part)]
		if _, err := c.stored.ReadAt(there, off); err != nil || !bytes.Equal(there, part) {
			return false
		}
		off += int64(len(part))
	}
	return true
}
