package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

// mend unpacks a layer whose content is not where another host's index says,
// as lie found. The layer may have the tree of that index if its blob has it;
// then its containers see nothing of all this.
func (l *Layer) mend(ctx context.Context, lie error) error {
	l.finalizing.Lock()
	defer l.finalizing.Unlock()
	if l.complete.Load() || l.filled.full() {
		return nil // another reader has had it mended
	}
	l.log().Error("another host's index of the layer is false; it is unpacked", "index", l.index.Info().ID, "err", lie)
	l.tell(lie)
	dir, err := os.MkdirTemp(l.dir, "again-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	x, err := l.trueIndex(ctx, filepath.Join(dir, "index"))
	if err != nil {
		return err
	}
	defer func() { _ = x.Close() }()
	if err := index.Same(l.index, x); err != nil {
		err = fmt.Errorf("%w: %w", errDiffers, err)
		return errors.Join(err, l.refuse(err))
	}
	w := &chunkWriter{l: l}
	defer w.close()
	write := func(chunk int, data []byte) error {
		c := x.Chunk(chunk)
		return w.WriteChunk(c.Ino, c.Off, data)
	}
	if _, err := l.download(ctx, filepath.Join(dir, "again"), &verifier{x, write}, fetcher.OnDemand); err != nil {
		return err
	}
	if err := l.extendHoles(x); err != nil {
		return err
	}
	l.filled.setAll()
	l.keepProof(filepath.Join(dir, "index"))
	return l.noteProven()
}

// trueIndex makes the index of the layer's blob anew.
func (l *Layer) trueIndex(ctx context.Context, path string) (*index.Index, error) {
	if _, err := l.download(ctx, path, nil, fetcher.OnDemand); err != nil {
		return nil, err
	}
	return index.Open(path)
}
