package fetcher_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// puppet is a scheduler that says what a test wants.
type puppet struct {
	said chan said

	mu      sync.Mutex
	streams map[p2p.HostID]*wire.HostStream
}

type said struct {
	by p2p.HostID
	m  p2p.Message
}

func startPuppet(t *testing.T) (p *puppet, addr string) {
	t.Helper()
	p = &puppet{said: make(chan said, 1000), streams: map[p2p.HostID]*wire.HostStream{}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := wire.NewServer(nil)
	wire.Register(s, p.serve)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p, ln.Addr().String()
}

func (p *puppet) serve(s *wire.HostStream) error {
	var id p2p.HostID
	for {
		m, err := s.Recv()
		if errors.Is(err, wire.ErrUnknown) {
			continue
		}
		if err != nil {
			return err
		}
		if a, ok := m.(p2p.Announce); ok {
			id = a.Host.ID
			p.mu.Lock()
			p.streams[id] = s
			p.mu.Unlock()
		}
		select {
		case p.said <- said{id, m}:
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func (p *puppet) say(t *testing.T, to p2p.HostID, messages ...p2p.Message) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range messages {
		if err := p.streams[to].Send(m); err != nil {
			t.Fatal(err)
		}
	}
}

// hear waits until a host says something that fits.
func hear[M p2p.Message](t *testing.T, p *puppet, by p2p.HostID, fits func(M) bool) M {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for {
		select {
		case s := <-p.said:
			if m, ok := s.m.(M); ok && s.by == by && fits(m) {
				return m
			}
		case <-ctx.Done():
			t.Fatalf("%s did not say %T", by, *new(M))
		}
	}
}

// TestNetworkAudit holds that a piece whose sum is in doubt comes from the origin: not
// from this host's store, where it is, nor from the parent that has it; and once.
func TestNetworkAudit(t *testing.T) {
	data := content(4*mib, 30)
	b := p2p.Blob{Digest: ref(data).Digest, Size: int64(len(data))}
	_, size := b.Piece(0)
	p, addr := startPuppet(t)
	liar := startHost(t, "liar", false, &scheduler{addr: addr}, newFake(always(fault{lie: true}), data))
	parent := hear(t, p, "liar", func(p2p.Announce) bool { return true }).Host
	registry := newFake(nil, data)
	h := startHost(t, "host", false, &scheduler{addr: addr}, registry)

	lie := openBlob(t, liar.Fetcher, ref(data))
	go func() { _, _ = read(t.Context(), lie, 0, size, fetcher.OnDemand) }() // what it reads is what it tells
	hear(t, p, "liar", func(p2p.Want) bool { return true })
	stripes := make([][]p2p.Host, b.Stripes())
	p.say(t, "liar", p2p.Parents{Digest: b.Digest, Stripes: stripes}, p2p.Source{Digest: b.Digest, Allowed: true})
	lies := hear(t, p, "liar", func(m p2p.Digests) bool { return m.First == 0 })

	blob := openBlob(t, h.Fetcher, ref(data))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = read(t.Context(), blob, 0, b.Size, fetcher.Prefetch) // nobody vouches for the bytes
	}()
	t.Cleanup(func() { <-done })
	hear(t, p, "host", func(m p2p.Want) bool { return !m.Lazy })
	stripes[0] = []p2p.Host{parent}
	lease := p2p.Lease{Digest: b.Digest, For: time.Minute}
	for i := 1; i < b.Pieces(); i++ {
		lease.Pieces = append(lease.Pieces, i)
	}
	lies.Sums = lies.Sums[:1]
	p.say(t, "host", p2p.Parents{Digest: b.Digest, Stripes: stripes}, lies, lease)
	hear(t, p, "host", func(p2p.Spoiled) bool { return true })
	if sent := registry.bytesSent(); sent != b.Size-size {
		t.Errorf("%d bytes from the origin before the audit, want all but the first %d of %d", sent, size, b.Size)
	}

	audit := p2p.Audit{Digest: b.Digest, Pieces: []int{0}, Reason: "a test"}
	truth := func(m p2p.Digests) bool { return m.First == 0 && m.Sums[0] == sha256.Sum256(data[:size]) }
	p.say(t, "host", audit)
	hear(t, p, "host", truth)
	hear(t, p, "host", func(p2p.Spoiled) bool { return true }) // it matches, with another sum than it was told
	p.say(t, "host", p2p.Digests{Digest: b.Digest, Sums: []p2p.Sum{sha256.Sum256(data[:size])}})
	hear(t, p, "host", func(p2p.Verified) bool { return true })
	p.say(t, "host", audit)
	hear(t, p, "host", truth)
	if sent := registry.bytesSent(); sent != b.Size {
		t.Errorf("%d bytes from the origin, want %d", sent, b.Size)
	}
	want(t, blob, data, 0, b.Size, fetcher.OnDemand)
}
