package fs

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// errFound ends unpacking because the layer's index has been found elsewhere.
var errFound = errors.New("the index is there")

// unpackOrAwait unpacks the layer, and looks out for an index meanwhile: one
// that a seed is about to have may come long before this host has the blob. So
// there is nothing to decide beforehand, and waiting costs nothing: what is
// downloaded until then counts in either case.
func (l *Layer) unpackOrAwait(want Want, path string, large bool) (how string, err error) {
	ctx, stop := context.WithCancelCause(l.ctx)
	defer stop(nil)
	w := &chunkWriter{l: l}
	defer w.close()
	late := path + ".late"
	var pack indexes.Pack
	var g sync.WaitGroup
	if large {
		g.Go(func() {
			var ok bool
			if pack, ok = l.late(ctx, want.wanted(), late); ok {
				stop(errFound)
			}
		})
	}
	err = l.unpack(ctx, path, w)
	stop(nil)
	g.Wait()
	if err == nil || l.index != nil || !errors.Is(context.Cause(ctx), errFound) {
		l.rec.Proven = true
		return "unpacked", errors.Join(err, removeIfThere(late))
	}
	w.close()
	return pack.From(), l.change(late, path, pack, w)
}

// late waits for an index from elsewhere, puts it at path, and reports whether
// to go on by that: not when so little of the blob is missing that it would not
// be worth an index by itself.
func (l *Layer) late(ctx context.Context, w indexes.Wanted, path string) (indexes.Pack, bool) {
	pack, ok := l.fs.indexes.Await(ctx, w, path)
	if !ok {
		return pack, false
	}
	if missing := l.lacks(); missing < minLazy {
		l.fs.metrics.late.WithLabelValues("unpacked").Inc()
		l.log().Info("index came when nearly all of the layer was here; unpacking goes on", "missing", missing, "size", l.rec.Size)
		return pack, false
	}
	return pack, true
}

// lacks returns how much of the blob is not on this host.
func (l *Layer) lacks() (n int64) {
	blob, err := l.source()
	if err != nil {
		return 0
	}
	for _, r := range blob.Missing(0, l.rec.Size) {
		n += r.Len
	}
	return n
}

// change makes a layer that w has unpacked in part one that is read by an index
// from elsewhere. What was written is hashed before it is used: only now it is
// known what it should be.
func (l *Layer) change(from, path string, pack indexes.Pack, w *chunkWriter) error {
	if err := os.Rename(from, path); err != nil {
		return err
	}
	l.rec.Pack = pack
	if err := l.open(); err != nil {
		return err
	}
	if _, last, ok := l.index.Find(w.ino, w.last, 1); ok {
		l.filled.doubt(last + 1)
	}
	blob, err := l.source()
	if err != nil {
		return err
	}
	blob.Lazily()
	l.fs.metrics.late.WithLabelValues("mounted").Inc()
	l.log().Info("index came while the layer was being unpacked; it is mounted by that and fills itself", "missing", l.lacks(), "size", l.rec.Size)
	return l.extendHoles(l.index)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
