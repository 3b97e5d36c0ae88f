package fs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
)

const (
	backgroundRun = 4 << 20          // blob bytes filled between two looks at what else is going on
	retryAfter    = 30 * time.Second // pause after a layer could not be filled
	fullFor       = 10 * time.Second // how long a full disk stops filling
)

// wake makes the background look for work.
func (f *FS) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// background fills and completes layers, one after the other, oldest first,
// while no reader waits.
func (f *FS) background() {
	for f.ctx.Err() == nil {
		pause := time.Hour
		for _, l := range f.unfinished() {
			err := l.fill(l.ctx) // not f.ctx: a removal waits until the layer is let go
			l.mu.Lock()
			l.failure = err
			l.mu.Unlock()
			if err == nil || errors.Is(err, errRemoved) || l.ctx.Err() != nil {
				continue
			}
			pause = retryAfter
			if !errors.Is(err, errLowSpace) {
				l.log().Warn("filling stopped; trying again later", "err", err)
			}
		}
		select {
		case <-f.ctx.Done():
		case <-f.kick:
		case <-time.After(pause):
		}
	}
}

// unfinished returns the layers with work left to do, oldest first.
func (f *FS) unfinished() []*Layer {
	var ls []*Layer
	for _, l := range f.all() {
		l.mu.Lock()
		todo := l.rec.Placed && l.rec.Refused == "" && !l.complete.Load()
		l.mu.Unlock()
		if todo {
			ls = append(ls, l)
		}
	}
	slices.SortFunc(ls, func(a, b *Layer) int { return cmp.Compare(a.id, b.id) })
	return ls
}

// fill brings what the layer lacks, in the blob's order, and completes it.
func (l *Layer) fill(ctx context.Context) error {
	for {
		done, err := l.fillRun(ctx)
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	// It writes all files to the disk, which a container that starts would feel.
	if err := l.fs.waitQuiet(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := l.finalize(ctx); err != nil {
		return err
	}
	l.log().Info("layer complete", "took", time.Since(start))
	return nil
}

// fillRun fills one run and reports whether nothing is missing any more.
func (l *Layer) fillRun(ctx context.Context) (done bool, err error) {
	if !l.hold() {
		return false, errRemoved
	}
	defer l.release()
	c := l.filled.next(0)
	if c >= l.filled.n {
		return true, nil
	}
	if err := l.fs.waitQuiet(ctx); err != nil {
		return false, err
	}
	if err := l.fs.space(); err != nil {
		return false, err
	}
	e := l.extent(c)
	if l.missing(e.First, e.Last) > e.Last {
		return false, nil // it needs no fetching: on to the next
	}
	for e.Last+1 < l.filled.n && e.Len < backgroundRun {
		n := l.extent(e.Last + 1)
		if l.missing(n.First, n.Last) > n.Last {
			break
		}
		e = e.Join(n)
	}
	return false, l.fetch(l.ctx, newFlight(e, fetcher.Background), nil)
}

// touch notes that a container is about to start: its reads shall find the link free.
func (f *FS) touch() { f.touched.Store(time.Now().UnixNano()) }

// fetchAhead starts fn, which brings what a container is about to read. Until that is
// here it is not quiet, however long nobody has read. It reports whether the FS is open.
func (f *FS) fetchAhead(fn func()) bool {
	f.ahead.Add(1)
	began := f.start(func() {
		defer f.ahead.Add(-1)
		defer f.touch()
		fn()
	})
	if !began {
		f.ahead.Add(-1)
	}
	return began
}

// waitQuiet returns once for a while no reader has waited, no container was about to
// start, and nothing was on its way for one.
func (f *FS) waitQuiet(ctx context.Context) error {
	for {
		if err := f.fetcher.WaitQuiet(ctx, f.quiet); err != nil {
			return err
		}
		left := f.quiet - time.Since(time.Unix(0, f.touched.Load()))
		if f.ahead.Load() > 0 {
			left = f.quiet
		}
		if left <= 0 {
			return nil
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// comparer is a sink that checks what it is given against the backing files.
type comparer struct {
	l    *Layer
	file *file
	buf  []byte
}

// WriteChunk implements index.Sink.
func (c *comparer) WriteChunk(ino uint32, off int64, data []byte) error {
	if c.file == nil || c.file.key.ino != ino {
		c.close()
		if in, ok := c.l.index.Inode(ino); !ok || in.Dead {
			return nil // replaced later in the tar; the trees are compared at the end
		}
		f, err := c.l.fs.files.get(c.l, ino, false)
		if errors.Is(err, unix.ENOENT) && c.l.hole(ino, off, int64(len(data))) { // never written
			return zeros(data)
		}
		if err != nil {
			return err
		}
		c.file = f
	}
	if len(c.buf) < len(data) {
		c.buf = make([]byte, len(data))
	}
	if _, err := c.file.ReadAt(c.buf[:len(data)], off); err != nil {
		return err
	}
	if !bytes.Equal(c.buf[:len(data)], data) {
		return errDiffers
	}
	return nil
}

func zeros(data []byte) error {
	if len(bytes.TrimLeft(data, "\x00")) > 0 {
		return errDiffers
	}
	return nil
}

func (c *comparer) close() {
	if c.file != nil {
		c.file.put()
		c.file = nil
	}
}
