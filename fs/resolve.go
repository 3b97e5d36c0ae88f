package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

// minLazy is the size in bytes below which a blob is unpacked at once: its
// index would cost as much as itself.
const minLazy = indexes.MinLayer

// Want describes a layer as its image's manifest and config do.
type Want struct {
	Desc     ocispec.Descriptor // from the manifest, annotations included
	DiffID   digest.Digest      // from the config
	Ref      fetcher.Ref
	Image    digest.Digest // chain ID of the image's uppermost layer; "": not known
	Manifest digest.Digest // of the image; "": not known
	Unpack   bool          // rather than mount it lazily, if it is not here yet
}

// wanted is what an index is looked for by.
func (w Want) wanted() indexes.Wanted {
	return indexes.Wanted{Layer: w.Desc.Digest, DiffID: w.DiffID, Size: w.Desc.Size, Image: indexes.Image{Repo: w.Ref.Repo, Manifest: w.Manifest}}
}

// layerKey is what makes two wants one: a blob, and what it unpacks to.
type layerKey struct {
	blob, diffID digest.Digest
}

// resolution is the work for one layer, shared by all who want it.
type resolution struct {
	done  chan struct{}
	layer *Layer
	err   error
}

// Resolve returns a layer for w once its tree is known and its content is
// either there or can be read at random. The work goes on when ctx ends, and is
// done once however many ask. Errors are those of package fetcher, index's
// ErrDigest and ErrCorrupt, and ErrRefused.
func (f *FS) Resolve(ctx context.Context, w Want) (*Layer, error) {
	hint := f.ask(f.ctx, w)
	l, err := f.share(ctx, w)
	if err == nil {
		l.preload(w.Image, <-hint) // which is there in a moment
	}
	return l, err
}

