package fetcher

import (
	"context"
	"os"
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
	coming  bool  // all of it, as those who make indexes were told
	pinned  *Blob // keeps what is known of the bytes of an ordered blob until all are here
	lazy    bool  // what was said in the last Want
	wanted  bool
	origin  p2p.Origin
	prio    Priority
	heard   bool
	answer  chan struct{} // closed when heard
	lent    time.Time     // when another host last lent a token for it
	renewal chan struct{} // closed when one does; nil: nobody waits for that

	keep    *p2p.Have        // pieces the host decided to keep
	have    *p2p.Have        // those that are in the store, to be given
	changed chan struct{}    // closed when have changes
	landed  map[int]*landing // pieces that arrived and are not in the store
	refused map[int]bool     // pieces to take out of the store; false while that is done
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
		close(n.more)
		n.more = make(chan struct{})
	}
	return s
}

// own notes that all of the blob is here. The caller holds n.mu.
func (s *share) own() {
	s.unpin()
	for i, l := range s.landed { // what is in the store is as good
		if !l.inUse {
			l.close()
			delete(s.landed, i)
		}
	}
	s.closeHeld()
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

// disown leaves the swarm of a blob that has another size, so that nobody takes
// this host's word for it.
func (n *network) disown(c *content) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.shares[c.digest]; s != nil && s.blob.Size == c.size {
		n.forget(s)
	}
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

// lazily takes back that all of the blob is wanted.
func (n *network) lazily(c *content) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.shares[c.digest]; s != nil && s.wanted && !s.lazy && !s.have.Full() {
		s.lazy, s.prio = true, Prefetch
		n.do(n.host.Want(time.Now(), s.blob, s.origin, true, p2p.Prefetch))
	}
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

// replan has all who wait look again who brings their bytes.
func (c *content) replan() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakeAll()
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
