package fetcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

// tokenWithin is how long a registry may take to give a new token.
const tokenWithin = 20 * time.Second

// A share is what the network knows of one blob on this host: from the first
// time somebody here opens it, or a scheduler orders it, until it is evicted or
// closed half done.
//
// What the host decides of a piece is noted at once, under network.mu; one
// goroutine per share then makes the disk agree (settle).
type share struct {
	n    *network
	blob p2p.Blob

	// guarded by network.mu
	users   int   // handles of it that others than the network have
	ordered bool  // by a scheduler, to this seed
	pinned  *Blob // keeps what is known of the bytes of an ordered blob until all are here
	lazy    bool  // what was said in the last Want
	wanted  bool
	origin  p2p.Origin
	prio    Priority
	heard   bool
	answer  chan struct{} // closed when heard

	keep    *p2p.Have        // pieces the host decided to keep
	have    *p2p.Have        // those that are in the store, to be given
	changed chan struct{}    // closed when have changes
	landed  map[int]*landing // pieces that arrived and are not in the store
	refused map[int]bool     // pieces to take out of the store
	adding  map[int]bool     // pieces that are being hashed, or come from the origin
	found   []int            // pieces to hash, which reads have put together
	hashing bool             // hashFound runs
	dirty   []int            // pieces to look at
	busy    bool             // settle runs
	idle    chan struct{}    // closed when it ends
	moved   time.Time        // bytes came
	trouble error            // how the origin last failed
	gifts   []gift
	doubt   []store.Range // peers gave wrong bytes here: the origin's turn
	unsure  bool          // pieces that passed their sums were wrong

	held *os.File // pieces that nobody can judge yet; made and closed by settle, while it says so in landed
}

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

// gift is bytes that a peer gave for a read.
type gift struct {
	off, end int64
	peer     p2p.HostID
}

// share returns what is known of a blob, and begins to know it. The result is
// nil if somebody uses one of the same digest and another size: one of the two
// sizes is wrong, and who came first keeps the network. The caller holds n.mu.
func (n *network) share(b p2p.Blob) *share {
	s := n.shares[b.Digest]
	if s != nil && s.blob.Size != b.Size {
		if s.users > 0 || s.have.Full() {
			return nil
		}
		n.forget(s)
		s = nil
	}
	if s == nil {
		s = &share{
			n: n, blob: b, answer: make(chan struct{}), changed: make(chan struct{}), moved: time.Now(),
			keep: p2p.NewHave(b.Pieces()), have: p2p.NewHave(b.Pieces()),
			landed: map[int]*landing{}, refused: map[int]bool{}, adding: map[int]bool{},
		}
		n.shares[b.Digest] = s
	}
	return s
}

// own notes that all of the blob is here. The caller holds n.mu.
func (s *share) own() {
	s.unpin()
	s.keep, s.have = p2p.FullHave(s.blob.Pieces()), p2p.FullHave(s.blob.Pieces())
	s.notify()
}

func (s *share) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// join notes that somebody on this host has the blob open. It returns nil if the
// network has nothing to do with it.
func (n *network) join(c *content, r Ref) *share {
	b := p2p.Blob{Digest: r.Digest, Size: r.Size}
	if b.Validate() != nil || b.Scope() == p2p.Empty {
		return nil
	}
	verified := c.stored.Verified()
	where := p2p.Origin{Registry: r.Repo.Host, Repository: r.Repo.Path}
	if n.tokens != nil && !verified {
		where.Token = n.tokens.Token(r.Repo)
	}
	n.mu.Lock()
	s := n.share(b)
	if s == nil {
		n.mu.Unlock()
		n.log.Warn("blob not shared, others know it with another size", "blob", b.Digest, "size", b.Size)
		return nil
	}
	s.users++
	if r.Repo.Host != "" {
		s.origin = where
	}
	first := s.users == 1
	switch {
	case !first:
	case verified:
		s.present()
	case !s.wanted:
		s.wanted, s.lazy, s.prio = true, true, Prefetch
		n.do(n.host.Want(time.Now(), b, s.origin, true, p2p.Prefetch))
	}
	n.mu.Unlock()
	if first && !verified {
		n.inspect(c, 0, c.size)
	}
	return s
}