// share resolves a layer together with all who want it.
func (f *FS) share(ctx context.Context, w Want) (*Layer, error) {
	key := layerKey{w.Desc.Digest, w.DiffID}
	f.mu.Lock()
	if l := f.find(key); l != nil {
		f.mu.Unlock()
		return l, errors.Join(l.usable(), l.alsoFrom(w.Ref))
	}
	r := f.work[key]
	if r == nil {
		r = &resolution{done: make(chan struct{})}
		if !f.start(func() { f.resolve(key, w, r) }) {
			f.mu.Unlock()
			return nil, errClosed
		}
		f.work[key] = r
	}
	f.mu.Unlock()
	select {
	case <-r.done:
		return r.layer, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// find returns the layer of key, one that can be used if there is one. The
// caller holds mu.
func (f *FS) find(key layerKey) (found *Layer) {
	for _, l := range f.layers {
		if l.rec.Blob != key.blob || l.rec.DiffID != key.diffID {
			continue
		}
		if found = l; l.usable() == nil {
			return l
		}
	}
	return found
}

func (f *FS) resolve(key layerKey, w Want, r *resolution) {
	start := time.Now()
	how, l, err := f.tryBuild(w)
	f.mu.Lock()
	if err == nil {
		f.layers[l.id] = l
	}
	delete(f.work, key)
	f.mu.Unlock()
	if err == nil {
		f.recheck(l)
	}
	r.layer, r.err = l, err
	close(r.done)
	if err != nil {
		f.metrics.resolved.WithLabelValues("failed").Inc()
		return
	}
	f.metrics.resolved.WithLabelValues(how).Inc()
	l.log().Info("layer resolved", "how", how, "size", w.Desc.Size, "took", time.Since(start))
	f.wake()
}

// errPeers goes with the error of a blob that was wrong, if bytes of it came from
// peers: others may give the right ones.
var errPeers = errors.New("some bytes came from peers")

// tryBuild makes the layer, a second time if peers gave wrong bytes.
func (f *FS) tryBuild(w Want) (how string, l *Layer, err error) {
	blob, err := f.fetcher.Blob(w.Ref) // remembers who gave them
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = blob.Close() }() // it returns nil
	how, l, err = f.build(w)
	if errors.Is(err, errPeers) {
		f.log.Warn("peers gave wrong bytes of a layer; it is fetched again", "blob", w.Desc.Digest, "err", err)
		return f.build(w)
	}
	return how, l, err
}

// build makes the layer, and removes what it has made if it cannot.
func (f *FS) build(w Want) (how string, l *Layer, err error) {
	id, err := f.slot()
	if err != nil {
		return "", nil, err
	}
	l = f.newLayer(id)
	l.untouched.Store(true)
	l.rec = record{Blob: w.Desc.Digest, Size: w.Desc.Size, DiffID: w.DiffID, Ref: w.Ref}
	if how, err = l.build(w); err != nil {
		err = errors.Join(err, l.close(false), os.RemoveAll(l.dir))
		f.files.forget(id) // deleted files that are open take space
		return "", nil, err
	}
	return how, l, nil
}

// build fills the layer's folder: from a kept index, from the blob's own TOC,
// or by unpacking. The record is written last; a folder without one is nothing.
func (l *Layer) build(w Want) (how string, err error) {
	if err := os.MkdirAll(filepath.Join(l.dir, "data"), 0o700); err != nil {
		return "", err
	}
	large := w.Desc.Size >= minLazy && !w.Unpack
	path := filepath.Join(l.dir, "index")
	switch {
	case large && l.fs.indexes.Link(w.Desc.Digest, w.Desc.Size, w.DiffID, path):
		how, l.rec.Proven = "index", true
	case large && l.fs.unproven && l.fs.tocIndex(l, w):
		how = "toc"
	case large && l.elsewhere(w, path):
		how = l.rec.Pack.From()
	default:
		if how, err = l.unpackOrAwait(w, path, large); err != nil {
			return "", err
		}
	}
	if l.index == nil {
		if err := l.open(); err != nil {
			return "", err
		}
	}
	return how, l.save(l.rec)
}

// elsewhere gives l the index that other hosts, or its image's registry, have of
// its blob.
func (l *Layer) elsewhere(w Want, path string) (ok bool) {
	l.rec.Pack, ok = l.fs.indexes.Find(l.ctx, w.wanted(), path)
	return ok
}

// tocIndex gives l an index made from the TOC in its blob. A TOC that is
// missing, not named by the manifest or wrong makes the layer a plain one.
func (f *FS) tocIndex(l *Layer, w Want) bool {
	blob, err := l.source()
	if err != nil {
		return false
	}
	r := readerAt{ctx: l.ctx, blob: blob}
	o := index.TOCOptions{Blob: w.Desc.Digest, Size: w.Desc.Size, Annotations: w.Desc.Annotations, MediaType: w.Desc.MediaType}
	_, err = index.FromTOC(l.ctx, filepath.Join(l.dir, "index"), r, o)
	if err == nil {
		return true
	}
	if !errors.Is(err, index.ErrNoTOC) {
		l.log().Warn("TOC cannot be used; the layer is unpacked", "err", err)
	}
	return false
}

// readerAt reads a blob for whoever waits to start a container.
type readerAt struct {
	ctx  context.Context
	blob *fetcher.Blob
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.blob.ReadAt(r.ctx, p, off, fetcher.OnDemand)
	if err == nil && n < len(p) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// unpack downloads the blob and fills the layer through w in the blob's order
// while its index is being built.
func (l *Layer) unpack(ctx context.Context, path string, w *chunkWriter) error {
	if err := l.openData(); err != nil {
		return err
	}
	info, err := l.download(ctx, path, w, fetcher.Prefetch)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", l.rec.Blob, err)
	}
	if err := l.open(); err != nil {
		return err
	}
	l.filled.setAll()
	l.fs.metrics.filled.Add(float64(info.Bytes))
	if err := l.extendHoles(l.index); err != nil {
		return err
	}
	if info.Seekable && l.rec.Size >= minLazy {
		l.fs.indexes.Keep(l.rec.Blob, path)
	}
	return nil
}

// download reads the whole blob once, writes its index to path and its content
// to w. A blob that is not what it should be is thrown away.
func (l *Layer) download(ctx context.Context, path string, w index.Sink, prio fetcher.Priority) (index.Info, error) {
	blob, err := l.source()
	if err != nil {
		return index.Info{}, err
	}
	r, err := blob.Range(ctx, 0, l.rec.Size, prio)
	if err != nil {
		return index.Info{}, err
	}
	defer func() { _ = r.Close() }()
	info, err := index.Build(ctx, path, r, index.Options{Blob: l.rec.Blob, Size: l.rec.Size, DiffID: l.rec.DiffID, Sink: w})
	switch {
	case errors.Is(err, index.ErrDigest), errors.Is(err, index.ErrCorrupt):
		if blob.Stats().Fetched["peer"] > 0 {
			err = errors.Join(err, errPeers)
		}
		err = errors.Join(err, blob.Discard(0, l.rec.Size))
	case err == nil && len(blob.Missing(0, l.rec.Size)) == 0:
		if err := blob.MarkVerified(); err != nil {
			l.log().Debug("blob is not marked as verified", "err", err)
		}
	}
	return info, err
}

// extendHoles gives files that end in a hole, of which nothing is ever
// written, their size.
func (l *Layer) extendHoles(x *index.Index) error {
	for ino := uint32(1); ; ino++ {
		in, ok := x.Inode(ino)
		if !ok {
			return nil
		}
		if !isRegular(in.Mode) || in.Size == 0 || in.Dead {
			continue
		}
		if _, _, ok := x.Find(ino, in.Size-1, 1); ok {
			continue
		}
		f, err := l.openBacking(ino, true)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
}
