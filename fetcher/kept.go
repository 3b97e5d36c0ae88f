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

// Import takes a blob from r, which others then get from here. What does not match its
// digest is dropped, and the error is ErrDigest; ErrFull: the disk has no room for it.
func (f *Fetcher) Import(ctx context.Context, d digest.Digest, size int64, r io.Reader) (err error) {
	if p2p.IsName(d) {
		return fmt.Errorf("import %s: it is no digest", d)
	}
	ref := Ref{Digest: d, Size: size}
	b, err := f.open(ref)
	if err != nil {
		return err
	}
	if err = b.c.take(ctx, r); err == nil {
		err = b.c.stored.Sync()
	}
	if err = errors.Join(err, b.Close()); err != nil {
		return fmt.Errorf("import %s: %w", d, err)
	}
	if b, err = f.Blob(ref); err != nil { // the cluster hears that it is here
		return err
	}
	return b.Close()
}

// take reads all of the blob.
func (c *content) take(ctx context.Context, r io.Reader) error {
	if c.stored.Verified() {
		return nil
	}
	if most := c.f.cfg.Max; most > 0 && c.size > most {
		return fmt.Errorf("%w: %d bytes are more than the quota of %d", ErrFull, c.size, most)
	}
	v := c.stored.Verifier()
	buf := buffers.Get().(*[bufSize]byte)
	defer buffers.Put(buf)
	stored := int64(0)
	for off := int64(0); off < c.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf[:min(c.size-off, bufSize)])
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%d bytes before the end: %w", c.size-off, err), c.discard(0, c.size))
		}
		fresh, err := c.stored.Fill(buf[:n], off)
		if err != nil {
			return errors.Join(fmt.Errorf("%w: %w", ErrFull, err), c.discard(0, c.size)) // whatever the reason, it cannot be kept
		}
		_, _ = v.Write(buf[:n]) // a hash takes everything
		off, stored = off+int64(n), stored+fresh
	}
	var err error
	if stored == c.size {
		err = v.Commit()
	} else { // not all of what is there came from r
		err = c.stored.VerifyDigest(ctx)
	}
	if errors.Is(err, store.ErrCorrupt) {
		return errors.Join(fmt.Errorf("%w: %w", ErrDigest, err), c.discard(0, c.size))
	}
	return err
}
