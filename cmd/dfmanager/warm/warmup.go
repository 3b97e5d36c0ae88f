package warm

import (
	"context"
	"fmt"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
)

const (
	beat       = 250 * time.Millisecond
	wantAgain  = 2 * time.Second // after a lease, which is for hosts that take pieces
	watchAgain = 500 * time.Millisecond
	maxRenew   = 4
	maxOthers  = 3 // hosts besides seeds that are looked at
)

// warmup is one blob on its way into the cluster. All but what is set once is
// guarded by the client's mutex.
type warmup struct {
	c      *Client
	order  Order
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when result and err count
	kick   chan struct{}
	result Progress
	err    error

	waiting   int
	news      chan struct{} // closed when progress has changed
	scheduler string        // who knows that we want it
	holders   map[p2p.HostID]*holder
	verified  bool // it matched its digest where it was fetched
	tiny      bool // it came with the scheduler's answer
	renewals  int
	renewing  bool
	wantAt    time.Time // not before
	upAt      time.Time // a scheduler was reachable
	seedAt    time.Time // a seed was there
	movedAt   time.Time // a piece came
}

// holder is a host that has, or fetches, the blob.
type holder struct {
	host   p2p.Host
	have   *p2p.Have
	cancel context.CancelFunc
	err    error // why it could not be asked
}

func newWarmup(c *Client, o Order) *warmup {
	now := time.Now()
	w := &warmup{
		c: c, order: o, done: make(chan struct{}), kick: make(chan struct{}, 1), news: make(chan struct{}),
		holders: map[p2p.HostID]*holder{}, upAt: now, seedAt: now, movedAt: now,
	}
	w.ctx, w.cancel = context.WithCancelCause(c.ctx)
	return w
}

// look has the warmup looked at soon.
func (w *warmup) look() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run looks at the warmup until it has come to its end.
func (w *warmup) run() {
	t := time.NewTicker(beat)
	defer t.Stop()
	for !w.step(time.Now()) {
		select {
		case <-t.C:
		case <-w.kick:
		case <-w.ctx.Done():
		}
	}
	w.cancel(context.Canceled) // the watches end
	close(w.done)
}

// step does what is due and reports whether that was the last.
func (w *warmup) step(now time.Time) (end bool) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if w.err == nil {
		w.err = w.judge(now)
	}
	if w.err == nil && !w.complete() {
		w.want(now)
		return false
	}
	if w.err == nil {
		w.result = w.progress()
	}
	if w.scheduler != "" {
		w.c.links.Send(w.scheduler, p2p.Unwant{Digest: w.order.Blob.Digest})
	}
	w.c.forget(w)
	return true
}

// judge returns why it is no use to go on; nil: it is.
func (w *warmup) judge(now time.Time) error {
	p := w.c.patience
	if w.c.home(w.order.Blob.Digest) != "" {
		w.upAt = now
	} else {
		w.seedAt, w.movedAt = now, now
	}
	for _, h := range w.holders {
		if h.host.Seed {
			w.seedAt = now
		}
	}
	switch {
	case w.ctx.Err() != nil:
		return context.Cause(w.ctx)
	case now.Sub(w.upAt) > p.Scheduler:
		return fmt.Errorf("%w: %v", ErrNoScheduler, w.c.names)
	case now.Sub(w.seedAt) > p.Seed && !w.complete():
		return ErrNoSeed
	case now.Sub(w.movedAt) > p.Stall:
		return w.stalled()
	}
	return nil
}

// stalled says as much as is known of why nothing comes.
func (w *warmup) stalled() error {
	at := w.progress()
	if at.Host == "" {
		return fmt.Errorf("%w for %v: no seed has said anything", ErrStalled, w.c.patience.Stall)
	}
	why := "it fetches, and gets nothing from " + w.order.Registry
	if h := w.holders[at.Host]; h != nil && h.err != nil {
		why = "it cannot be asked: " + h.err.Error()
	} else if at.Got == w.order.Blob.Size {
		why = "it has not confirmed that the blob matches its digest"
	}
	return fmt.Errorf("%w for %v: %s (%s) has %d of %d bytes; %s", ErrStalled, w.c.patience.Stall, at.Host, at.Addr, at.Got, w.order.Blob.Size, why)
}

// complete reports whether the blob is in place: with a seed, if one has to do
// with it.
func (w *warmup) complete() bool {
	at := w.holders[w.progress().Host]
	return w.tiny || w.verified && at != nil && at.have != nil && at.have.Full()
}

// progress is who has most, seeds before others.
func (w *warmup) progress() (p Progress) {
	seed := false
	for id, h := range w.holders {
		got := w.bytes(h.have)
		if better := h.host.Seed && !seed || h.host.Seed == seed && (got > p.Got || p.Host == "" || got == p.Got && id < p.Host); better {
			p, seed = Progress{id, h.host.Addr, got}, h.host.Seed
		}
	}
	if w.tiny {
		p.Got = w.order.Blob.Size
	}
	return p
}

