package fs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/profiles"
)

const (
	// bootPatience is how long a reader waits for a boot pack that does not go on;
	// after that nobody does.
	bootPatience = time.Second
	// bootPays is how many times as much as they must be fetched for chunks piecewise
	// for a boot pack to be made of them.
	bootPays = 1.2
	// minBoot is how many bytes a boot pack has at least, about: less is here in one
	// request anyway.
	minBoot = 256 << 10
	// bootCovers is the part of what is read that has to have come from a boot pack
	// for it to be good enough.
	bootCovers = 0.9
)

// boot is a boot pack on its way into a layer. Who reads a chunk that is in it waits
// for it rather than fetch it twice.
type boot struct {
	mu      sync.Mutex // guards what follows
	changed chan struct{}
	chunks  map[int]bool // that are to come; of the profile, until the pack is known
	got     map[int]bool
	over    bool // nobody waits any more
}

func newBoot(runs []profiles.Run) *boot {
	b := &boot{changed: make(chan struct{}), chunks: map[int]bool{}, got: map[int]bool{}}
	for _, r := range runs {
		for i := range r.Count {
			b.chunks[int(r.First+i)] = true
		}
	}
	return b
}

// step changes b and wakes who waits.
func (b *boot) step(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
	close(b.changed)
	b.changed = make(chan struct{})
}

// await returns once a chunk has come or is not to be expected.
func (b *boot) await(ctx context.Context, chunk int) {
	t := time.NewTimer(bootPatience)
	defer t.Stop()
	for {
		b.mu.Lock()
		changed, comes := b.changed, b.chunks[chunk] && !b.got[chunk] && !b.over
		b.mu.Unlock()
		if !comes {
			return
		}
		select {
		case <-changed:
			t.Reset(bootPatience)
		case <-t.C:
			b.step(func() { b.over = true })
			return
		case <-ctx.Done():
			return
		}
	}
}

// brought reports whether a chunk came from the pack.
func (b *boot) brought(chunk int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got[chunk]
}

// has reports whether a chunk came from the pack or is to come.
func (b *boot) has(chunk int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.chunks[chunk] || b.got[chunk]
}

// packed reports whether the byte of file ino at off is in a boot pack that was used.
func (l *Layer) packed(ino uint32, off int64) bool {
	b := l.boot.Load()
	if b == nil {
		return false
	}
	chunk, _, ok := l.index.Find(ino, off, 1)
	return ok && b.has(chunk)
}

// awaitBoot waits for the chunks first to last, as far as a boot pack is about to
// bring them.
func (l *Layer) awaitBoot(ctx context.Context, first, last int) {
	b := l.boot.Load()
	if b == nil {
		return
	}
	for c := l.filled.next(first); c <= last; c = l.filled.next(c + 1) {
		b.await(ctx, c)
	}
}

// unpackBoot fills the layer from a boot pack. What does not come from it is fetched
// piecewise later, so that an error only costs time.
func (l *Layer) unpackBoot(b *boot, pack profiles.Blob) {
	result, start := "used", time.Now()
	err := l.readBoot(b, pack)
	if err != nil {
		result = "failed"
		l.log().Warn("boot pack", "pack", pack.Digest, "err", err)
	}
	l.log().Debug("boot pack read", "pack", pack.Digest, "size", pack.Size, "took", time.Since(start))
	l.fs.metrics.boots.WithLabelValues(result).Inc()
	b.step(func() { b.over = true })
}

func (l *Layer) readBoot(b *boot, pack profiles.Blob) error {
	if !l.hold() {
		return errRemoved
	}
	defer l.release()
	blob, err := l.fs.fetcher.Blob(fetcher.Ref{Digest: pack.Digest, Size: pack.Size})
	if err != nil {
		return err
	}
	defer func() { _ = blob.Close() }() // it returns nil
	r, err := blob.Range(l.ctx, 0, pack.Size, fetcher.Prefetch)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	w := &chunkWriter{l: l}
	defer w.close()
	begin := func(chunks []int) {
		b.step(func() {
			clear(b.chunks)
			for _, c := range chunks {
				b.chunks[c] = true
			}
		})
	}
	return l.index.UnpackBoot(r, begin, func(chunk int, data []byte) error {
		if err := w.fill(chunk, data); err != nil {
			return err
		}
		b.step(func() { b.got[chunk] = true })
		return nil
	})
}

// packBoot returns what writes a boot pack of what a container has read of the
// layer, nil if none is worth it: one that covers that was used, or to fetch the
// chunks piecewise takes little more.
func (l *Layer) packBoot(runs []profiles.Run) func(w io.Writer) error {
	var chunks []int
	var content, covered, spans int64
	b := cmp.Or(l.boot.Load(), newBoot(nil))
	for _, run := range runs {
		for c := int(run.First); c < int(run.First+run.Count); c++ {
			chunks = append(chunks, c)
			content += l.index.Chunk(c).Len
			if b.brought(c) {
				covered += l.index.Chunk(c).Len
			}
		}
	}
	for _, e := range l.extents(runs, func(int) bool { return false }) {
		spans += e.Len
	}
	info := l.index.Info()
	packed := float64(content) * float64(info.BlobSize) / float64(max(info.Bytes, 1)) // about
	if !info.Hashes() || len(chunks) > index.MaxBoot || float64(covered) > bootCovers*float64(content) || float64(spans) < bootPays*packed || packed < minBoot || packed > profiles.MaxPack {
		return nil
	}
	return func(w io.Writer) error { return l.index.PackBoot(w, l.inSteps(chunks), l.readChunk) }
}

// inSteps returns chunks in the order in which they are packed: within preloadStep
// bytes that of the blob, because what lies together compresses better together.
func (l *Layer) inSteps(chunks []int) []int {
	out := slices.Clone(chunks)
	from, size := 0, int64(0)
	for i, c := range chunks {
		if size += l.index.Chunk(c).Len; size >= preloadStep || i == len(chunks)-1 {
			slices.Sort(out[from : i+1])
			from, size = i+1, 0
		}
	}
	return out
}

// readChunk reads a chunk from its file, or from wherever it is.
func (l *Layer) readChunk(c index.Chunk, p []byte) error {
	if err := l.ensure(l.ctx, c.Ino, c.Off, c.Len, fetcher.Background); err != nil {
		return err
	}
	f, err := l.fs.files.get(l, c.Ino, false)
	if err != nil {
		return err
	}
	defer f.put()
	if _, err := f.ReadAt(p, c.Off); err != nil {
		return err
	}
	if sha256.Sum256(p) != c.Digest {
		return index.ErrCorrupt
	}
	return nil
}
