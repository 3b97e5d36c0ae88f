package fs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

const (
	// maxRun bounds the blob bytes of one flight: a reader that joins it late does
	// not wait longer than these take.
	maxRun = 2 << 20
	// maxBefore bounds the blob bytes that one who waits lets come before those that
	// it waits for, of a flight for which nobody was waiting.
	maxBefore = 512 << 10
)

// flight is a run of neighbouring extents on its way to disk, shared by all who
// wait for a chunk of it.
type flight struct {
	extent index.Extent

	mu      sync.Mutex // guards the fields below
	prio    fetcher.Priority
	body    *fetcher.Reader // what comes of the blob; nil before and after
	changed chan struct{}
	next    int // chunks before this one have been seen
	over    bool
	err     error
}

func newFlight(e index.Extent, prio fetcher.Priority) *flight {
	return &flight{extent: e, prio: prio, next: e.First, changed: make(chan struct{})}
}

// step wakes the waiters: chunk next-1 is there, or the flight is over.
func (f *flight) step(next int, over bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next, f.over, f.err = next, over, err
	close(f.changed)
	f.changed = make(chan struct{})
}

// await returns once chunk has passed, or the flight is over.
func (f *flight) await(ctx context.Context, chunk int) error {
	for {
		f.mu.Lock()
		changed, done, err := f.changed, f.over || f.next > chunk, f.err
		if f.next > chunk {
			err = nil
		}
		f.mu.Unlock()
		if done {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// join reports whether a reader at prio, who wants the extent e, waits for it in
// this flight rather than start one of its own. A flight of lower priority takes
// on that of the reader, unless too much would come before e.
func (f *flight) join(e index.Extent, prio fetcher.Priority, x *index.Index) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.prio <= prio {
		return true
	}
	if f.over || f.next < e.First && e.Off-x.Extent(f.next).Off > maxBefore {
		return false
	}
	f.prio = prio
	if f.body != nil {
		f.body.Raise(prio)
	}
	return true
}

// reads notes what the flight reads, nil at the end.
func (f *flight) reads(r *fetcher.Reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.body = r; r != nil {
		r.Raise(f.prio)
	}
}

func (f *flight) priority() fetcher.Priority {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.prio
}

// ensure returns once bytes [off, off+n) of file ino are in its backing file.
func (l *Layer) ensure(ctx context.Context, ino uint32, off, n int64, prio fetcher.Priority) error {
	first, last, ok := l.index.Find(ino, off, n)
	if !ok {
		return nil
	}
	return l.ensureChunks(ctx, first, last, prio)
}

func (l *Layer) ensureChunks(ctx context.Context, first, last int, prio fetcher.Priority) error {
	if l.complete.Load() || l.filled.hasAll(first, last) {
		return nil
	}
	if prio == fetcher.OnDemand {
		defer l.fs.fetcher.Waits()() // it may be another one's flight, or the boot pack, that it waits for
	}
	if prio != fetcher.Background {
		l.awaitBoot(ctx, first, last)
	}
	type wait struct {
		f     *flight
		chunk int
	}
	var waits []wait
	for c := l.missing(first, last); c <= last; {
		f, err := l.board(c, last, prio)
		if err != nil {
			return err
		}
		upto := min(last, f.extent.Last)
		waits = append(waits, wait{f, upto})
		c = l.missing(upto+1, last)
	}
	for _, w := range waits {
		if err := w.f.await(ctx, w.chunk); err != nil {
			if l.complete.Load() || l.filled.hasAll(first, last) {
				return nil // it failed after these, or another brought them
			}
			return err
		}
	}
	return nil
}

// missing returns the first of chunks c to last that has to be fetched, or
// last+1. On the way it checks what an unclean boot left in doubt, and takes
// what another layer of the blob has.
func (l *Layer) missing(c, last int) int {
	for {
		switch c = l.filled.next(c); {
		case c > last:
			return last + 1
		case l.filled.suspect(c):
			if l.intact(c) {
				l.filled.set(c)
			} else {
				l.filled.drop(c)
			}
		case !l.adopt(c):
			return c
		}
	}
}

// intact reports whether the backing file holds the right bytes of chunk c.
func (l *Layer) intact(c int) bool {
	if !l.index.Info().Hashes() {
		return false // nobody can tell
	}
	ch := l.index.Chunk(c)
	file, err := l.fs.files.get(l, ch.Ino, false)
	if err != nil {
		return false
	}
	defer file.put()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(file, ch.Off, ch.Len)); err != nil {
		return false
	}
	return [sha256.Size]byte(h.Sum(nil)) == ch.Digest
}

// board returns a flight that brings chunk, starting one that goes on as far
// as last if there is none.
func (l *Layer) board(chunk, last int, prio fetcher.Priority) (*flight, error) {
	e := l.extent(chunk)
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.flights[e.First]; f != nil && f.join(e, prio, l.index) {
		return f, nil
	}
	run := l.reach(e, last, maxRun)
	if prio == fetcher.OnDemand {
		run = l.reach(run, l.filled.n-1, run.Len+l.neighbours.grow(run))
	}
	f := newFlight(run, prio)
	if !l.fs.start(func() { l.fly(l.ctx, f) }) {
		return nil, errClosed
	}
	for c := run.First; c <= run.Last; {
		n := l.extent(c)
		l.flights[n.First] = f
		c = n.Last + 1
	}
	return f, nil
}

// reach extends run by the extents behind it, as far as the one of chunk last,
// while they are missing and it does not exceed room blob bytes. The caller
// holds mu.
func (l *Layer) reach(run index.Extent, last int, room int64) index.Extent {
	for run.Last < last {
		n := l.extent(run.Last + 1)
		joined := run.Join(n)
		if joined.Len > room || l.flights[n.First] != nil || l.filled.mayAll(n.First, n.Last) {
			break
		}
		run = joined
	}
	return run
}

// fly runs one flight.
func (l *Layer) fly(ctx context.Context, f *flight) {
	err := errRemoved
	if l.hold() {
		l.log().Debug("fetch", "path", l.index.Path(l.index.Chunk(f.extent.First).Ino), "chunks", f.extent.Last-f.extent.First+1,
			"off", f.extent.Off, "len", f.extent.Len, "priority", f.priority())
		err = l.fetch(ctx, f, func(chunk int) { f.step(chunk+1, false, nil) })
		if errors.Is(err, index.ErrCorrupt) && l.doubtful() {
			err = l.mend(ctx, err)
		}
		l.mu.Lock()
		for c := f.extent.First; c <= f.extent.Last; {
			e := l.extent(c)
			if l.flights[e.First] == f {
				delete(l.flights, e.First)
			}
			c = e.Last + 1
		}
		l.mu.Unlock()
		l.release()
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		l.log().Warn("read from sources", "off", f.extent.Off, "len", f.extent.Len, "err", err)
	}
	f.step(f.extent.First, true, err)
	if err == nil {
		f.step(f.extent.Last+1, true, nil)
	}
}

// maxTries is how often wrong bytes are thrown away and asked for again.
const maxTries = 2

// fetch brings what f is for to disk and calls done after each chunk.
func (l *Layer) fetch(ctx context.Context, f *flight, done func(chunk int)) error {
	w := &chunkWriter{l: l}
	defer w.close()
	if !l.index.Info().Seekable {
		return l.refill(ctx, w, f.priority())
	}
	write := func(chunk int, data []byte) error {
		if err := w.fill(chunk, data); err != nil {
			return err
		}
		if done != nil {
			done(chunk)
		}
		return nil
	}
	err := l.decode(ctx, f, write)
	if errors.Is(err, index.ErrWindow) && ctx.Err() == nil {
		err = l.refillAll(ctx, w, f.priority(), err)
	}
	return err
}

// refillAll unpacks the layer because the host whose index it is read by is gone, and
// nobody else has a window of it, as why says.
func (l *Layer) refillAll(ctx context.Context, w *chunkWriter, prio fetcher.Priority, why error) error {
	l.finalizing.Lock()
	defer l.finalizing.Unlock()
	if l.complete.Load() || l.filled.full() {
		return nil // another reader has had it unpacked
	}
	l.log().Warn("part of the layer's index cannot be had; the layer is unpacked", "index", l.index.Info().ID, "err", why)
	return l.refill(ctx, w, prio)
}

// refill unpacks the whole blob again, into the same backing files. Readers use
// them meanwhile, so that only missing chunks are written, and none unverified.
func (l *Layer) refill(ctx context.Context, w *chunkWriter, prio fetcher.Priority) error {
	dir, err := os.MkdirTemp(l.dir, "again-") // two may be at it
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	_, err = l.download(ctx, filepath.Join(dir, "index"), &verifier{l.index, w.fill}, prio)
	return err
}

// verifier is a sink that takes what an index of the layer says and no other
// bytes.
type verifier struct {
	index *index.Index
	take  func(chunk int, data []byte) error
}

// WriteChunk implements index.Sink.
func (v *verifier) WriteChunk(ino uint32, off int64, data []byte) error {
	if in, ok := v.index.Inode(ino); ok && in.Dead {
		return nil
	}
	n, _, ok := v.index.Find(ino, off, int64(len(data)))
	if !ok {
		return fmt.Errorf("content of inode %d at %d: %w", ino, off, index.ErrCorrupt)
	}
	if c := v.index.Chunk(n); c.Off != off || c.Len != int64(len(data)) || c.Digest != sha256.Sum256(data) {
		return fmt.Errorf("chunk %d: %w", n, index.ErrCorrupt)
	}
	return v.take(n, data)
}

// decode calls fn with every verified chunk of what f is for.
func (l *Layer) decode(ctx context.Context, f *flight, fn func(int, []byte) error) error {
	steps := l.index.Steps(f.extent)
	last := len(steps) - 1
	for _, e := range steps[:last] {
		if err := l.decodeStep(ctx, f, e, func(int, []byte) error { return nil }); err != nil {
			return err
		}
	}
	return l.decodeStep(ctx, f, steps[last], fn)
}

func (l *Layer) decodeStep(ctx context.Context, f *flight, e index.Extent, fn func(int, []byte) error) error {
	blob, err := l.source()
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		r, err := blob.Range(ctx, e.Off, e.Len, f.priority())
		if err == nil {
			f.reads(r)
			err = l.index.Decode(r, e, fn)
			f.reads(nil)
			_ = r.Close()
		}
		if !errors.Is(err, index.ErrCorrupt) {
			return err
		}
		if derr := blob.Discard(e.Off, e.Len); derr != nil || try == maxTries {
			return errors.Join(err, derr)
		}
		l.log().Warn("wrong bytes; asking again", "off", e.Off, "len", e.Len, "err", err)
	}
}

