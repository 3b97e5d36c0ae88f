package fetcher_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// hearing is an Indexer that remembers what it hears.
type hearing struct {
	mu         sync.Mutex
	whole      []digest.Digest
	distrusted []digest.Digest
}

func (h *hearing) Whole(r fetcher.Ref) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.whole = append(h.whole, r.Digest)
}

func (h *hearing) Distrusted(m p2p.Distrust) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.distrusted = append(h.distrusted, m.ID)
}

func (h *hearing) heard(list *[]digest.Digest, d digest.Digest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, have := range *list {
		if have == d {
			return nil
		}
	}
	return errors.New("not heard of " + d.String())
}

// TestIndexes: an index that a seed has made and published is found by others,
// and its pack comes from the seed alone; after a restart of the scheduler, too.
func TestIndexes(t *testing.T) {
	s := startScheduler(t)
	seedHears, hostHears := &hearing{}, &hearing{}
	layer := content(3*mib, 1)
	registry := newFake(nil, layer)
	seed := startHostWith(t, "seed", s, func(c *fetcher.Config) {
		c.Sources, c.Network.Self.Seed, c.Network.Indexer = []fetcher.Source{registry}, true, seedHears
	})
	host := startHostWith(t, "host", s, func(c *fetcher.Config) {
		c.Sources, c.Network.Indexer = []fetcher.Source{registry}, hostHears
	})
	known(t, s, "seed", "host")
	pack := content(700*kib, 2)
	index := p2p.Index{
		Layer: digest.FromBytes(layer), Version: 1, ID: digest.FromString("id"), DiffID: digest.FromString("tar"),
		Pack: p2p.Blob{Digest: digest.FromBytes(pack), Size: int64(len(pack))}, Head: 300 * kib,
	}
	if _, ok := host.FindIndex(t.Context(), index.Layer, 1); ok {
		t.Error("an index that nobody has made is found")
	}
	b := openBlob(t, host.Fetcher, ref(layer))
	want(t, b, layer, 0, int64(len(layer)), fetcher.Prefetch)
	eventually(t, func() error { return seedHears.heard(&seedHears.whole, index.Layer) })

	if err := seed.Keep(index.Pack.Digest, index.Pack.Size, bytes.NewReader(pack)); err != nil {
		t.Fatal(err)
	}
	if err := seed.PublishIndex(index); err != nil {
		t.Fatal(err)
	}
	find := func() error {
		if found, ok := host.FindIndex(t.Context(), index.Layer, 1); !ok || found.ID != index.ID {
			return errors.New("the index is not found")
		}
		return nil
	}
	eventually(t, find)
	p := openBlob(t, host.Fetcher, fetcher.Ref{Digest: index.Pack.Digest, Size: index.Pack.Size})
	began := registry.bytesSent()
	want(t, p, pack, 0, index.Head, fetcher.OnDemand)
	want(t, p, pack, 650*kib, 1000, fetcher.OnDemand)
	if got := registry.bytesSent(); got != began {
		t.Errorf("%d bytes of the pack came from the registry", got-began)
	}

	s.kill()
	s.start(t)
	eventually(t, find)
	host.DistrustIndex(p2p.Distrust{Layer: index.Layer, ID: index.ID, Reason: "another tree"})
	for _, h := range []*hearing{seedHears, hostHears} {
		eventually(t, func() error { return h.heard(&h.distrusted, index.ID) })
	}
	if find() == nil {
		t.Error("a false index is found")
	}
}

// TestNoPack: a pack that nobody has any more is no reason to wait long.
func TestNoPack(t *testing.T) {
	s := startScheduler(t)
	host := startHost(t, "host", false, s, newFake(nil))
	startHost(t, "seed", true, s, newFake(nil))
	known(t, s, "host", "seed")
	pack := content(700*kib, 2)
	b := openBlob(t, host.Fetcher, fetcher.Ref{Digest: digest.FromBytes(pack), Size: int64(len(pack))})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r, err := b.Range(ctx, 0, 1000, fetcher.OnDemand)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		_ = r.Close()
	}
	if err == nil || ctx.Err() != nil {
		t.Errorf("a pack that nobody has: %v", err)
	}
}
