package peer_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/peer"
)

// turnstile is a Limiter that lets through whom somebody waits for, and the
// others when it is told.
type turnstile struct {
	open chan struct{}

	mu    sync.Mutex
	asked map[p2p.Priority]int
	most  int
}

func (l *turnstile) Wait(ctx context.Context, n int, p p2p.Priority) error {
	l.mu.Lock()
	l.asked[p] += n
	l.most = max(l.most, n)
	l.mu.Unlock()
	if p == p2p.OnDemand {
		return nil
	}
	select {
	case <-l.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestUpload asks the limit for each byte that is sent, before it is, in small
// steps and with the priority of the request.
func TestUpload(t *testing.T) {
	t.Parallel()
	const size = 2*mib + 5
	s := newShelf()
	file, memory := s.put(size).onDisk(t), s.put(size-1)
	l := &turnstile{open: make(chan struct{}), asked: map[p2p.Priority]int{}}
	reg := prometheus.NewRegistry()
	h := serve(t, peer.ServerConfig{Blobs: s, Upload: l, Registerer: reg})
	c := client(t, peer.ClientConfig{})
	read := func(ctx context.Context, it *item, n int64, p p2p.Priority) (int64, error) {
		b, err := c.Get(ctx, h, it.blob, 0, n, peer.Ask{Priority: p})
		if err != nil {
			return 0, err
		}
		got, err := io.Copy(io.Discard, b)
		return got, errors.Join(err, b.Close())
	}
	type result struct {
		n   int64
		err error
	}
	results := make(chan result, 2)
	for _, it := range []*item{file, memory} {
		go func() {
			n, err := read(t.Context(), it, it.blob.Size, p2p.Background)
			results <- result{n, err}
		}()
	}
	given, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := read(given, file, mib, p2p.Prefetch)
		gone <- err
	}()
	wait(t, reg, "dfsnapshotter_peer_upload_slots_busy", 3)
	for _, it := range []*item{file, memory} {
		if n, err := read(t.Context(), it, mib, p2p.OnDemand); n != mib || err != nil {
			t.Errorf("who is waited for got %d bytes, %v", n, err)
		}
	}
	select {
	case r := <-results:
		t.Errorf("who is not got %+v", r)
	default:
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	wait(t, reg, "dfsnapshotter_peer_upload_slots_busy", 2)
	close(l.open)
	for range 2 {
		if r := <-results; r.err != nil || r.n < size-1 {
			t.Errorf("in the end they got %+v", r)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if diff := cmp.Diff(map[p2p.Priority]int{p2p.OnDemand: 2 * mib, p2p.Prefetch: 64 << 10, p2p.Background: 2*size - 1}, l.asked); diff != "" {
		t.Error(diff)
	}
	if l.most > 64<<10 {
		t.Errorf("steps of %d bytes", l.most)
	}
}
