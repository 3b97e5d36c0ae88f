package fetcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	commandsAt  = 4 // at a time: managers have many blobs brought to a host
	removeTries = 20
	removeAgain = 100 * time.Millisecond
)

// commanded carries out what a manager wants of this host, in the background, and
// has the scheduler told how that ended. The caller holds n.mu.
func (n *network) commanded(scheduler string, m p2p.Command) {
	n.f.start(func() {
		d := p2p.Done{ID: m.ID}
		if err := n.obey(m); err != nil {
			d.Failed = err.Error()
			n.log.Warn("a command is not carried out", "blob", m.Blob.Digest, "remove", m.Remove, "err", err)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.links.Send(scheduler, d)
	})
}

// obey returns when the blob is there and has matched its digest, or is gone.
func (n *network) obey(m p2p.Command) error {
	ctx := n.f.ctx
	select {
	case n.commands <- struct{}{}:
		defer func() { <-n.commands }()
	case <-ctx.Done():
		return ErrClosed
	}
	if m.Remove {
		return n.f.Remove(ctx, m.Blob.Digest)
	}
	if p2p.IsName(m.Blob.Digest) {
		return errors.New("what has no digest cannot be compared with it")
	}
	b, err := n.f.Blob(Ref{Digest: m.Blob.Digest, Size: m.Blob.Size, Repo: repo(m.Origin)})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it returns nil
	return b.Verify(ctx, Background)
}

// Remove takes a blob off this host, from which others then get nothing of it.
// store.ErrInUse says that it stays: somebody reads it, or a layer fills from it.
func (f *Fetcher) Remove(ctx context.Context, d digest.Digest) error {
	for tries := 0; ; tries++ {
		err := f.remove(d)
		if !errors.Is(err, store.ErrInUse) || tries == removeTries {
			return err
		}
		t := time.NewTimer(removeAgain) // what the network itself has open, it closes
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

func (f *Fetcher) remove(d digest.Digest) error {
	if n := f.network; n != nil && !n.abandon(d) {
		return fmt.Errorf("remove %s: %w: something here reads it, or a layer fills from it", d, store.ErrInUse)
	}
	return f.store.Remove(d)
}

// abandon leaves the swarm of a blob that nobody on this host has open, and reports
// whether it did.
func (n *network) abandon(d digest.Digest) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shares[d]
	if s == nil {
		return true
	}
	if s.users > 0 {
		return false
	}
	n.forget(s)
	return true
}
