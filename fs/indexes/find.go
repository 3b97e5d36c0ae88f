package indexes

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	headWithin   = 5 * time.Second        // that a head has to come in, or the layer is unpacked
	windowWithin = 60 * time.Second       // that a window has to come in, or the layer is unpacked
	goneFor      = 5 * time.Second        // that no host has it, before it is taken for gone
	lookAgain    = 250 * time.Millisecond // meanwhile
)

// Wanted is a layer that an index is wanted of.
type Wanted struct {
	Layer, DiffID digest.Digest
	Size          int64
	Image         Image // that it belongs to
}

// A Pack is where an index that was not made here came from, and where its windows
// are unless it is of a ztoc, which was read as a whole. Its zero value is that of
// an index that was made here.
type Pack struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Repo   origin.Repo   `json:"repo,omitzero"` // of the registry that has it; zero: another host has
	Ztoc   bool          `json:"ztoc,omitzero"` // it is one of SOCI
}

// The values of Pack.From.
const (
	FromCluster  = "cluster"
	FromRegistry = "registry"
	FromSoci     = "soci"
)

// From says who gave an index that was not made here.
func (p Pack) From() string {
	switch {
	case p.Ztoc:
		return FromSoci
	case p.Repo != (origin.Repo{}):
		return FromRegistry
	}
	return FromCluster
}

// Find puts the index that the cluster, or else the registry of the layer's
// image, has of a layer at path, without windows. It reports false, in a moment,
// if there is none that can be had.
func (x *Indexes) Find(ctx context.Context, w Wanted, path string) (Pack, bool) {
	if x.fetcher == nil {
		return Pack{}, false
	}
	if offer, ok := x.fetcher.FindIndex(ctx, w.Layer, index.Version); ok {
		if p, ok := x.use(ctx, offer, origin.Repo{}, w, path); ok {
			return p, true
		}
	}
	q := x.ask(w.Image)
	if q == nil {
		return Pack{}, false
	}
	t := time.NewTimer(waitForIt)
	defer t.Stop()
	select {
	case <-q.done:
		return x.useAny(ctx, q, w, path)
	case <-t.C:
	case <-ctx.Done():
	}
	return Pack{}, false
}

// Await is Find for who waits for an index that nobody has yet, or of which a
// registry is about to tell, as long as ctx lets it.
func (x *Indexes) Await(ctx context.Context, w Wanted, path string) (Pack, bool) {
	if x.fetcher == nil {
		return Pack{}, false
	}
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	offers := make(chan p2p.Index, 1)
	g.Go(func() {
		if offer, ok := x.fetcher.AwaitIndex(ctx, w.Layer, index.Version); ok {
			offers <- offer
		}
		close(offers)
	})
	var cluster <-chan p2p.Index = offers
	var answered <-chan struct{}
	q := x.ask(w.Image)
	if q != nil {
		answered = q.done
	}
	for cluster != nil || answered != nil {
		select {
		case offer, ok := <-cluster:
			cluster = nil
			if !ok {
				continue // there is no cluster
			}
			if p, ok := x.use(ctx, offer, origin.Repo{}, w, path); ok {
				return p, true
			}
		case <-answered:
			answered = nil
			if p, ok := x.useAny(ctx, q, w, path); ok {
				return p, true
			}
		case <-ctx.Done():
			return Pack{}, false
		}
	}
	return Pack{}, false
}

// useAny puts one of the indexes that a registry has of a layer at path, one of our
// own format if there is one. Those that cannot be used are not tried again.
func (x *Indexes) useAny(ctx context.Context, q *question, w Wanted, path string) (Pack, bool) {
	for _, offer := range x.of(q, w.Layer) {
		p, ok := x.use(ctx, offer, w.Image.Repo, w, path)
		if ok || ctx.Err() != nil {
			return p, ok
		}
		x.drop(q, offer)
	}
	return x.useSoci(ctx, q, w, path)
}