func (w *warmup) bytes(have *p2p.Have) int64 {
	if have == nil || have.Count() == 0 {
		return 0
	}
	b := w.order.Blob
	n := int64(have.Count()) * p2p.PieceSize(b.Size)
	if last := b.Pieces() - 1; have.Has(last) {
		_, length := b.Piece(last)
		n += length - p2p.PieceSize(b.Size)
	}
	return n
}

// want tells the blob's scheduler that it is wanted, unless it knows.
func (w *warmup) want(now time.Time) {
	if w.scheduler != "" || w.renewing || now.Before(w.wantAt) {
		return
	}
	if w.scheduler = w.c.home(w.order.Blob.Digest); w.scheduler == "" {
		return
	}
	o := p2p.Origin{Registry: w.order.Registry, Repository: w.order.Repository}
	if w.c.secure {
		o.Token = w.order.Tokens.Lent()
	}
	w.c.links.Send(w.scheduler, p2p.Want{Blob: w.order.Blob, Origin: o, Priority: p2p.Background})
}

// hear takes what the blob's scheduler says.
func (w *warmup) hear(m p2p.Message) {
	d := w.order.Blob.Digest
	switch m := m.(type) {
	case p2p.Parents:
		if m.Digest == d {
			w.parents(m)
		}
	case p2p.Digests:
		if m.Digest == d && m.Verified {
			w.verified = true
		}
	case p2p.Content:
		if m.Digest == d && d.Algorithm().FromBytes(m.Data) == d {
			w.tiny = true
		}
	case p2p.Lease:
		if m.Digest == d && len(m.Pieces) > 0 { // somebody else is to have it
			w.c.links.Send(w.scheduler, p2p.Unwant{Digest: d})
			w.scheduler, w.wantAt = "", time.Now().Add(wantAgain)
		}
	case p2p.Renew:
		if m.Digest == d {
			w.renew()
		}
	case p2p.Gone:
		w.drop(m.Host)
	default:
		return
	}
	w.look()
}

// parents watches those who are said to have the blob, or to fetch it.
func (w *warmup) parents(m p2p.Parents) {
	others := 0
	said := map[p2p.HostID]bool{}
	for _, stripe := range m.Stripes {
		for _, host := range stripe {
			said[host.ID] = true
			if !host.Seed {
				others++
			}
			if w.holders[host.ID] != nil || !host.Seed && others > maxOthers {
				continue
			}
			h := &holder{host: host}
			var ctx context.Context
			ctx, h.cancel = context.WithCancel(w.ctx)
			w.holders[host.ID] = h
			w.c.wg.Go(func() { w.watch(ctx, h) })
		}
	}
	for id := range w.holders {
		if !said[id] {
			w.drop(id)
		}
	}
	w.tell()
}

func (w *warmup) drop(id p2p.HostID) {
	if h := w.holders[id]; h != nil {
		h.cancel()
		delete(w.holders, id)
		w.tell()
	}
}

// watch follows what a holder has, until ctx ends.
func (w *warmup) watch(ctx context.Context, h *holder) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		err := w.c.peers.Watch(ctx, h.host, w.order.Blob, func(c peer.Change) { w.change(h, c) })
		w.c.mu.Lock()
		h.have, h.err = nil, err
		w.tell()
		w.c.mu.Unlock()
		t.Reset(watchAgain)
	}
}

func (w *warmup) change(h *holder, c peer.Change) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	before := 0
	if h.have != nil {
		before = h.have.Count()
	}
	if c.Whole || h.have == nil {
		h.have = p2p.NewHave(w.order.Blob.Pieces())
	}
	if c.Added != nil {
		h.have.Or(c.Added)
	}
	if c.Removed != nil {
		for i := range c.Removed.All() {
			h.have.Remove(i)
		}
	}
	h.err = nil
	if h.have.Count() > before {
		w.movedAt = time.Now()
	}
	w.tell()
	w.look()
}

// tell has those who wait look at the progress.
func (w *warmup) tell() {
	close(w.news)
	w.news = make(chan struct{})
}

// renew gets another token in the background, and wants the blob again with it.
func (w *warmup) renew() {
	if w.renewing || w.err != nil {
		return
	}
	if !w.c.secure {
		w.err = fmt.Errorf("%w: %s wants to know who asks for %s; give the seed credentials of its own, or the cluster certificates: only with them are tokens passed on", ErrRefused, w.order.Registry, w.order.Repository)
		return
	}
	if w.renewals++; w.renewals > maxRenew {
		w.err = fmt.Errorf("%w, whatever token it gets: %s", ErrRefused, w.order.Registry)
		return
	}
	w.renewing = true
	w.c.wg.Go(func() {
		err := w.order.Tokens.Renew(w.ctx)
		w.c.mu.Lock()
		defer w.c.mu.Unlock()
		w.renewing, w.scheduler = false, ""
		if err != nil && w.err == nil {
			w.err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
		w.look()
	})
}