// present tells the host that all of the blob is here and right, if it does not
// know. The caller holds n.mu.
func (s *share) present() {
	if s.have.Full() {
		return
	}
	s.own()
	s.n.do(s.n.host.Present(time.Now(), s.blob, p2p.FullHave(s.blob.Pieces()), true))
}

// leave takes one user back. A blob that is whole is given on; half of one is
// of little use to others and to nobody here.
func (s *share) leave(c *content) {
	verified := c.stored.Verified()
	n := s.n
	n.mu.Lock()
	defer n.mu.Unlock()
	s.users--
	switch {
	case s.users > 0 || n.shares[c.digest] != s:
	case verified:
		s.present()
	case !s.have.Full() && !s.ordered:
		n.forget(s)
	}
}

// pin keeps the content of an ordered blob open.
func (s *share) pin() {
	b, err := s.n.open(s.blob, s.n.repoOf(s))
	if err != nil {
		s.n.log.Warn("an ordered blob cannot be kept", "blob", s.blob.Digest, "err", err)
		return
	}
	s.n.mu.Lock()
	if s.pinned == nil && s.n.shares[s.blob.Digest] == s && !s.have.Full() {
		s.pinned, b = b, nil
	}
	s.n.mu.Unlock()
	if b != nil {
		_ = b.Close() // it returns nil
	}
}

// unpin ends that. The caller holds n.mu.
func (s *share) unpin() {
	if b := s.pinned; b != nil {
		s.pinned = nil
		s.n.f.start(func() { _ = b.Close() })
	}
}

// forget leaves the swarm, unless that was done. What still runs for s finds
// nothing to do. The caller holds n.mu.
func (n *network) forget(s *share) {
	if n.shares[s.blob.Digest] != s {
		return
	}
	s.unpin()
	s.wanted = false
	n.f.start(func() {
		if c := n.f.opened(s.blob.Digest); c != nil {
			c.replan()
		}
	})
	n.do(n.host.Unwant(time.Now(), s.blob.Digest))
	delete(n.shares, s.blob.Digest)
	for _, l := range s.landed {
		l.close()
	}
	clear(s.landed)
	s.closeHeld()
	s.keep, s.have = p2p.NewHave(s.blob.Pieces()), p2p.NewHave(s.blob.Pieces())
	s.notify()
}

// evicted says that the store made room. The caller holds the store's locks.
func (n *network) evicted(d digest.Digest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.shares[d]; s != nil && s.users == 0 {
		n.forget(s)
	}
}

// whole wants all of the blob, not only what is read. The caller may hold
// content.mu.
func (n *network) whole(c *content, p Priority) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shares[c.digest]
	if s == nil || !s.wanted || s.unsure || s.have.Full() {
		return false
	}
	if s.lazy || p < s.prio {
		if s.lazy {
			s.moved = time.Now()
		}
		s.lazy, s.prio = false, p
		n.do(n.host.Want(time.Now(), s.blob, s.origin, false, p))
	}
	return true
}

// renew says the last want again, with a new token.
func (s *share) renew() {
	o := s.n.repoOf(s)
	if s.n.tokens != nil {
		ctx, cancel := context.WithTimeout(s.n.f.ctx, tokenWithin)
		defer cancel()
		var err error
		if o.Token, err = s.n.tokens.NewToken(ctx, repo(o), s.blob.Digest); err != nil {
			s.n.log.Debug("no new token to lend", "repo", repo(o).String(), "err", err)
		}
	}
	s.n.tell(func(h *swarm.Host, now time.Time) []swarm.Action {
		if !s.wanted {
			return nil
		}
		s.origin = o
		return h.Want(now, s.blob, s.origin, s.lazy, s.prio)
	})
}