// readDirect reads [off, off+len(p)) of file ino without writing anything, for
// when the disk is full. Holes are left as they are in p.
func (l *Layer) readDirect(ctx context.Context, ino uint32, off int64, p []byte) error {
	first, last, ok := l.index.Find(ino, off, int64(len(p)))
	if !ok {
		return nil
	}
	for c := first; c <= last; {
		e := l.extent(c)
		err := l.decode(ctx, newFlight(e, fetcher.OnDemand), func(chunk int, data []byte) error {
			if ch := l.index.Chunk(chunk); ch.Ino == ino {
				copyAt(p, off, data, ch.Off)
			}
			return nil
		})
		if err != nil {
			return err
		}
		c = e.Last + 1
	}
	return nil
}

// copyAt copies to p, which starts at file offset pOff, what data, which
// starts at dOff, has of it.
func copyAt(p []byte, pOff int64, data []byte, dOff int64) {
	if d := pOff - dOff; d >= int64(len(data)) || -d >= int64(len(p)) {
		return
	} else if d >= 0 {
		copy(p, data[d:])
	} else {
		copy(p[-d:], data)
	}
}

// chunkWriter writes chunks to backing files, keeping the last file open. It
// is the sink of a blob that is indexed while it is unpacked.
type chunkWriter struct {
	l    *Layer
	file *file
	ino  uint32
	last int64 // where in the file it has written last
}

// WriteChunk implements index.Sink.
func (w *chunkWriter) WriteChunk(ino uint32, off int64, data []byte) error {
	if err := w.write(ino, off, data); err != nil {
		if isFull(err) {
			w.l.fs.diskFull()
		}
		return fmt.Errorf("write layer %d: %w", w.l.id, err)
	}
	return nil
}

func (w *chunkWriter) write(ino uint32, off int64, data []byte) error {
	if w.file == nil || w.ino != ino {
		w.close()
		f, err := w.l.fs.files.get(w.l, ino, true)
		if err != nil {
			return err
		}
		w.file, w.ino = f, ino
	}
	_, err := w.file.WriteAt(data, off)
	w.last = off
	return err
}

// fill writes a verified chunk, unless it is there.
func (w *chunkWriter) fill(chunk int, data []byte) error {
	l := w.l
	if l.filled.has(chunk) {
		return nil
	}
	c := l.index.Chunk(chunk)
	if err := w.WriteChunk(c.Ino, c.Off, data); err != nil {
		return err
	}
	l.filled.set(chunk)
	l.fs.metrics.filled.Add(float64(len(data)))
	return nil
}

func (w *chunkWriter) close() {
	if w.file != nil {
		w.file.put()
		w.file = nil
	}
}
