package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Schedulers returns the schedulers that this host knows, and whether it reaches them.
func (f *Fetcher) Schedulers() map[string]bool {
	all := map[string]bool{}
	n := f.network
	if n == nil {
		return all
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range n.schedulers {
		all[name] = n.up[name]
	}
	return all
}

// Kept lists the blobs of which something is on disk, by their digests.
func (f *Fetcher) Kept() []store.Info {
	list := f.store.List()
	slices.SortFunc(list, func(a, b store.Info) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return list
}

// Quota returns how many bytes of blobs are on disk, and how many there may be; 0: as
// many as there come.
func (f *Fetcher) Quota() (used, most int64) { return f.store.Used(), f.cfg.Max }

// Pin has a blob stay until Unpin. store.ErrMissing: nothing of it is here.
func (f *Fetcher) Pin(d digest.Digest) error { return f.store.Pin(d) }

// Unpin lets a blob go when room is needed.
func (f *Fetcher) Unpin(d digest.Digest) error { return f.store.Unpin(d) }

// Content opens a whole blob that is on disk. store.ErrMissing: not all of it is, or it
// has not matched its digest.
func (f *Fetcher) Content(d digest.Digest) (io.ReadCloser, int64, error) {
	size, ok := f.store.Kept()[d]
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", d, store.ErrMissing)
	}
	b, err := f.open(Ref{Digest: d, Size: size})
	if err != nil {
		return nil, 0, err
	}
	if !b.Verified() { // evicted this moment
		return nil, 0, errors.Join(fmt.Errorf("%s: %w", d, store.ErrMissing), b.Close())
	}
	return &keptReader{io.NewSectionReader(b.c.stored, 0, size), b}, size, nil
}

// keptReader reads a blob from the disk.
type keptReader struct {
	io.Reader
	io.Closer
}

// Import takes a blob from r, which others then get from here. ErrDigest: it does not
// match its digest; ErrFull: the disk has no room for it. Nothing is touched then: it
// lies aside until all of it is right.
func (f *Fetcher) Import(ctx context.Context, d digest.Digest, size int64, r io.Reader) (err error) {
	if p2p.IsName(d) {
		return fmt.Errorf("import %s: it is no digest", d)
	}
	b, err := f.open(Ref{Digest: d, Size: size})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if !b.Verified() {
		if err := b.c.take(ctx, r); err != nil {
			return fmt.Errorf("import %s: %w", d, err)
		}
	}
	f.tellPresent(b.c)
	return nil
}

// take puts all of the blob aside, and into the store if it is right.
func (c *content) take(ctx context.Context, r io.Reader) error {
	if most := c.f.cfg.Max; most > 0 && c.size > most {
		return fmt.Errorf("%w: %d bytes are more than the quota of %d", ErrFull, c.size, most)
	}
	aside, err := unnamed(c.f.cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	defer func() { _ = aside.Close() }() // it is gone then
	if err := c.putAside(ctx, aside, r); err != nil {
		return err
	}
	if err := c.keep(io.NewSectionReader(aside, 0, c.size)); err != nil {
		return fmt.Errorf("%w: %w", ErrFull, err) // whatever the reason, it cannot be kept
	}
	return c.stored.Sync()
}

// putAside copies the blob from r to w. It returns ErrDigest if it is another.
func (c *content) putAside(ctx context.Context, w io.Writer, r io.Reader) error {
	v := c.digest.Verifier()
	buf := buffers.Get().(*[bufSize]byte)
	defer buffers.Put(buf)
	for left := c.size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf[:min(left, bufSize)])
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%d bytes before the end: %w", left, err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
		_, _ = v.Write(buf[:n]) // a hash takes everything
		left -= int64(n)
	}
	if !v.Verified() {
		return ErrDigest
	}
	return nil
}
