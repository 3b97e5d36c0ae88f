package indexes

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	headWithin   = 5 * time.Second  // that a head has to come in, or the layer is unpacked
	windowWithin = 60 * time.Second // that a reader waits for a window
)

// A Pack is where the windows of an index that came from another host are. Its
// zero value is that of an index that was made here.
type Pack struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Find puts the index that the cluster has of a layer at path, without windows.
// It reports false, in a moment, if there is none that can be had.
func (x *Indexes) Find(ctx context.Context, layer digest.Digest, size int64, diffID digest.Digest, path string) (Pack, bool) {
	if x.fetcher == nil {
		return Pack{}, false
	}
	offer, ok := x.fetcher.FindIndex(ctx, layer, index.Version)
	if !ok {
		return Pack{}, false
	}
	return x.use(ctx, offer, size, diffID, path)
}

// Await is Find for who waits for an index that the cluster does not have yet,
// as long as ctx lets it.
func (x *Indexes) Await(ctx context.Context, layer digest.Digest, size int64, diffID digest.Digest, path string) (Pack, bool) {
	if x.fetcher == nil {
		return Pack{}, false
	}
	offer, ok := x.fetcher.AwaitIndex(ctx, layer, index.Version)
	if !ok {
		return Pack{}, false
	}
	return x.use(ctx, offer, size, diffID, path)
}

// use puts an index that was offered at path, if it is what is wanted.
func (x *Indexes) use(ctx context.Context, offer p2p.Index, size int64, diffID digest.Digest, path string) (Pack, bool) {
	if _, is := x.IsFalse(offer.ID); is || offer.DiffID != diffID {
		return Pack{}, false
	}
	p := Pack{offer.Pack.Digest, offer.Pack.Size}
	err := x.take(ctx, p, offer.Head, path)
	if err == nil {
		err = matches(path, offer.ID, offer.Layer, size, diffID)
	}
	if err != nil {
		if ctx.Err() == nil {
			x.log.Warn("the cluster's index of a layer cannot be used; the layer is unpacked", "blob", offer.Layer, "index", offer.ID, "err", err)
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

// take reads the head of a pack and puts the index at path.
func (x *Indexes) take(ctx context.Context, p Pack, n int64, path string) error {
	ctx, cancel := context.WithTimeout(ctx, headWithin)
	defer cancel()
	b, err := x.fetcher.Blob(p.ref())
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it returns nil
	data := make([]byte, n)
	if _, err := b.ReadAt(ctx, data, 0, fetcher.OnDemand); err != nil {
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

func (p Pack) ref() fetcher.Ref { return fetcher.Ref{Digest: p.Digest, Size: p.Size} }

// matches checks that an index is the one that was offered, of the layer that
// is wanted.
func matches(path string, id, layer digest.Digest, size int64, diffID digest.Digest) error {
	i, err := info(path)
	if err != nil {
		return err
	}
	if i.ID != id || i.Blob != layer || i.BlobSize != size || i.DiffID != diffID || !i.Seekable {
		return fmt.Errorf("it is %s, of %s, %d bytes, diffID %s: %w", i.ID, i.Blob, i.BlobSize, i.DiffID, index.ErrCorrupt)
	}
	return nil
}

// Windows makes an index that came from another host take its windows from
// there, until ctx ends.
func (x *Indexes) Windows(ctx context.Context, i *index.Index, p Pack) {
	if p.Digest == "" || x.fetcher == nil {
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
		m, err := b.ReadAt(ctx, data, off, fetcher.OnDemand)
		if m == len(data) {
			err = nil
		}
		return data, err
	})
}
