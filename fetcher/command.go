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
	maxCommands = 10_000
	removeTries = 20
	removeAgain = 100 * time.Millisecond
)

// errWithdrawn says that nobody waits for what was commanded any more.
var errWithdrawn = errors.New("the command was taken back")

// command is one of a scheduler's, as long as it is carried out.
type command struct {
	scheduler string
	id        uint64
}

// commanded carries out what a manager wants of this host, in the background, and
// has the scheduler told how that ended. The caller holds n.mu.
func (n *network) commanded(scheduler string, m p2p.Command) {
	is := command{scheduler, m.ID}
	if m.Stop {
		n.withdraw(is)
		return
	}
	if len(n.obeying) >= maxCommands || n.obeying[is] != nil {
		n.links.Send(scheduler, p2p.Done{ID: m.ID, Failed: "this host was given too many commands"})
		return
	}
	ctx, cancel := context.WithCancelCause(n.f.ctx)
	n.obeying[is] = cancel
	if !n.f.start(func() { n.carryOut(ctx, is, m) }) {
		n.withdraw(is)
	}
}

func (n *network) carryOut(ctx context.Context, is command, m p2p.Command) {
	err := n.obey(ctx, m)
	n.mu.Lock()
	defer n.mu.Unlock()
	if errors.Is(context.Cause(ctx), errWithdrawn) {
		n.log.Info("a command was taken back", "blob", m.Blob.Digest)
		return
	}
	n.withdraw(is)
	if s := n.shares[m.Blob.Digest]; err == nil && !m.Remove && s != nil && s.have.Full() {
		// Or the scheduler would hear of it after the manager, and think meanwhile
		// that this host wants it.
		n.do(n.host.Present(time.Now(), s.blob, p2p.FullHave(s.blob.Pieces()), true))
	}
	d := p2p.Done{ID: m.ID}
	if err != nil {
		d.Failed = err.Error()
		n.log.Warn("a command is not carried out", "blob", m.Blob.Digest, "remove", m.Remove, "err", err)
	}
	n.links.Send(is.scheduler, d)
}

// withdraw ends a command, if it is being carried out. The caller holds n.mu.
func (n *network) withdraw(is command) {
	if cancel := n.obeying[is]; cancel != nil {
		delete(n.obeying, is)
		cancel(errWithdrawn)
	}
}

// withdrawAll ends those of a scheduler that is gone: whoever had it send them has
// been told that they failed. The caller holds n.mu.
func (n *network) withdrawAll(scheduler string) {
	for is := range n.obeying {
		if is.scheduler == scheduler {
			n.withdraw(is)
		}
	}
}

// obey returns when the blob is there and has matched its digest, or is gone. Of a
// file without a digest all pieces were judged then.
func (n *network) obey(ctx context.Context, m p2p.Command) error {
	select {
	case n.commands <- struct{}{}:
		defer func() { <-n.commands }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if m.Remove {
		return n.f.Remove(ctx, m.Blob.Digest)
	}
	b, err := n.f.Blob(Ref{Digest: m.Blob.Digest, Size: m.Blob.Size, Repo: repo(m.Origin)})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it returns nil
	if err = b.Verify(ctx, Background); ctx.Err() != nil {
		b.Lazily()
	}
	return err
}

// Remove takes a blob off this host, from which others then get nothing of it.
// store.ErrInUse says that it stays: somebody reads it, or a layer fills from it; and so
// does store.ErrPinned.
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
	if f.store.Pinned(d) {
		return fmt.Errorf("remove %s: %w", d, store.ErrPinned)
	}
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
