package fetcher

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/swarm"
)

const (
	peerSlots = 64              // requests to peers for ranges at a time
	peerStall = 4 * time.Second // without a byte of a peer, before another source is asked
	giftsMax  = 1024
	doubtsMax = 256
)

// peers stands for the network among the sources.
type peers struct{}

func (peers) Name() string { return "peer" }

var errNoPeer = errors.New("no peer has these bytes")

// Open is not what a network is asked with.
func (peers) Open(context.Context, Ref, int64, int64) (*Body, error) { return nil, errNoPeer }

// ask asks the peers that are best for the range. hops is how often the request
// that this one serves was passed on, and one more; 0: it serves none.
func (n *network) ask(ctx context.Context, ref Ref, off, size int64, prio Priority, hops int) (*Body, error) {
	n.mu.Lock()
	parts := n.host.Read(time.Now(), ref.Digest, off, size)
	n.mu.Unlock()
	if k := slices.IndexFunc(parts, func(t swarm.Part) bool { return t.Sources[0].Origin() }); k >= 0 {
		parts = parts[:k]
	}
	if len(parts) == 0 {
		return nil, errNoPeer
	}
	b := &peerBody{n: n, ref: ref, parts: parts, prio: prio, hops: hops}
	b.ctx, b.cancel = context.WithCancelCause(ctx)
	return &Body{ReadCloser: b, Off: off, Size: -1}, nil
}

// peerBody reads the parts of a plan one after the other. It may be closed while
// it is being read.
type peerBody struct {
	n      *network
	ctx    context.Context // ended by Close; io.Reader has no other way to it
	cancel context.CancelCauseFunc
	ref    Ref
	prio   Priority
	hops   int

	mu    sync.Mutex // held during a Read; guards what follows
	parts []swarm.Part
	cur   *peer.Stream
}

func (b *peerBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if err := b.ctx.Err(); err != nil {
			return 0, context.Cause(b.ctx)
		}
		if b.cur == nil {
			if len(b.parts) == 0 {
				return 0, io.EOF
			}
			t := b.parts[0]
			b.parts = b.parts[1:]
			b.cur = b.n.client.Range(b.ctx, peer.Plan{
				Blob: p2p.Blob{Digest: b.ref.Digest, Size: b.ref.Size}, Off: t.Off, N: t.N,
				Sources: t.Sources, Priority: b.prio, Hops: b.hops, Hedge: t.Hedge,
			})
		}
		m, err := b.cur.Read(p)
		if !errors.Is(err, io.EOF) {
			return m, err
		}
		b.finish()
		if m > 0 {
			return m, nil
		}
	}
}

// finish ends the current part and tells the host how its sources did. The
// caller holds b.mu.
func (b *peerBody) finish() {
	if b.cur == nil {
		return
	}
	_ = b.cur.Close() // it was only read
	parts := b.cur.Parts()
	b.cur = nil
	b.n.tell(func(h *swarm.Host, now time.Time) (as []swarm.Action) {
		s := b.n.shares[b.ref.Digest]
		for _, t := range parts {
			g := swarm.Given{From: t.Parent, Bytes: t.Bytes, First: t.First, Took: t.Took, Failed: t.Failed}
			as = append(as, h.Served(now, b.ref.Digest, g)...)
			if s != nil && t.Bytes > 0 {
				s.moved = now
				s.remember(gift{t.Off, t.Off + t.Bytes, t.Parent})
			}
		}
		return as
	})
}

// Close ends a Read under way, and waits for that.
func (b *peerBody) Close() error {
	b.cancel(ErrClosed)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.finish()
	return nil
}

// remember keeps a bounded memory of who gave what. The caller holds n.mu.
func (s *share) remember(g gift) {
	if len(s.gifts) >= giftsMax {
		s.gifts = slices.Delete(s.gifts, 0, giftsMax/2)
	}
	s.gifts = append(s.gifts, g)
}

// nextRun reports whether peers are to be asked for the byte at off, and for how
// many bytes that holds.
func (n *network) nextRun(c *content, off, end int64) (peers bool, length int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shares[c.digest]
	if s == nil || p2p.IsName(c.digest) { // nobody could tell whether bytes of peers are right
		return false, end - off
	}
	for _, d := range s.doubt {
		switch {
		case d.Off <= off && off < d.End():
			return false, min(d.End(), end) - off
		case d.Off > off:
			end = min(end, d.Off)
		}
	}
	for k, t := range n.host.Read(time.Now(), c.digest, off, end-off) {
		here := !t.Sources[0].Origin()
		if k > 0 && here != peers {
			return peers, length
		}
		peers, length = here, length+t.N
	}
	return peers, max(length, 1)
}

// await waits a moment for a scheduler to say who has the blob, once: a blob of
// which none says anything is not waited for again.
func (n *network) await(ctx context.Context, c *content) {
	n.mu.Lock()
	s, up := n.shares[c.digest], len(n.up) > 0
	n.mu.Unlock()
	if s == nil || !up {
		return
	}
	select {
	case <-s.answer:
		return
	default:
	}
	t := time.NewTimer(answerAfter)
	defer t.Stop()
	select {
	case <-s.answer:
	case <-t.C:
		n.mu.Lock()
		n.answered(c.digest)
		n.mu.Unlock()
	case <-ctx.Done():
	}
}

// blame notes that bytes were wrong which peers gave: those are not used for
// the blob any more, and the origin is asked for what they gave.
func (n *network) blame(c *content, off, length int64) {
	n.tell(func(h *swarm.Host, now time.Time) (as []swarm.Action) {
		s := n.shares[c.digest]
		if s == nil {
			return nil
		}
		end := off + length
		given := false
		s.gifts = slices.DeleteFunc(s.gifts, func(g gift) bool {
			if g.off >= end || g.end <= off {
				return false
			}
			given = true
			as = append(as, h.Served(now, c.digest, swarm.Given{From: g.peer, Failed: p2p.Mismatch})...)
			return true
		})
		if given {
			s.suspect(off, length)
		}
		return as
	})
}

// suspect leaves a range to the origin. The caller holds n.mu.
func (s *share) suspect(off, length int64) {
	if len(s.doubt) >= doubtsMax {
		off, length, s.doubt = 0, s.blob.Size, nil
	}
	s.doubt = append(s.doubt, store.Range{Off: off, Len: length})
}

// lost tells the host that pieces are not in the store any more. Their sums were
// no good, so from now on the blob is read only as it is needed, and what was
// wrong from the origin.
func (n *network) lost(c *content, off, length int64) {
	n.tell(func(h *swarm.Host, now time.Time) (as []swarm.Action) {
		s := n.shares[c.digest]
		if s == nil || length <= 0 {
			return nil
		}
		size, any := p2p.PieceSize(s.blob.Size), false
		for i := int(off / size); i <= int((off+length-1)/size) && i < s.blob.Pieces(); i++ {
			if s.keep.Remove(i) {
				if s.have.Remove(i) {
					s.notify()
				}
				any = true
			}
		}
		if any && s.users == 0 {
			n.forget(s)
			return nil
		}
		s.unsure = s.unsure || any
		if s.unsure {
			s.suspect(off, length)
		}
		if !any {
			return nil
		}
		return s.reenter(h, now)
	})
}