// use puts an index that was offered at path, if it is what is wanted. repo has
// its pack; zero: another host has.
func (x *Indexes) use(ctx context.Context, offer p2p.Index, repo origin.Repo, w Wanted, path string) (Pack, bool) {
	if _, is := x.IsFalse(offer.ID); is || offer.DiffID != w.DiffID {
		return Pack{}, false
	}
	p := Pack{Digest: offer.Pack.Digest, Size: offer.Pack.Size, Repo: repo}
	err := x.take(ctx, p, offer.Head, max(w.Size, MinLayer), path)
	if err == nil {
		err = matches(path, offer.ID, w)
	}
	if err != nil {
		if ctx.Err() == nil {
			x.log.Warn("an index of a layer cannot be used; without another the layer is unpacked", "blob", w.Layer, "index", offer.ID, "from", p.From(), "repo", repo.String(), "err", err)
		}
		return Pack{}, false
	}
	return p, true
}

// IsFalse reports whether this host has heard that an index is false, and why.
func (x *Indexes) IsFalse(id digest.Digest) (reason string, is bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	reason, is = x.false[id]
	return reason, is
}

// take reads the head of a pack, of n bytes, and puts the index at path.
func (x *Indexes) take(ctx context.Context, p Pack, n, most int64, path string) error {
	data, err := x.first(ctx, p, n, most)
	if err != nil {
		return err
	}
	h, err := index.ParseHead(data, p.Size)
	if err != nil {
		return err
	}
	if h.Size != n-index.PackPrefix {
		return fmt.Errorf("head of %d bytes, not %d: %w", h.Size, n-index.PackPrefix, index.ErrCorrupt)
	}
	return index.Unpack(path, h, bytes.NewReader(data[index.PackPrefix:]))
}

// first reads the first n bytes of a pack, unless that is more than most.
func (x *Indexes) first(ctx context.Context, p Pack, n, most int64) ([]byte, error) {
	if n > most {
		return nil, fmt.Errorf("%d bytes are more than the layer has: %w", n, index.ErrCorrupt)
	}
	ctx, cancel := context.WithTimeout(ctx, headWithin)
	defer cancel()
	b, err := x.fetcher.Blob(p.ref())
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.Close() }() // it returns nil
	data := make([]byte, n)
	if m, err := b.ReadAt(ctx, data, 0, fetcher.OnDemand); m < len(data) {
		return nil, cmp.Or(err, io.ErrUnexpectedEOF)
	}
	return data, nil
}

func (p Pack) ref() fetcher.Ref { return fetcher.Ref{Digest: p.Digest, Size: p.Size, Repo: p.Repo} }

// matches checks that an index is the one that was offered, of the layer that
// is wanted.
func matches(path string, id digest.Digest, w Wanted) error {
	i, err := info(path)
	if err != nil {
		return err
	}
	if i.ID != id || i.Blob != w.Layer || i.BlobSize != w.Size || i.DiffID != w.DiffID || !i.Seekable || !i.Hashes() {
		return fmt.Errorf("it is %s, of %s, %d bytes, diffID %s: %w", i.ID, i.Blob, i.BlobSize, i.DiffID, index.ErrCorrupt)
	}
	return nil
}

// Windows makes an index that was not made here take its windows from where it
// came from, until ctx ends.
func (x *Indexes) Windows(ctx context.Context, i *index.Index, p Pack) {
	if p.Digest == "" || p.Ztoc || x.fetcher == nil {
		return
	}
	open := sync.OnceValues(func() (*fetcher.Blob, error) {
		b, err := x.fetcher.Blob(p.ref())
		if err == nil {
			context.AfterFunc(ctx, func() { _ = b.Close() }) // it returns nil
		}
		return b, err
	})
	i.Lazy(p.Size, func(off, n int64) ([]byte, error) {
		b, err := open()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, windowWithin)
		defer cancel()
		data := make([]byte, n)
		for began := time.Now(); ; {
			m, err := b.ReadAt(ctx, data, off, fetcher.OnDemand)
			if m == len(data) {
				return data, nil
			}
			if p.From() != FromCluster || time.Since(began) >= goneFor {
				return nil, err
			}
			select { // those who have it may be cut off, or no parents of this host for a moment
			case <-time.After(lookAgain):
			case <-ctx.Done():
				return nil, err
			}
		}
	})
}
