package indexes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
)

// maxKept bounds the bytes of all kept indexes.
const maxKept = 2 << 30

// offerSuffix marks the file that says how a kept index was offered.
const offerSuffix = ".offer"

// falseSuffix marks the file that says why an index was found false here.
const falseSuffix = ".false"

// path is where the index of a layer is kept.
func (x *Indexes) path(layer digest.Digest) string { return Kept(x.dir, layer) }

// Kept is where the index of a layer is, if it is kept in dir.
func Kept(dir string, layer digest.Digest) string { return filepath.Join(dir, layer.Encoded()) }

// keepFalse writes down that an index is false: a registry goes on offering it.
func (x *Indexes) keepFalse(id digest.Digest, reason string) error {
	return os.WriteFile(x.path(id)+falseSuffix, []byte(reason), 0o600)
}

// loadFalse reads what was written down of false indexes.
func (x *Indexes) loadFalse() error {
	names, err := filepath.Glob(filepath.Join(x.dir, "*"+falseSuffix))
	for _, name := range names {
		id := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(filepath.Base(name), falseSuffix))
		reason, rerr := os.ReadFile(name)
		if err = errors.Join(err, rerr); rerr == nil && id.Validate() == nil {
			x.distrust(id, string(reason))
		}
	}
	return err
}

// Link gives path the kept index of a layer of that size and diffID; it reports
// false if there is none.
func (x *Indexes) Link(layer digest.Digest, size int64, diffID digest.Digest, path string) bool {
	kept := x.path(layer)
	i, err := info(kept)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err != nil {
		x.log.Warn("kept index cannot be used", "blob", layer, "err", err)
		return false
	}
	if i.Blob != layer || i.DiffID != diffID || i.BlobSize != size || !i.Seekable {
		return false
	}
	now := time.Now()
	_ = os.Chtimes(kept, now, now) // only the order of trim suffers
	return os.Link(kept, path) == nil
}

// Keep keeps the index at path, which this host has made of the whole layer, and
// offers it to the cluster. Without it the layer is unpacked again, so an error is
// only reported.
func (x *Indexes) Keep(layer digest.Digest, path string) {
	kept := x.path(layer)
	err := os.Remove(kept)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.Link(path, kept)
	}
	if err != nil {
		x.log.Warn("index not kept", "blob", layer, "err", err)
		return
	}
	x.trim(maxKept)
	x.do(job{layer: layer})
}

func info(path string) (index.Info, error) {
	i, err := index.Open(path)
	if err != nil {
		return index.Info{}, err
	}
	return i.Info(), i.Close()
}

// sweep removes what an earlier process was about to write.
func (x *Indexes) sweep() error {
	names, err := filepath.Glob(filepath.Join(x.dir, ".*"))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// trim removes the kept indexes that were used longest ago until the rest have
// no more than room bytes.
func (x *Indexes) trim(room int64) {
	entries, err := os.ReadDir(x.dir)
	if err != nil {
		x.log.Warn("list kept indexes", "err", err)
		return
	}
	var total int64
	files := make([]os.FileInfo, 0, len(entries))
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			files = append(files, fi)
			total += fi.Size()
		}
	}
	slices.SortFunc(files, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, fi := range files {
		if total <= room {
			return
		}
		if err := os.Remove(filepath.Join(x.dir, fi.Name())); err == nil || errors.Is(err, os.ErrNotExist) {
			total -= fi.Size()
		}
	}
}
