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
	"github.com/dfsnapshotter/dfsnapshotter/p2p/bucket"
)

// hearing is an Indexer that remembers what it hears.
type hearing struct {
	coming     chan fetcher.Ref // nil: nobody cares
	mu         sync.Mutex
	whole      []digest.Digest
	distrusted []digest.Digest
}

func (h *hearing) Coming(r fetcher.Ref) {
	if h.coming != nil {
		h.coming <- r
	}
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

// TestAwaitIndex: who waits for an index hears of it when it is there, though the
// scheduler was restarted meanwhile.
func TestAwaitIndex(t *testing.T) {
	s := startScheduler(t)
	seed := startHost(t, "seed", true, s, newFake(nil))
	host, next := startHost(t, "host", false, s, newFake(nil)), startHost(t, "next", false, s, newFake(nil))
	known(t, s, "seed", "host", "next")
	index := p2p.Index{
		Layer: digest.FromString("layer"), Version: 1, ID: digest.FromString("id"), DiffID: digest.FromString("tar"),
		Pack: p2p.Blob{Digest: digest.FromString("pack"), Size: 10}, Head: 5,
	}
	ctx, cancel := context.WithCancel(t.Context())
	type answer struct {
		index p2p.Index
		ok    bool
	}
	await := func(ctx context.Context, h *fetcher.Fetcher, version int) chan answer {
		answers := make(chan answer, 1)
		go func() {
			x, ok := h.AwaitIndex(ctx, index.Layer, version)
			answers <- answer{x, ok}
		}()
		return answers
	}
	found, other := await(t.Context(), host.Fetcher, 1), await(ctx, next.Fetcher, 2)
	s.kill()
	s.start(t)
	known(t, s, "seed", "host", "next")
	if err := seed.PublishIndex(index); err != nil {
		t.Fatal(err)
	}
	if a := <-found; !a.ok || a.index.ID != index.ID {
		t.Errorf("%+v", a)
	}
	cancel()
	if a := <-other; a.ok {
		t.Errorf("an index of version 1 was given to who wants version 2: %+v", a)
	}
}

// TestFollow: who follows a blob that a seed fetches for another host sees all of
// it, and asks the origin for nothing.
func TestFollow(t *testing.T) {
	s := startScheduler(t)
	data := content(12*mib, 9)
	registry := newFake(always(fault{delay: 2 * time.Millisecond}), data)
	hears := &hearing{coming: make(chan fetcher.Ref, 1)}
	seed := startHostWith(t, "seed", s, func(c *fetcher.Config) {
		c.Sources, c.Network.Self.Seed, c.Network.Indexer = []fetcher.Source{registry}, true, hears
	})
	host := startHost(t, "host", false, s, registry)
	known(t, s, "seed", "host")
	followed := make(chan error, 1)
	go func() {
		followed <- seed.Follow(t.Context(), <-hears.coming, func(blob io.Reader) error {
			got, err := io.ReadAll(blob)
			if err == nil && !bytes.Equal(got, data) {
				err = errors.New("these are not the bytes of the blob")
			}
			return err
		})
	}()
	want(t, openBlob(t, host.Fetcher, ref(data)), data, 0, int64(len(data)), fetcher.Prefetch)
	if err := <-followed; err != nil {
		t.Error(err)
	}
	if !seed.Has(digest.FromBytes(data), int64(len(data))) {
		t.Error("the blob is not known to be right, though all of it was read")
	}
	if sent := registry.bytesSent(); sent != int64(len(data)) {
		t.Errorf("the origin has sent %d bytes of %d", sent, len(data))
	}
	eventually(t, func() error { return hears.heard(&hears.whole, digest.FromBytes(data)) })
}

// TestLazily: who has wanted all of a blob, and does so no more, gets what he
// reads and nothing else.
func TestLazily(t *testing.T) {
	s := startScheduler(t)
	data := content(48*mib, 5)
	registry := newFake(nil, data)
	startHost(t, "seed", true, s, registry)
	host := startHostWith(t, "host", s, func(c *fetcher.Config) {
		c.Sources, c.Download = []fetcher.Source{registry}, bucket.New(4*mib)
	})
	known(t, s, "seed", "host")
	b := openBlob(t, host.Fetcher, ref(data))
	missing := func() (n int64) {
		for _, gap := range b.Missing(0, b.Size()) {
			n += gap.Len
		}
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := b.Range(ctx, 0, b.Size(), fetcher.Prefetch)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // in what order pieces come is chance
		if missing() == b.Size() {
			return errors.New("no piece came")
		}
		return nil
	})
	cancel()
	_ = r.Close()
	b.Lazily()
	want(t, b, data, 20*mib, 1000, fetcher.OnDemand)
	before := missing()
	if before < 8*mib {
		t.Fatalf("only %d bytes are missing: too few to tell", before)
	}
	for off := int64(21 * mib); off < 41*mib; off += mib { // so many reads take longer than 8 MiB at the limit
		want(t, b, data, off, 1000, fetcher.OnDemand)
		<-time.After(100 * time.Millisecond)
	}
	if got := before - missing(); got > 4*mib {
		t.Fatalf("%d bytes came that nobody wants", got)
	}
	r, err = b.Range(t.Context(), 0, b.Size(), fetcher.Prefetch)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, right: %v; %v", len(got), bytes.Equal(got, data), err)
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