// progress returns when pieces last came and how the origin last failed.
func (n *network) progress(c *content) (moved time.Time, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.shares[c.digest]; s != nil {
		return s.moved, s.trouble
	}
	return time.Time{}, nil
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
		delete(s.refused, i)
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

// reenter leaves the swarm and enters it again with what is here, to be read as
// it is needed. The caller holds n.mu.
func (s *share) reenter(h *swarm.Host, now time.Time) []swarm.Action {
	for _, l := range s.landed {
		l.close()
	}
	clear(s.landed)
	if !s.wanted {
		s.wanted, s.prio = true, Prefetch
	}
	s.keep, s.lazy = s.have.Clone(), true
	actions := h.Unwant(now, s.blob.Digest)
	actions = append(actions, h.Want(now, s.blob, s.origin, true, s.prio)...)
	if s.have.Count() > 0 {
		actions = append(actions, h.Present(now, s.blob, s.have.Clone(), false)...)
	}
	return actions
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

// match compares the digest of the whole blob, some of which may be held.
func (s *share) match() {
	ok, err := s.hash()
	for tries := 0; err != nil && tries < 3; tries++ { // a piece was taken away meanwhile
		s.n.log.Debug("blob not hashed", "blob", s.blob.Digest, "err", err)
		ok, err = s.hash()
	}
	s.n.tell(func(h *swarm.Host, now time.Time) []swarm.Action { return h.Matched(now, s.blob.Digest, ok) })
	if !ok {
		return
	}
	s.rest()
	s.n.mu.Lock()
	s.unpin()
	s.n.mu.Unlock()
	if b, err := s.n.open(s.blob, s.n.repoOf(s)); err == nil {
		defer b.Close()
		if err := b.MarkVerified(); err != nil && !errors.Is(err, store.ErrMissing) {
			s.n.log.Warn("blob not marked as verified", "blob", s.blob.Digest, "err", err)
		}
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

// hash reports whether the blob matches its digest.
func (s *share) hash() (bool, error) {
	s.rest()
	b, err := s.n.open(s.blob, s.n.repoOf(s))
	if err != nil {
		return false, err
	}
	defer b.Close()
	s.n.mu.Lock()
	held := len(s.landed) > 0
	s.n.mu.Unlock()
	if !held { // or a reader may wait for them
		if err := b.c.readOut(); err != nil {
			return false, err
		}
	}
	v := s.blob.Digest.Verifier()
	for i := range s.blob.Pieces() {
		if b.Verified() {
			return true, nil
		}
		data, err := s.read(b.c, i)
		if err != nil {
			return false, err
		}
		_, _ = v.Write(data) // a hash takes everything
		putBuffer(data)
	}
	return v.Verified(), nil
}

// read returns a piece, kept or held.
func (s *share) read(c *content, i int) ([]byte, error) {
	if err := c.f.ctx.Err(); err != nil {
		return nil, context.Cause(c.f.ctx)
	}
	off, size := s.blob.Piece(i)
	buf := getBuffer(size)
	s.n.mu.Lock()
	l, held := s.landed[i], s.held
	if l != nil && l.data != nil {
		copy(buf, l.data)
		s.n.mu.Unlock()
		return buf, nil
	}
	s.n.mu.Unlock()
	if l != nil {
		_, err := held.ReadAt(buf, off)
		return buf, err
	}
	_, err := c.stored.ReadAt(buf, off)
	if err != nil && !errors.Is(err, store.ErrMissing) { // the disk does not give back what it took
		err = errors.Join(err, c.stored.Discard(off, size))
		s.n.lost(c, off, size)
	}
	return buf, err
}

// readOut returns when nobody reads the whole blob any more: whoever does hashes
// it, and will say what came of that.
func (c *content) readOut() error {
	for {
		c.mu.Lock()
		var all *reader
		for r := range c.readers {
			if r.all {
				all = r
			}
		}
		c.mu.Unlock()
		if all == nil {
			return nil
		}
		select {
		case <-all.over:
		case <-c.f.ctx.Done():
			return context.Cause(c.f.ctx)
		}
	}
}

// replan has all who wait look again who brings their bytes.
func (c *content) replan() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiters {
		c.wake(w)
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
		there := getBuffer(int64(len(data)))
		_, err = c.stored.ReadAt(there, off)
		same := err == nil && bytes.Equal(there, data)
		putBuffer(there)
		if same {
			return nil
		}
		if err := c.erase(off, int64(len(data))); err != nil {
			return err
		}
	}
	return fmt.Errorf("store %s at %d: %w", c.digest, off, store.ErrMissing)
}

// open opens a blob for the network's own use.
func (n *network) open(b p2p.Blob, where p2p.Origin) (*Blob, error) {
	return n.f.open(Ref{Digest: b.Digest, Size: b.Size, Repo: repo(where)})
}

func (n *network) repoOf(s *share) p2p.Origin {
	n.mu.Lock()
	defer n.mu.Unlock()
	return s.origin
}
